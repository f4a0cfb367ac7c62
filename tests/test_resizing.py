"""Crop and resize: equal to the libraries that models were trained with, for every size."""

import math
import shutil

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transforms import resizing
from transforms.resizing import fit, resize
from transforms.settings import PreprocessSettings

Pixels = npt.NDArray[np.uint8]

INTERPOLATIONS = (
    "bicubic",
    "bilinear",
    "lanczos",
    "box",
    "nearest",
    "bilinear_no_antialias",
    "bilinear_legacy",
    "area",
)
SIZES = [
    (1, 1),  # one pixel
    (1, 10000),  # a line
    (10000, 1),
    (3, 65000),  # longer than OpenCV's 16-bit limits
    (65000, 3),
    (224, 192),  # already right
    (375, 500),  # an ordinary photo
    (100, 75),  # smaller than the model's input
]


def photo(height: int, width: int, seed: int = 0) -> Pixels:
    """Return smooth colours with noise, so that neither a shift nor a filter goes unseen."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    return np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


def how(**options: object) -> PreprocessSettings:
    """Return preprocessing with these options."""
    return PreprocessSettings.model_validate({"value_range": "0_255", **options})


def slow_bilinear(pixels: Pixels, height: int, width: int, *, half_pixel_centers: bool) -> npt.NDArray[np.float64]:
    """Interpolate pixel by pixel, as the definition says."""
    out = np.zeros((height, width, 3))
    rows, columns = pixels.shape[:2]
    shift = 0.5 if half_pixel_centers else 0.0
    for i in range(height):
        for j in range(width):
            y = min(max((i + shift) * rows / height - shift, 0.0), rows - 1.0)
            x = min(max((j + shift) * columns / width - shift, 0.0), columns - 1.0)
            top, left = math.floor(y), math.floor(x)
            for row, row_share in ((top, 1 - y + top), (min(top + 1, rows - 1), y - top)):
                for column, share in ((left, 1 - x + left), (min(left + 1, columns - 1), x - left)):
                    out[i, j] += row_share * share * pixels[row, column]
    return out


class TestShape:
    @pytest.mark.parametrize("size", SIZES, ids=str)
    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    @pytest.mark.parametrize(
        "options",
        [
            {"crop_pct": 0.875},
            {"crop_pct": 0.875, "crop_order": "after_resize"},
            {"resize": "exact", "crop_pct": 0.875},
            {"resize": "letterbox"},
        ],
        ids=["before", "after", "exact", "letterbox"],
    )
    def test_every_size_becomes_exactly_the_models_input(
        self, size: tuple[int, int], interpolation: str, options: dict[str, object]
    ) -> None:
        """Any image, however small or long, gives C-contiguous uint8 of the size asked for; grey stays grey."""
        pixels = np.full((*size, 3), 77, np.uint8)
        fitted = fit(pixels, how(interpolation=interpolation, pad_color=(77, 77, 77), **options), 224, 192)
        assert fitted.shape == (224, 192, 3)
        assert fitted.dtype == np.uint8
        assert fitted.flags.c_contiguous
        assert fitted.min() == fitted.max() == 77

    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    def test_layout_in_memory_changes_nothing(self, interpolation: str) -> None:
        """Turned, mirrored and cropped views are read as what they show."""
        for view in (photo(90, 70).swapaxes(0, 1), photo(70, 90)[::-1, ::-1], photo(100, 120)[5:75, 7:97]):
            expected = resize(np.ascontiguousarray(view), interpolation, 40, 30)
            np.testing.assert_array_equal(resize(view, interpolation, 40, 30), expected)

    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    def test_image_of_the_right_size_is_left_as_it_is(self, interpolation: str) -> None:
        """Nothing is resampled where nothing has to be."""
        pixels = photo(32, 48)
        np.testing.assert_array_equal(fit(pixels, how(interpolation=interpolation), 32, 48), pixels)

    def test_input_is_never_written_to(self) -> None:
        """Decoders hand over read-only arrays."""
        pixels = photo(50, 60)
        pixels.flags.writeable = False
        for interpolation in INTERPOLATIONS:
            fit(pixels, how(interpolation=interpolation, resize="letterbox"), 32, 32)


needs_compiler = pytest.mark.skipif(
    resizing.compiled() is None, reason="transforms._resample was not built: there was no C compiler at installation"
)


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")
def test_kernel_is_built_where_there_is_a_compiler() -> None:
    """The build may fail without stopping the installation: here it must not."""
    assert resizing.compiled() is not None


@needs_compiler
class TestCompiled:
    @given(
        st.sampled_from(["bicubic", "bilinear", "lanczos", "box"]),
        st.tuples(*[st.one_of(st.integers(1, 8), st.integers(1, 300))] * 4),
        st.integers(0, 2**32 - 1),
        st.booleans(),
    )
    @settings(deadline=None, max_examples=400)
    def test_every_sample_is_the_one_that_pillow_returns(
        self, interpolation: str, sizes: tuple[int, int, int, int], seed: int, extreme: bool
    ) -> None:
        """Larger or smaller, narrow or wide, a view or whole, samples of all values or of 0 and 255 that overshoot."""
        rows, columns, height, width = sizes
        pixels = np.random.default_rng(seed).integers(0, 256, (rows + 2, columns + 3, 3), np.uint8)
        if extreme:
            pixels = (pixels >> 7) * np.uint8(255)
        view = pixels[1 : rows + 1, 2 : columns + 2]
        image = Image.fromarray(np.ascontiguousarray(view))
        expected = np.asarray(image.resize((width, height), resizing.PILLOW_FILTERS[interpolation]))
        np.testing.assert_array_equal(resize(view, interpolation, height, width), expected)

    @pytest.mark.parametrize("size", [(301, 3), (300, 3), (3, 301), (10000, 1), (1, 10000), (65000, 3)], ids=str)
    def test_very_narrow_image_is_the_one_that_pillow_returns(self, size: tuple[int, int]) -> None:
        """Pillow takes the columns first where an image is over 100 times as tall as wide."""
        pixels = photo(*size)
        for height, width in ((152, 344), (224, 2), (400, 400)):
            expected = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
            np.testing.assert_array_equal(resize(pixels, "bicubic", height, width), expected)

    @pytest.mark.parametrize(
        ("source", "target", "kind", "message"),
        [
            # two axes
            (np.zeros((4, 4), np.uint8), np.zeros((2, 2, 3), np.uint8), "box", r"source must be uint8\[H, W, 3\]"),
            # four channels
            (np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2, 4), np.uint8), "box", "target must be uint8"),
            # no rows
            (np.zeros((0, 4, 3), np.uint8), np.zeros((2, 2, 3), np.uint8), "box", "source must be uint8"),
            # every second sample
            (np.zeros((4, 8, 3), np.uint8)[:, ::2], np.zeros((2, 2, 3), np.uint8), "box", "samples of a row of source"),
            # rows apart
            (np.zeros((4, 4, 3), np.uint8), np.zeros((2, 4, 3), np.uint8)[:, :2], "box", "and its rows as well"),
            (np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2, 3), np.uint8), "mitchell", "got mitchell"),
        ],
    )
    def test_kernel_refuses_what_it_cannot_read(self, source: Pixels, target: Pixels, kind: str, message: str) -> None:
        """It works on raw memory: whatever it is given is checked first."""
        resample = resizing.compiled()
        assert resample is not None
        with pytest.raises(ValueError, match=message):
            resample(source, target, kind)

    def test_kernel_never_writes_to_read_only_memory(self) -> None:
        """A decoder's buffer given as the target is refused."""
        resample = resizing.compiled()
        assert resample is not None
        target = np.zeros((2, 2, 3), np.uint8)
        target.flags.writeable = False
        with pytest.raises((ValueError, BufferError)):
            resample(np.zeros((4, 4, 3), np.uint8), target, "box")


