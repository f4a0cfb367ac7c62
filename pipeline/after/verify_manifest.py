"""What a manifest has to say for a run to be held against it, and whether it says the same as its files."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, StrictInt

from pipeline.after.published import PublishedRun
from transforms import storage
from transforms.layout import ALL_TABLES, TABLES, RunLayout, Table
from transforms.ledger import Ledger
from transforms.tables import METADATA_PREFIX

_FINGERPRINT = f"{METADATA_PREFIX}fingerprint."


class File(BaseModel):
    """What the manifest says of one file."""

    table: Table
    """Its table."""
    path: str
    """Below the output."""
    rows: StrictInt
    """How many it holds."""
    size_bytes: StrictInt
    """Of the whole file."""
    sha256: str
    """Of the whole file, in hex."""


class _Results(BaseModel):
    top_k: Annotated[StrictInt, Field(ge=1)] | None = None


class _Config(BaseModel):
    results: _Results = _Results()


class ModelFacts(BaseModel):
    """What a manifest says of a model."""

    model_id: str
    """Of all its rows."""
    num_classes: StrictInt | None = None
    """Columns of the probabilities; None where it is not said, as of what follows."""
    output: str | None = None
    """logits or probabilities."""
    activation: str | None = None
    """softmax, sigmoid or none."""
    fingerprints: dict[str, str] = {}
    """What made the scores: none only where the files say none either."""


class Challenger(ModelFacts):
    """What a manifest says of a challenger."""

    failures_by_code: dict[str, StrictInt]
    """Rows of its failures."""


class Manifest(ModelFacts):
    """What is read of a manifest."""

    run_id: str
    """The run."""
    ledger: Ledger
    """Where every image went."""
    failures_by_code: dict[str, StrictInt]
    """Rows of the failures table."""
    files: list[File]
    """Of all tables."""
    challenger: Challenger | None = None
    """A second model; None where there was none."""
    versions: dict[str, str] = {}
    """Of the packages that made them."""
    distributions: dict[str, Any] | None = None
    """How the answers are distributed; None in manifests of a time when they did not say it."""
    config: _Config = _Config()
    """Of the run."""

    @property
    def tables(self) -> tuple[Table, ...]:
        """Those that the run must have."""
        return TABLES if self.challenger is None else ALL_TABLES

    def model_of(self, table: Table) -> ModelFacts:
        """Return the model whose scores a table holds."""
        return self.challenger if table == "scores_challenger" and self.challenger is not None else self


def split_files(manifest: Manifest, layout: RunLayout) -> tuple[list[File], list[str]]:
    """Return the files that lie in the folders of their tables, each once, and what is wrong with the others."""
    files: dict[str, File] = {}
    wrong = []
    for file in manifest.files:
        if file.table not in manifest.tables:
            wrong.append(f"it names {file.path} of the table {file.table}, and no challenger")
        elif storage.parent(storage.join(layout.output, file.path)) != layout.published_table(file.table):
            wrong.append(f"it names {file.path}, which is no file of its table {file.table}")
        elif file.path in files:
            wrong.append(f"it names {file.path} twice")
        else:
            files[file.path] = file
    return list(files.values()), wrong


def contradictions(
    manifest: ModelFacts, run: PublishedRun, metadata: Mapping[bytes, bytes]
) -> Iterator[tuple[str, str]]:
    """Hold what the manifest says of a model against what its files say of themselves.

    Args:
        manifest: The manifest, or what it says of the challenger.
        run: As the files describe it.
        metadata: The key-value metadata of the files.

    Yields:
        The promise that is broken, and how.
    """
    said = {_text(key): _text(value) for key, value in metadata.items()}
    pairs: tuple[tuple[str, str, Any, Any], ...] = (
        ("model", "model_id", said.get(f"{METADATA_PREFIX}model_id"), manifest.model_id),
        ("schemas", "output", run.output, manifest.output),
        ("schemas", "activation", run.activation, manifest.activation),
    )
    for promise, name, of_files, of_manifest in pairs:
        if None not in (of_files, of_manifest) and of_files != of_manifest:
            what = "" if promise == name.removesuffix("_id") else f"{name} "
            yield promise, f"files say {what}{of_files}, the manifest says {of_manifest}"
    made_with = {key.removeprefix(_FINGERPRINT): value for key, value in said.items() if key.startswith(_FINGERPRINT)}
    for name in sorted({*made_with, *manifest.fingerprints}):
        of_files, of_manifest = made_with.get(name), manifest.fingerprints.get(name)
        if of_files != of_manifest:
            yield "identity", f"files say {name} {of_files}, the manifest says {of_manifest}"


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")
