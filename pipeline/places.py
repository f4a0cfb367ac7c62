"""What workers on other machines can see."""

from collections.abc import Iterator, Sequence

from pipeline.config import RunConfig
from pipeline.options import Flags, runner_kind
from pipeline.pairs import check_device, check_reachable
from transforms.settings import LabelSettings, ModelSettings


def check_places_of_workers(
    config: RunConfig, inputs: Sequence[str], output: str, flags: Flags, *, shared_disk: bool
) -> None:
    """Refuse paths and devices that the workers of a run do not have.

    Args:
        config: The configuration.
        inputs: As the user gave them.
        output: The folder of all runs.
        flags: Where the run is carried out.
        shared_disk: All machines have the local paths under the same names.

    Raises:
        ConfigError: Something is on this machine only, or the workers have no such device.
    """
    places = list(_places(config, inputs, output))
    if runner_kind(flags.options) == "dataflow":
        check_reachable(places, cluster=False)
        values = flags.options.get_all_options()
        check_device(config.model.device, values)
        if config.challenger is not None:
            check_device(config.challenger.model.device, values, "challenger.model.device")
    elif flags.profile is not None and flags.profile.runner == "flink" and not shared_disk:
        check_reachable(places, cluster=True)


def _places(config: RunConfig, inputs: Sequence[str], output: str) -> Iterator[tuple[str, str]]:
    """Yield what workers open; golden images are the launcher's alone."""
    yield from (("input", text.removeprefix("@")) for text in inputs)
    yield "output", output
    yield from _places_of_model("", config.model, config.labels)
    if config.challenger is not None:
        yield from _places_of_model("challenger.", config.challenger.model, config.challenger.labels)


def _places_of_model(section: str, model: ModelSettings, labels: LabelSettings | None) -> Iterator[tuple[str, str]]:
    yield f"{section}model.path", model.path
    if labels is None:
        return  # a challenger's are those of the first model
    if labels.path is not None:
        yield f"{section}labels.path", labels.path
    if isinstance(labels.thresholds, str):
        yield f"{section}labels.thresholds", labels.thresholds
