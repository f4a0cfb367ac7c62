"""A fitted calibration as text for a person, and as lines for a configuration."""

from pipeline.after.calibrate import Calibration
from pipeline.after.evaluate_text import matching_lines
from transforms import storage
from transforms.errors import ConfigError
from transforms.redaction import printable


def calibration_text(fitted: Calibration) -> str:
    """Say what was fitted, from what, and what it gains; the lines to paste come last."""
    kind = "temperature" if fitted.settings.temperature is not None else "Platt scaling"
    lines = [
        f"run {fitted.run_id} of model {printable(fitted.model_id)}: {kind} fitted from its {fitted.source}",
        *matching_lines(fitted.counts),
        f"  fit       {_measured(fitted)}",
        "",
        "            before   after",
    ]
    for name, before, after in zip(("NLL", "Brier", "ECE"), fitted.before, fitted.after, strict=True):
        lines.append(f"  {name:<8}  {before:6.4f}  {after:6.4f}")
    if fitted.after.nll >= fitted.before.nll:
        lines.append("  NLL did not fall: the published probabilities are as good as this fit makes them")
    return "\n".join([*lines, "", fitted.config_lines().rstrip()])


def _measured(fitted: Calibration) -> str:
    if fitted.held_out:
        return f"on {fitted.fitted_on} images, before and after measured on the {fitted.measured_on} others"
    return (
        f"on {fitted.fitted_on} images, before and after measured on the same ones, which flatters the fit; "
        "--holdout 0.5 measures on others"
    )


def write_lines(fitted: Calibration, path: str) -> None:
    """Write the lines of a calibration to a new file.

    Raises:
        ConfigError: There is a file already, or it cannot be written.
    """
    place = storage.absolute(path)
    model = printable(fitted.model_id)
    comment = f"# Fitted on {fitted.fitted_on} images of run {fitted.run_id}; belongs to model {model}.\n"
    try:
        if storage.stat(place) is not None:
            raise ConfigError(
                f"--write {path}: there is a file already, and these lines are no whole configuration; "
                "name a new file and paste from it"
            )
        storage.write_bytes(place, (comment + fitted.config_lines()).encode())
    except OSError as error:
        raise ConfigError(f"--write {path} cannot be written: {error}") from error
