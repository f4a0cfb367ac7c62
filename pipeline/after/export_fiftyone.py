"""A published run as the JSON that `fiftyone.Dataset.from_json` loads: a sample an image, its labels with confidence.

FiftyOne holds no copies of images, only their paths, and opens local files only: paths of stores are given the place
where they are mounted or copied to.
"""

import json
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

from pipeline.after.export_source import Block, ExportSource
from transforms import storage
from transforms.errors import ConfigError

_LABEL = "fiftyone.core.fields.EmbeddedDocumentField(fiftyone.core.labels.{})"
_FLOAT, _TEXT = "fiftyone.core.fields.FloatField", "fiftyone.core.fields.StringField"
_COLUMNS = (
    "image_path", "image_width", "image_height", "image_bytes", "image_format", "predicted_label",
    "predicted_probability", "top_k", "margin", "entropy", "positive_labels", "model_id", "scored_at",
)  # fmt: skip


class Prefix(NamedTuple):
    """Where the images lie for FiftyOne."""

    old: str
    """The beginning of their paths in the run."""
    new: str
    """What stands there instead."""

    def applied(self, path: str) -> str:
        """Return the path with the new beginning; as it is, if it begins otherwise."""
        return self.new + path[len(self.old) :] if path.startswith(self.old) else path


def parse_prefix(text: str) -> Prefix:
    """Read FROM=TO.

    Raises:
        ConfigError: It is of another form.

    >>> parse_prefix("s3://photos/=/mnt/photos/")
    Prefix(old='s3://photos/', new='/mnt/photos/')
    """
    old, sign, new = text.partition("=")
    if not (old and sign and new.startswith("/")):
        raise ConfigError(
            f"--replace-prefix must be FROM=TO with a local folder as TO, got {text}; s3://photos/=/mnt/photos/ for "
            "example"
        )
    return Prefix(old, new)


def write_fiftyone(source: ExportSource, path: str, *, prefix: Prefix | None) -> int:
    """Write the file, a sample a line.

    Args:
        source: The rows.
        path: Of the file.
        prefix: Replaced in the path of each image.

    Returns:
        How many samples there are.
    """
    rows = 0
    with open(path, "x", encoding="utf-8") as file:
        _write_head(file, source)
        for block in source.blocks(_COLUMNS):
            for sample in _samples(source, block, prefix):
                file.write(",\n" if rows else "\n")
                json.dump(sample, file, ensure_ascii=False, allow_nan=False)
                rows += 1
        file.write("\n]}\n")
    return rows


def _write_head(file: IO[str], source: ExportSource) -> None:
    run = source.run
    fields = {
        "prediction": _LABEL.format("Classification"),
        "top_k": _LABEL.format("Classifications"),
        "margin": _FLOAT,
        "entropy": _FLOAT,
        "model_id": _TEXT,
        "scored_at": _TEXT,
    }
    if run.activation == "sigmoid":
        fields["positive"] = _LABEL.format("Classifications")
    if source.truth is not None:
        fields["ground_truth"] = _LABEL.format("Classifications" if run.independent else "Classification")
    head = {
        "name": f"score-images {run.layout.run_id}",
        "media_type": "image",
        "sample_fields": fields,
        "info": {"run_id": run.layout.run_id, "output": run.layout.output},
        "default_classes": list(run.labels),
    }
    file.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "samples": [')


def _samples(source: ExportSource, block: Block, prefix: Prefix | None) -> Iterator[dict[str, Any]]:
    run = source.run
    labels = run.labels
    for row, truth in zip(block.rows.to_pylist(), source.true_classes(block.positions), strict=True):
        sample: dict[str, Any] = {
            "filepath": _local(row["image_path"], prefix),
            "metadata": {
                "_cls": "ImageMetadata",
                "size_bytes": row["image_bytes"],
                "mime_type": f"image/{row['image_format']}",
                "width": row["image_width"],
                "height": row["image_height"],
            },
            "prediction": _classification(row["predicted_label"], row["predicted_probability"]),
            "top_k": _classifications([(entry["label"], entry["probability"]) for entry in row["top_k"]]),
            "margin": row["margin"],
            "entropy": row["entropy"],
            "model_id": row["model_id"],
            # A text: from_json leaves dates as the objects that MongoDB's JSON has for them.
            "scored_at": row["scored_at"].isoformat(),
        }
        if row["positive_labels"] is not None:
            sample["positive"] = _classifications([(label, None) for label in row["positive_labels"]])
        if truth is not None:
            named = [(labels[index], None) for index in truth]
            sample["ground_truth"] = _classifications(named) if run.independent else _classification(*named[0])
        yield sample


def _local(path: str, prefix: Prefix | None) -> str:
    local = prefix.applied(path) if prefix else path
    if storage.is_remote(local):
        raise ConfigError(
            f"image {local} lies in a store, and FiftyOne opens local files: mount the store or copy the images, and "
            "name the place with --replace-prefix, --replace-prefix s3://photos/=/mnt/photos/ for example"
        )
    return local


def _classification(label: str, confidence: float | None) -> dict[str, Any]:
    found = {"_cls": "Classification", "label": label}
    return found if confidence is None else {**found, "confidence": confidence}


def _classifications(entries: Sequence[tuple[str, float | None]]) -> dict[str, Any]:
    return {"_cls": "Classifications", "classifications": [_classification(*entry) for entry in entries]}
