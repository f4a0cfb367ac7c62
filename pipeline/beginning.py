"""How a run begins: what is checked before a byte is written, and what an earlier attempt has left."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.before.golden import check_golden
from pipeline.broken_off import FULL
from pipeline.devices_elsewhere import launcher_config
from pipeline.elsewhere import check_no_job, name_job
from pipeline.graph import LoadedModel, load
from pipeline.options import find_flags, runner_kind
from pipeline.places import check_places_of_workers
from pipeline.run_pipeline import challenger_tables, told_inputs
from pipeline.run_records import Checked, Prepared, RunRequest
from pipeline.submitting import check_credentials
from transforms import moving, storage
from transforms.baselines import open_baseline
from transforms.claims import RunClaim
from transforms.earlier_runs import Chain, check_since, find_chain, open_chain
from transforms.errors import ConfigError
from transforms.health import HealthPlan
from transforms.inputs import InputSource, check_not_empty, parse_input
from transforms.layout import LATEST, RunLayout, absolute_folder, check_run_id, new_run_id
from transforms.outcomes import is_published
from transforms.publishing import complete, pending_manifest
from transforms.publishing_plan import check_places
from transforms.redaction import redact_value
from transforms.scoring import Scorer
from transforms.staging import claim_staging, read_identity

_LOG = logging.getLogger(__name__)


def layout_of(request: RunRequest) -> RunLayout:
    """Return where a run goes; one without a name gets a new one."""
    if not request.output.strip():
        raise ConfigError("output is empty: give the folder or URL that holds all runs")
    try:
        request.output.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"output {request.output!a} is not valid UTF-8; give another folder") from error
    layout = RunLayout(
        absolute_folder(request.output),
        check_run_id(request.run_id) if request.run_id is not None else new_run_id(datetime.now(UTC)),
    )
    if request.since_run is not None:
        check_since(layout, request.since_run)
    return layout


def _unusable(request: RunRequest, how: str, error: OSError) -> ConfigError:
    way_out = "make room there" if error.errno in FULL else "give a folder or bucket that this process may write"
    return ConfigError(f"output {request.output} cannot be {how}: {error}; {way_out}")


def _find(request: RunRequest, layout: RunLayout, claim: RunClaim) -> str | None:
    """Return why nothing has to be scored; None where it has."""
    if storage.stat(layout.plan) is not None:
        claim.take()  # who has written the plan may be carrying it out
    pending = pending_manifest(layout)
    if pending is not None:
        complete(layout)
        _LOG.info("publishing run %s was interrupted and is complete now", layout.run_id)
        # An overwriting run that is repeated after a kill is complete now; one that wants something else goes on.
        if not request.overwrite or _asks_for(request, pending):
            return f"run {layout.run_id} was scored before, and its publishing is complete now: {layout.output}"
    if is_published(layout) and not request.overwrite:
        found = f"run {layout.run_id} is already published in {layout.output}: nothing was done"
        if storage.stat(layout.staged_identity) is None:
            return found
        return f"{found}; an attempt to replace it has left its work in {layout.staging}: continue it with --overwrite"
    return None


def _asks_for(request: RunRequest, manifest: dict[str, Any]) -> bool:
    """Tell whether a request has the inputs and the configuration of a manifest, and is a delta where that is one."""
    followed = manifest.get("since_run")
    if request.since_run not in ((LATEST, followed["run_id"]) if followed else (None,)):
        return False
    wanted = {"inputs": redact_value(told_inputs(_sources(request))), "config": request.config.told()}
    return all(manifest[key] == value for key, value in wanted.items())


def _sources(request: RunRequest) -> tuple[InputSource, ...]:
    return tuple(parse_input(text, request.path_column) for text in request.inputs)


def prepare(request: RunRequest, layout: RunLayout, claim: RunClaim) -> Prepared | str:
    """Begin or continue a run, when all that it needs is right; or return why nothing has to be scored.

    Raises:
        ConfigError: It cannot start; nothing was written.
    """
    try:
        found = _find(request, layout, claim)
    except OSError as error:
        raise _unusable(request, "used", error) from error
    return _begin(request, check(request, layout), claim) if found is None else found


def check(request: RunRequest, layout: RunLayout, *, sent: bool = True) -> Checked:
    """Check everything that can be before a run begins, and load the model; nothing is written.

    Args:
        request: The run.
        layout: Where it goes.
        sent: Whether it will be handed to an engine, which asks who is there.

    Raises:
        ConfigError: The run cannot start.
    """
    flags = find_flags(request.profile, request.beam_flags)
    check_places_of_workers(request.config, request.inputs, request.output, flags, shared_disk=request.shared_disk)
    if sent:
        check_credentials(flags.options)
    job = name_job(flags.options, layout)
    sources = _sources(request)
    for source in sources:
        check_not_empty(source, request.config.input)
    config = request.config if runner_kind(flags.options) == "local" else launcher_config(request.config)
    model = load(config, request.loading)
    check_golden(model.scorer, request.config)
    chain = _chain(request, layout, model)
    return Checked(layout, sources, flags, chain, _health(request, layout, model.scorer), job, model)


def _begin(request: RunRequest, checked: Checked, claim: RunClaim) -> Prepared | str:
    layout, scorer = checked.layout, checked.model.scorer
    identity = _identity(checked.model, checked.sources, checked.chain)
    tables = challenger_tables(checked.model)
    try:
        claim.take()
        check_no_job(checked.flags.options, layout)  # before what it has staged is looked at
        check_places(layout)
        found = _find(request, layout, claim)  # another launcher may have been at work while the model was loaded
        if found is not None:
            return found
        adopted = claim_staging(layout, identity, scorer.schema, scorer.file_metadata(), tables)
        for stale in layout.refusal:
            moving.delete_file(stale)
    except OSError as error:
        raise _unusable(request, "written", error) from error
    if adopted.rows:
        _LOG.info("run %s goes on: %d images were scored before", layout.run_id, adopted.rows)
    return Prepared(checked, adopted)


def _chain(request: RunRequest, layout: RunLayout, model: LoadedModel) -> Chain | None:
    """Return the runs that a delta follows; None for a full night."""
    if request.since_run is None:
        return None
    begun = (read_identity(layout) if request.since_run == LATEST else None) or {}
    # Another run may have been published since this one was begun: it goes on as it was begun.
    try:
        run_ids = begun["since_run"] if "since_run" in begun else find_chain(layout, request.since_run)
        rival = None if model.challenger is None else model.challenger.fingerprints
        chain = open_chain(layout, run_ids, model.scorer.fingerprints, rival)
    except OSError as error:
        raise ConfigError(f"--since-run {request.since_run} of {request.output} cannot be read: {error}") from error
    _LOG.info("%s", chain)
    return chain


def _health(request: RunRequest, layout: RunLayout, scorer: Scorer) -> HealthPlan:
    settings = request.config.health
    try:
        baseline, without = open_baseline(layout, settings)
    except OSError as error:
        raise ConfigError(
            f"health.baseline {settings.baseline} of {request.output} cannot be read: {error}; try again, or leave it "
            "out to compare with none"
        ) from error
    return HealthPlan(
        settings=settings,
        labels=tuple(scorer.labels),
        independent=scorer.meaning.independent,
        model_id=scorer.classifier.model_id,
        fingerprints=scorer.fingerprints,
        baseline=baseline,
        without=without,
    )


def _identity(model: LoadedModel, sources: Sequence[InputSource], chain: Chain | None) -> dict[str, Any]:
    """Return what a run is begun with: another attempt must have the same, or one run would mix two."""
    delta = {} if chain is None else {"since_run": [run.run_id for run in chain.runs]}
    inputs = [[source.kind, source.path, source.path_column, _manifest_version(source)] for source in sources]
    rival = {} if model.challenger is None else {"challenger": _identity_of(model.challenger)}
    return {**_identity_of(model.scorer), **rival, "inputs": sorted(inputs, key=str), **delta}


def _identity_of(scorer: Scorer) -> dict[str, str]:
    return {**scorer.fingerprints, "model_id": scorer.classifier.model_id}


def _manifest_version(source: InputSource) -> str | None:
    # A folder may lose and gain images between two attempts; a manifest that says something else is another input.
    if source.kind in ("file", "folder", "glob"):
        return None
    found = storage.stat(source.path)
    return found.version if found else None
