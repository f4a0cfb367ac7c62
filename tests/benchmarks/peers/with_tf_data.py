"""tf.data by hand: parallel map, batch, prefetch, and a Parquet writer behind them."""

from typing import Any

import tensorflow as tf

from tests.benchmarks.peers.common import CROP, SIZE, RowGroups, load_classifier, photo_paths, read_job, to_table

# Method and antialias of tf.image.resize.
INTERPOLATIONS = {
    "bicubic": ("bicubic", True),
    "bilinear": ("bilinear", True),
    "bilinear_no_antialias": ("bilinear", False),
    "area": ("area", False),
}


def main() -> None:
    """Score a folder."""
    job = read_job(__doc__)
    method, antialias = INTERPOLATIONS[job.interpolation]

    def load(path: Any) -> Any:
        data = tf.io.read_file(path)
        shape = tf.io.extract_jpeg_shape(data)
        side = tf.cast(tf.cast(tf.minimum(shape[0], shape[1]), tf.float32) * CROP, tf.int32)
        window = tf.stack([(shape[0] - side) // 2, (shape[1] - side) // 2, side, side])
        # Decoding stops at the crop; INTEGER_FAST, the default, would change pixels.
        image = tf.image.decode_and_crop_jpeg(data, window, channels=3, dct_method="INTEGER_ACCURATE")
        resized = tf.image.resize(image, (SIZE, SIZE), method=method, antialias=antialias)
        return path, tf.saturate_cast(tf.round(resized), tf.uint8)

    options = tf.data.Options()
    options.deterministic = False
    batches = (
        tf.data.Dataset.from_tensor_slices(photo_paths(job))
        .map(load, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(job.batch)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
    )
    classify = load_classifier(job.model)
    writer = RowGroups(job.output)
    for paths, pixels in batches:
        writer.write(to_table([path.decode() for path in paths.numpy()], classify(pixels)))
    writer.close()


if __name__ == "__main__":
    main()