class TestWithoutCompiler:
    def test_pillow_resizes_to_the_same_pixels_and_it_is_said(self, monkeypatch, caplog) -> None:
        """An installation without a C compiler scores the same, more slowly, and says what to do."""

        def absent(name: str) -> None:
            raise ImportError(name)

        pixels = photo(120, 90)
        with_kernel = resize(pixels, "bicubic", 40, 30)
        resizing.compiled.cache_clear()
        monkeypatch.setattr(resizing.importlib, "import_module", absent)
        try:
            without = resize(pixels, "bicubic", 40, 30)
        finally:
            resizing.compiled.cache_clear()
        np.testing.assert_array_equal(without, with_kernel)
        assert "the compiled kernel was not built; install again where a C compiler is" in caplog.text


class TestCropBeforeResize:
    def test_reference_pixels_of_a_real_model_are_met_exactly(self, image_data_dir) -> None:
        """The pixels that EfficientNet-Lite0's reference logits were computed from, on 40 photos, to the last bit."""
        reference = np.load(image_data_dir / "efficientnet_lite0_reference.npz")
        for name, expected in zip(reference["files"][:40], reference["pixels_first40"], strict=True):
            with Image.open(image_data_dir / "photos" / str(name)) as image:
                pixels = np.asarray(image.convert("RGB"))
            np.testing.assert_array_equal(fit(pixels, how(crop_pct=0.875), 224, 224), expected, err_msg=str(name))

    @pytest.mark.parametrize(
        ("size", "target", "crop_pct", "crop"),
        [
            # (rows, columns) of the image, of the target; the crop as (top, left, rows, columns)
            ((375, 500), (224, 224), 0.875, (23, 86, 328, 328)),
            ((500, 375), (224, 224), 0.875, (86, 23, 328, 328)),
            # an odd rest goes to the bottom and the right
            ((10, 13), (5, 5), 1.0, (0, 1, 10, 10)),
            # a wide target out of a square image: full width, half of the height
            ((100, 100), (10, 20), 1.0, (25, 0, 50, 100)),
            # a tall target out of a wide image
            ((100, 300), (20, 10), 0.5, (25, 137, 50, 25)),
            # never less than one pixel
            ((1, 10000), (224, 224), 0.1, (0, 4999, 1, 1)),
            ((3, 3), (1, 1000), 0.1, (1, 1, 1, 1)),
        ],
    )
    def test_crop_is_the_largest_centred_rectangle_times_crop_pct(
        self, size: tuple[int, int], target: tuple[int, int], crop_pct: float, crop: tuple[int, int, int, int]
    ) -> None:
        """The crop has the target's shape, whole pixels, and lies in the middle."""
        pixels = photo(*size)
        top, left, rows, columns = crop
        expected = resize(pixels[top : top + rows, left : left + columns], "bicubic", *target)
        np.testing.assert_array_equal(fit(pixels, how(crop_pct=crop_pct), *target), expected)

    @given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 1.0))
    @settings(deadline=None)
    def test_crop_never_leaves_the_image(
        self, rows: int, columns: int, height: int, width: int, crop_pct: float
    ) -> None:
        """Whatever the shapes, there is something to resize and it comes from inside."""
        pixels = np.full((rows, columns, 3), 9, np.uint8)
        assert (fit(pixels, how(crop_pct=crop_pct), height, width) == 9).all()


