"""The Arrow schemas of the two tables, and the functions that fill them without an object a value.

The shapes are those of design.md: probabilities are one fixed-size list a row, so that a batch of N images
and C classes is wrapped, not copied, and every engine reads a plain LIST column.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.probabilities import Summary
from transforms.records import DECODERS, FORMATS, Failure, ImageInfo, ImageRef
from transforms.redaction import redact

METADATA_PREFIX = "score_images."
FINGERPRINT_KEY = "fingerprint."

_STRING_DICTIONARY = pa.dictionary(pa.int32(), pa.string())
_TOP_K_ITEM = pa.struct(
    [
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("probability", pa.float32(), nullable=False),
    ]
)
_TOP_K = pa.list_(pa.field("element", _TOP_K_ITEM, nullable=False))
_TOP_K_FIELDS = list(_TOP_K_ITEM)
_LABELS = pa.list_(pa.field("element", pa.string(), nullable=False))
_TIME = pa.timestamp("us", tz="UTC")
_FORMATS = {name: code for code, name in enumerate(FORMATS)}
_DECODERS = {name: code for code, name in enumerate(DECODERS)}

FAILURES_SCHEMA = pa.schema(
    [
        pa.field("image_path", pa.string(), nullable=False),
        pa.field("image_version", pa.string()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("image_bytes", pa.int64()),
        pa.field("failed_at", _TIME, nullable=False),
    ]
)


def scores_schema(num_classes: int, *, with_logits: bool) -> pa.Schema:
    """Return the schema of the scores table.

    Args:
        num_classes: C, the width of the probability vector.
        with_logits: Add the raw output of the model.
    """
    # Unpickling a fixed-size list type forgets the name and nullability of its item (pyarrow 25): the defaults stay.
    vector = pa.list_(pa.float32(), num_classes)
    fields = [
        pa.field("image_path", pa.string(), nullable=False),
        pa.field("image_version", pa.string()),
        pa.field("image_width", pa.int32(), nullable=False),
        pa.field("image_height", pa.int32(), nullable=False),
        pa.field("image_format", _STRING_DICTIONARY, nullable=False),
        pa.field("image_bytes", pa.int64(), nullable=False),
        pa.field("image_decoder", _STRING_DICTIONARY, nullable=False),
        pa.field("probabilities", vector, nullable=False),
        pa.field("predicted_index", pa.int32(), nullable=False),
        pa.field("predicted_label", _STRING_DICTIONARY, nullable=False),
        pa.field("predicted_probability", pa.float32(), nullable=False),
        pa.field("top_k", _TOP_K, nullable=False),
        pa.field("margin", pa.float32(), nullable=False),
        pa.field("entropy", pa.float32(), nullable=False),
        pa.field("positive_labels", _LABELS),
        pa.field("model_id", _STRING_DICTIONARY, nullable=False),
        pa.field("scored_at", _TIME, nullable=False),
    ]
    if with_logits:
        # A one-unit head has one logit and two probabilities: the width is the model's own.
        vector = pa.list_(pa.field("element", pa.float32(), nullable=False))
        fields.insert(-2, pa.field("logits", vector, nullable=False))
    return pa.schema(fields)


def scores_batch(
    schema: pa.Schema,
    refs: Sequence[ImageRef],
    infos: Sequence[ImageInfo],
    probabilities: npt.NDArray[np.float32],
    summary: Summary,
    labels: pa.Array,
    model_id: str,
    scored_at_us: int,
    positive: npt.NDArray[np.bool_] | None,
    raw: npt.NDArray[np.float32],
) -> pa.RecordBatch:
    """Fill the scores table for one batch.

    Args:
        schema: From scores_schema.
        refs: N images.
        infos: N descriptions.
        probabilities: float32[N, C], in label order.
        summary: Top-k int32[N, k] and float32[N, k], margin float32[N], entropy float32[N] in nats.
        labels: C strings; dictionary-encoded ones save encoding them for every batch.
        model_id: name@fingerprint.
        scored_at_us: Microseconds since the epoch, UTC.
        positive: bool[N, C] of the labels over their threshold; None for softmax.
        raw: float32[N, U], the model's own output; written where the schema has `logits`.

    Returns:
        N rows.
    """
    count = len(refs)
    index, probability = summary.top_k
    first = pa.array(index[:, 0])
    # Two classes may share a label (ImageNet's cranes), and pandas takes no dictionary that names one twice.
    names = labels.dictionary_encode()
    # Taken apart at once: name by name took three times as long.
    paths, _, versions = zip(*refs, strict=True) if refs else ((),) * 3
    widths, heights, formats, sizes, decoders = zip(*infos, strict=True) if infos else ((),) * 5
    columns: dict[str, pa.Array] = {
        "image_path": pa.array(paths, pa.string()),
        "image_version": pa.array(versions, pa.string()),
        "image_width": pa.array(widths, pa.int32()),
        "image_height": pa.array(heights, pa.int32()),
        "image_format": _encode(formats, _FORMATS),
        "image_bytes": pa.array(sizes, pa.int64()),
        "image_decoder": _encode(decoders, _DECODERS),
        "probabilities": pa.FixedSizeListArray.from_arrays(
            _flat(probabilities), type=schema.field("probabilities").type
        ),
        "predicted_index": first,
        "predicted_label": pa.DictionaryArray.from_arrays(names.indices.take(first), names.dictionary),
        "predicted_probability": pa.array(np.ascontiguousarray(probability[:, 0])),
        "top_k": _top_k_array(index, probability, names),
        "margin": pa.array(summary.margin),
        "entropy": pa.array(summary.entropy),
        "positive_labels": _positive_array(count, positive, names),
        "model_id": pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([model_id])),
        "scored_at": pa.array(np.full(count, scored_at_us, np.int64)).view(_TIME),
    }
    if "logits" in schema.names:
        columns["logits"] = _list_array(schema.field("logits").type, np.full(count, raw.shape[1]), _flat(raw))
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


def _flat(values: npt.NDArray[np.float32]) -> pa.Array:
    return pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))


def _encode(values: Sequence[str], known: Mapping[str, int]) -> pa.DictionaryArray:
    # One dictionary for all batches, so that concatenated batches need no unification.
    indices = pa.array([known.get(value) for value in values], pa.int32())
    if indices.null_count:
        raise ValueError(f"one of {sorted(set(values))} is not among {list(known)}: add it to records.py")
    return pa.DictionaryArray.from_arrays(indices, pa.array(list(known)))


def _strings(labels: pa.DictionaryArray, index: pa.Array) -> pa.Array:
    return labels.dictionary.take(labels.indices.take(index))


def _list_array(list_type: pa.DataType, lengths: npt.NDArray[np.integer], values: pa.Array) -> pa.ListArray:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=list_type)


def _top_k_array(
    index: npt.NDArray[np.int32], probability: npt.NDArray[np.float32], labels: pa.DictionaryArray
) -> pa.ListArray:
    count, k = index.shape
    flat_index = pa.array(np.ascontiguousarray(index).reshape(-1))
    ranks = pa.array(np.tile(np.arange(1, k + 1, dtype=np.int32), count))
    items = pa.StructArray.from_arrays(
        [ranks, flat_index, _strings(labels, flat_index), _flat(probability)], fields=_TOP_K_FIELDS
    )
    return _list_array(_TOP_K, np.full(count, k), items)


def _positive_array(count: int, positive: npt.NDArray[np.bool_] | None, labels: pa.DictionaryArray) -> pa.Array:
    if positive is None:
        return pa.nulls(count, _LABELS)
    return _list_array(_LABELS, positive.sum(axis=1), _strings(labels, pa.array(np.nonzero(positive)[1])))


def failures_batch(failures: Sequence[Failure]) -> pa.RecordBatch:
    """Fill the failures table: one row a failure, in order."""
    return pa.record_batch(
        {
            "image_path": pa.array([failure.ref.path for failure in failures], pa.string()),
            "image_version": pa.array([failure.ref.version for failure in failures], pa.string()),
            "stage": pa.array([str(failure.stage) for failure in failures], pa.string()),
            "code": pa.array([str(failure.code) for failure in failures], pa.string()),
            # A message may quote a name that is not UTF-8, and no table can hold that.
            "message": pa.array(
                [redact(failure.message).encode("utf-8", "backslashreplace").decode() for failure in failures],
                pa.string(),
            ),
            "image_bytes": pa.array([failure.ref.size_bytes for failure in failures], pa.int64()),
            "failed_at": pa.array([failure.failed_at_us for failure in failures], pa.int64()).view(_TIME),
        },
        schema=FAILURES_SCHEMA,
    )


def file_metadata(entries: Mapping[str, str]) -> dict[str, str]:
    """Prefix the key-value metadata of a Parquet file, so that it meets no other tool's keys."""
    return {METADATA_PREFIX + key: value for key, value in entries.items()}
