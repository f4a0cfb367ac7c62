"""What a run is asked for, what is found of it before it begins, and how it ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.config import RunConfig
from pipeline.graph import LoadedModel
from pipeline.options import Flags
from transforms.contest import Contest
from transforms.earlier_runs import Chain
from transforms.health import HealthPlan
from transforms.inputs import DEFAULT_PATH_COLUMN, InputSource
from transforms.layout import RunLayout
from transforms.outcomes import Outcome
from transforms.staging import Adopted


@dataclass(frozen=True)
class RunRequest:
    """What a user asks for."""

    config: RunConfig
    """How to score."""
    inputs: Sequence[str]
    """Files, folders, globs, manifests."""
    output: str
    """Folder or URL that holds all runs."""
    run_id: str | None = None
    """The run's name; None makes one of the time."""
    overwrite: bool = False
    """Replace a published run of that name."""
    publish_anyway: bool = False
    """Publish in spite of the limits on failures."""
    since_run: str | None = None
    """Skip what this published run, or one that it relies on, has scored as it is: its id, or `latest`."""
    path_column: str = DEFAULT_PATH_COLUMN
    """The column of manifests that holds the paths."""
    beam_flags: Sequence[str] = ()
    """Beam's own flags; they win over those of the profile."""
    profile: str | None = None
    """Where it is carried out: one of pipeline.profiles; None takes beam_flags as they are."""
    shared_disk: bool = False
    """All machines of a cluster have the local paths under the same names."""
    show_progress: bool = True
    """Bar or log lines."""
    began: float | None = None
    """When the user's command began, by time.monotonic(): importing and loading have been going on since; None for
    when it is carried out."""
    loading: Callable[[], Contest] | None = field(default=None, repr=False)
    """Gives the models of config, where they are being loaded already; None loads them when they are needed."""


class RunResult(NamedTuple):
    """How a run ended, and what it took."""

    layout: RunLayout
    """Where everything lies."""
    outcome: Outcome
    """Published or refused."""
    found: str | None
    """Why nothing had to be scored; None where it had."""
    adopted: int
    """Images scored by an earlier attempt of the same run."""
    startup_seconds: float
    """Until the pipeline was launched: libraries, checks and loading the model."""
    pipeline_seconds: float
    """From launch to end."""
    counts: dict[str, int]
    """`<verb>_<unit>` sums; thread time in ms."""
    since: str | None = None
    """The run that this one is a delta of; None where it is none."""
    report: str | None = None
    """Where the page about it lies; None where there is none."""


@dataclass(frozen=True)
class Checked:
    """A run of which everything is known that can be without writing a byte."""

    layout: RunLayout
    """Where it goes."""
    sources: tuple[InputSource, ...]
    """What is listed."""
    flags: Flags
    """Where it is carried out."""
    chain: Chain | None
    """The runs that it follows."""
    health: HealthPlan
    """What its answers are held against before they are published."""
    job: str | None
    """The name of its job on an engine elsewhere; None where the run ends with this process."""
    model: LoadedModel = field(repr=False)
    """Loaded."""


@dataclass(frozen=True)
class Prepared:
    """A run that has begun."""

    checked: Checked
    """What was found before."""
    adopted: Adopted
    """What an earlier attempt has scored."""

    @property
    def layout(self) -> RunLayout:
        """Where it goes."""
        return self.checked.layout