class TestCropAfterResize:
    @pytest.mark.parametrize(
        ("size", "target", "crop_pct", "resized", "corner"),
        [
            # (rows, columns) resized to, and the crop's corner, as timm and torchvision have them
            ((375, 500), (224, 224), 0.875, (256, 341), (16, 58)),  # (341 - 224) / 2 = 58.5: halves go to even
            ((500, 333), (224, 224), 0.875, (384, 256), (80, 16)),
            ((375, 500), (224, 224), 1.0, (224, 298), (0, 37)),
            ((375, 500), (224, 224), 0.95, (235, 313), (6, 44)),  # floor(235.8); 5.5 to even is 6, 44.5 is 44
            ((480, 640), (384, 384), 1.0, (384, 512), (0, 64)),
            ((100, 100), (299, 299), 0.9, (332, 332), (16, 16)),  # floor(332.2); 16.5 to even is 16
            ((300, 300), (100, 200), 0.5, (400, 400), (150, 100)),  # a wide target: its width decides
        ],
    )
    def test_size_and_corner_are_those_of_timm(
        self,
        size: tuple[int, int],
        target: tuple[int, int],
        crop_pct: float,
        resized: tuple[int, int],
        corner: tuple[int, int],
    ) -> None:
        """The shortest edge becomes floor(size / crop_pct), the other is cut down to whole pixels."""
        pixels = photo(*size)
        image = Image.fromarray(pixels).resize((resized[1], resized[0]), Image.Resampling.BICUBIC)
        top, left = corner
        expected = np.asarray(image)[top : top + target[0], left : left + target[1]]
        options = how(crop_pct=crop_pct, crop_order="after_resize")
        np.testing.assert_array_equal(fit(pixels, options, *target), expected)

    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    def test_extremely_long_image_shows_its_middle(self, interpolation: str) -> None:
        """A line whose ends are black and whose middle is white is white, without 1.5 GB in between."""
        pixels = np.zeros((1, 10000, 3), np.uint8)
        pixels[:, 4900:5100] = 255
        options = how(crop_pct=0.875, crop_order="after_resize", interpolation=interpolation)
        assert fit(pixels, options, 224, 224).min() == 255
        assert fit(pixels.swapaxes(0, 1), options, 224, 224).min() == 255


class TestExact:
    def test_whole_image_is_squashed(self) -> None:
        """Without a crop every pixel counts, and the shape of things is lost."""
        pixels = photo(40, 90)
        expected = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(fit(pixels, how(resize="exact"), 32, 32), expected)

    def test_crop_takes_the_same_share_of_both_edges(self) -> None:
        """crop_pct keeps the central share of each axis before squashing, in either order."""
        pixels = photo(40, 90)
        expected = resize(pixels[10:30, 22:67], "bicubic", 32, 32)
        for order in ("before_resize", "after_resize"):
            squashed = fit(pixels, how(resize="exact", crop_pct=0.5, crop_order=order), 32, 32)
            np.testing.assert_array_equal(squashed, expected)


