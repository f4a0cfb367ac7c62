"""A checked run as a pipeline, and what its manifest will tell of it."""

import importlib.metadata
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam

from pipeline.devices_elsewhere import worker_config
from pipeline.graph import LoadedModel, build
from pipeline.options import count_slots, flag_names, is_in_process, runner_kind
from pipeline.pairs import find_accelerators
from pipeline.profiles import told_flags
from pipeline.run_records import Checked, RunRequest
from pipeline.submitting import new_pipeline
from transforms.inputs import InputSource
from transforms.publishing import (
    ChallengerFacts,
    RunFacts,
)
from transforms.redaction import redact_flags, redact_value
from transforms.scoring import Scorer
from transforms.staging import Adopted, StagedTable
from transforms.tables import FAILURES_SCHEMA

_PACKAGES = ("score-images", "apache-beam", "tensorflow", "keras", "pyarrow", "numpy", "pillow", "simplejpeg")


def build_pipeline(request: RunRequest, checked: Checked, adopted: Adopted | None = None) -> beam.Pipeline:
    """Put a run into a pipeline.

    Args:
        request: The run.
        checked: What was found of it.
        adopted: What an earlier attempt has scored; None where it is not asked.
    """
    scorer, challenger, options = checked.model.scorer, checked.model.challenger, checked.flags.options
    facts = RunFacts(
        layout=checked.layout,
        limits=request.config.limits,
        write=request.config.write,
        schemas={
            "scores": scorer.schema,
            "failures": FAILURES_SCHEMA,
            **{table.table: table.schema for table in challenger_tables(checked.model)},
        },
        file_metadata=scorer.file_metadata(),
        manifest={**_manifest(request, checked), "since_run": checked.chain and checked.chain.record()},
        overwrite=request.overwrite,
        publish_anyway=request.publish_anyway,
        health=checked.health,
        challenger=None
        if challenger is None
        else ChallengerFacts(challenger.file_metadata(), _told_of_model(challenger, _where(options))),
    )
    pipeline = new_pipeline(options)
    earlier = checked.chain.files if checked.chain else ()
    with_gpu = bool(find_accelerators(options.get_all_options()))
    config = request.config if runner_kind(options) == "local" else worker_config(request.config, with_gpu=with_gpu)
    files = adopted.files if adopted else ()
    build(pipeline, config, checked.sources, facts, checked.model, files, earlier, count_slots(options))
    return pipeline


def challenger_tables(model: LoadedModel) -> list[StagedTable]:
    """Return the tables of a challenger; none where there is none."""
    challenger = model.challenger
    if challenger is None:
        return []
    return [
        StagedTable("scores_challenger", challenger.schema, challenger.file_metadata()),
        StagedTable("failures_challenger", FAILURES_SCHEMA, {}),
    ]


def told_inputs(sources: Sequence[InputSource]) -> list[dict[str, str]]:
    """Return inputs as a manifest tells them."""
    return [{"kind": source.kind, "path": source.path} for source in sources]


def _manifest(request: RunRequest, checked: Checked) -> dict[str, Any]:
    scorer, flags = checked.model.scorer, checked.flags
    # Analysts read it: it says what was asked for without the secrets in it. What a run is and does is never decided by
    # what it says here, except whether a request asks for the same, which compares it with what would be said.
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": redact_value(told_inputs(checked.sources)),
        **_told_of_model(scorer, _where(flags.options)),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "config": request.config.told(),
        "profile": request.profile,
        "beam_flags": redact_flags(request.beam_flags),
        "effective_flags": list(told_flags(flags.words, flag_names())),
    }


def _where(options: beam.options.pipeline_options.PipelineOptions) -> str:
    """Say where models were loaded; workers elsewhere choose their devices and measure their batches themselves."""
    return "" if is_in_process(options) else "on the launcher: "


def _told_of_model(scorer: Scorer, where: str) -> dict[str, Any]:
    return {
        "model_id": scorer.classifier.model_id,
        "num_classes": scorer.meaning.num_classes,
        "output": scorer.meaning.output,
        "activation": scorer.meaning.activation,
        "activation_reason": scorer.meaning.reason,
        "fingerprints": scorer.fingerprints,
        "execution": {what: reason and f"{where}{reason}" for what, reason in scorer.execution.items()},
    }
