"""What is printed when a run is over, for a person or as one line of JSON."""

import json
import re
import shlex

from pipeline.run_records import RunResult
from transforms.errors import ExitCode
from transforms.redaction import printable, tell


def summary(result: RunResult) -> str:
    """Say how a run ended: the ledger, where the time went, where the output lies, what to ask next."""
    layout, outcome = result.layout, result.outcome
    report = [f"  report    {printable(result.report)}"] if result.report else []
    if result.found is not None:
        return "\n".join([tell(result.found), *report])
    ledger = outcome.ledger
    lines = [
        tell(outcome.message),
        f"  listed    {ledger.listed} = {ledger.unique} unique + {ledger.duplicates} duplicates",
        f"  unique    {ledger.unique} = {ledger.scored} scored + {ledger.failed} failed + {ledger.skipped} skipped",
    ]
    if outcome.failures_by_code:
        codes = ", ".join(f"{count} {code}" for code, count in outcome.failures_by_code.items())
        lines.append(f"  failures  {codes}")
    if ledger.challenger_scored is not None:
        counts = f"{ledger.challenger_scored} scored + {ledger.challenger_failed} failed"
        codes = ", ".join(f"{count} {code}" for code, count in outcome.challenger_failures_by_code.items())
        lines.append(f"  challenger  of {ledger.scored}: {counts}{f' ({codes})' if codes else ''}")
    if ledger.skipped:
        lines.append(
            f"  skipped   {ledger.skipped} are as run {result.since}, or one that it relies on, has scored them"
        )
    if outcome.health and not outcome.drifted:  # else the first line says it
        lines.append(f"  health    {tell(outcome.health)}")
    if result.adopted:
        lines.append(f"  resumed   {result.adopted} of the scored images come from an earlier attempt")
    done = ledger.scored + ledger.failed - result.adopted
    rate = done / result.pipeline_seconds if result.pipeline_seconds else 0.0
    lines.append(
        f"  time      {result.startup_seconds:.1f} s start-up, {result.pipeline_seconds:.1f} s for {done} images: "
        f"{rate:.1f} images/s"
    )
    spent = {step: result.counts.get(f"{step}_ms", 0) / 1e3 for step in ("read", "decode", "model", "write")}
    if ledger.challenger_scored is not None:
        spent["challenger"] = result.counts.get("challenge_model_ms", 0) / 1e3
    where = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in spent.items())
    lines.append(f"  spent in  {where} (summed over threads, they overlap)")
    if outcome.exit_code is ExitCode.PUBLISHED:
        lines += [
            f"  scores    {printable(layout.published_table('scores'))}",
            f"  failures  {printable(layout.published_table('failures'))}",
            *_challenger_places(result),
            f"  manifest  {printable(layout.manifest)}",
            *report,
            f"  ask       duckdb -c {printable(shlex.quote(_query(layout.published_table('scores'))))}",
        ]
    else:
        lines += report
    return "\n".join(lines)


def outcome_json(result: RunResult) -> str:
    """Return what `summary` says as one line of JSON, for programs."""
    layout, outcome = result.layout, result.outcome
    published = outcome.exit_code is ExitCode.PUBLISHED
    with_challenger = outcome.ledger.challenger_scored is not None
    said = {
        "run_id": layout.run_id,
        "output": layout.output,
        "exit_code": int(outcome.exit_code),
        "message": outcome.message if result.found is None else result.found,
        "found": result.found is not None,
        "ledger": {name: count for name, count in outcome.ledger._asdict().items() if count is not None},
        "failures_by_code": outcome.failures_by_code,
        "health": outcome.health or None,
        "drifted": outcome.drifted,
        "adopted_images": result.adopted,
        "startup_seconds": round(result.startup_seconds, 3),
        "pipeline_seconds": round(result.pipeline_seconds, 3),
        "counters": result.counts,
        "scores": layout.published_table("scores") if published else None,
        "failures": layout.published_table("failures") if published else None,
        "scores_challenger": layout.published_table("scores_challenger") if published and with_challenger else None,
        "manifest": layout.manifest if published else None,
        "report": result.report,
    }
    return json.dumps({key: tell(value) if isinstance(value, str) else value for key, value in said.items()})


def _challenger_places(result: RunResult) -> list[str]:
    if result.outcome.ledger.challenger_scored is None:
        return []
    return [f"  challenger  {printable(result.layout.published_table('scores_challenger'))}"]


def _query(folder: str) -> str:
    """Return SQL for a person to paste: labels by how many images they have."""
    # A file's name in double quotes, so that the shell can have the single ones; its own stars and brackets are
    # names, not patterns.
    files = re.sub(r"[*?\[]", r"[\g<0>]", folder).replace('"', '""')
    columns = "predicted_label, count(*) AS images, avg(predicted_probability) AS confidence"
    return f'SELECT {columns} FROM "{files}/*.parquet" GROUP BY ALL ORDER BY images DESC LIMIT 10'  # noqa: S608