class TestLetterbox:
    @pytest.mark.parametrize(
        ("size", "target", "inside"),
        [
            # (rows, columns); where the picture comes to lie, as (top, left, rows, columns)
            ((50, 100), (32, 32), (8, 0, 16, 32)),
            ((100, 50), (32, 32), (0, 8, 32, 16)),
            ((100, 33), (32, 32), (0, 10, 32, 11)),  # 21 columns are left: 10 before, 11 after
            ((1, 10000), (32, 32), (15, 0, 1, 32)),
            ((10, 10), (30, 50), (0, 10, 30, 30)),
        ],
    )
    def test_whole_image_lies_in_the_middle_between_bars(
        self, size: tuple[int, int], target: tuple[int, int], inside: tuple[int, int, int, int]
    ) -> None:
        """Nothing is cut off, the shape is kept, and the rest has the colour asked for."""
        pixels = photo(*size)
        top, left, rows, columns = inside
        expected = np.full((*target, 3), (10, 20, 30), np.uint8)
        expected[top : top + rows, left : left + columns] = resize(pixels, "bicubic", rows, columns)
        np.testing.assert_array_equal(fit(pixels, how(resize="letterbox", pad_color=(10, 20, 30)), *target), expected)


class TestInterpolation:
    @pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "box", "nearest"])
    def test_antialiased_filters_are_pillows(self, interpolation: str) -> None:
        """Each name is the filter of that name."""
        pixels = photo(101, 67)
        expected = Image.fromarray(pixels).resize((31, 29), Image.Resampling[interpolation.upper()])
        np.testing.assert_array_equal(resize(pixels, interpolation, 29, 31), expected)

    @pytest.mark.parametrize(("size", "target"), [((101, 67), (29, 31)), ((5, 9), (29, 31)), ((1, 3), (4, 4))])
    @pytest.mark.parametrize("half_pixel_centers", [True, False])
    def test_plain_bilinear_is_its_definition(
        self, size: tuple[int, int], target: tuple[int, int], half_pixel_centers: bool
    ) -> None:
        """Both plain bilinear filters agree with a loop over pixels in float64, within rounding."""
        pixels = photo(*size)
        name = "bilinear_no_antialias" if half_pixel_centers else "bilinear_legacy"
        slow = slow_bilinear(pixels, *target, half_pixel_centers=half_pixel_centers)
        assert np.abs(resize(pixels, name, *target) - slow).max() <= 0.501

    @pytest.mark.parametrize(
        ("size", "target"),
        [((375, 500), (224, 224)), ((328, 328), (224, 224)), ((75, 100), (299, 299)), ((7, 3000), (64, 64))],
    )
    def test_plain_bilinear_is_tensorflows_to_the_last_bit(
        self, size: tuple[int, int], target: tuple[int, int]
    ) -> None:
        """bilinear_no_antialias is tf.image.resize's default, bilinear_legacy TensorFlow 1's, both rounded."""
        import tensorflow as tf

        pixels = photo(*size)
        default = tf.raw_ops.ResizeBilinear(
            images=pixels[None], size=target, align_corners=False, half_pixel_centers=True
        )[0]
        np.testing.assert_array_equal(default, tf.image.resize(pixels, target))
        legacy = tf.raw_ops.ResizeBilinear(
            images=pixels[None], size=target, align_corners=False, half_pixel_centers=False
        )[0]
        np.testing.assert_array_equal(resize(pixels, "bilinear_no_antialias", *target), np.rint(default))
        np.testing.assert_array_equal(resize(pixels, "bilinear_legacy", *target), np.rint(legacy))

    @pytest.mark.parametrize("size", [(96, 64), (375, 500)])
    def test_plain_bilinear_is_opencvs_within_rounding(self, size: tuple[int, int]) -> None:
        """INTER_LINEAR on float32 is the same filter: at most one of 255 apart, where rounding tips over."""
        import cv2

        pixels = photo(*size)
        other = np.rint(cv2.resize(pixels.astype(np.float32), (31, 29), interpolation=cv2.INTER_LINEAR))
        assert np.abs(resize(pixels, "bilinear_no_antialias", 29, 31) - other).max() <= 1

    def test_area_is_the_mean_of_what_a_pixel_covers(self) -> None:
        """At a whole factor INTER_AREA is the plain mean of each block."""
        pixels = photo(96, 64)
        means = pixels.reshape(24, 4, 16, 4, 3).mean(axis=(1, 3))
        assert np.abs(resize(pixels, "area", 24, 16) - means).max() <= 0.5

    def test_opencv_starts_no_threads_of_its_own(self) -> None:
        """The caller decides how many images are prepared beside each other."""
        import cv2

        resize(photo(96, 64), "area", 24, 16)
        assert cv2.getNumThreads() == 1
