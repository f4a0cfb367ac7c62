"""An export as text for a person: what was written, and how run and truth fit together."""

from pipeline.after.export import Exported, Target
from pipeline.after.published import PublishedRun
from transforms.redaction import printable


def exported_text(run: PublishedRun, target: Target, done: Exported) -> str:
    """Say what was written."""
    lines = [f"run {run.layout.run_id}: {done.rows:,} images for {target} in {printable(done.path)}"]
    if done.counts is not None:
        counts = done.counts
        lines.append(
            f"  truth     {counts.matched:,} images matched by {counts.matched_by}, read as {counts.reading}; "
            f"{counts.scored_without_truth:,} scored images without truth"
        )
        missing = counts.truth_failed + counts.truth_not_in_run
        if missing:
            example = printable(counts.truth_without_scores_examples[0])
            lines.append(
                f"            {missing:,} images of the truth without scores, {counts.truth_failed:,} of them failed; "
                f"first: {example}"
            )
    return "\n".join(lines)
