"""Two models in one pass: the challenger is asked for what the first model has scored, and costs it nothing.

    rows of scores = rows of scores_challenger + rows of failures_challenger

What the challenger fails on becomes a row of its own failures. Even an output that contradicts what it is declared to
be, which ends a run where the first model does so, costs only the challenger's rows of that batch: a night is not lost
for a model that is on trial.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from transforms.errors import ConfigError, FailureCode, RunError
from transforms.load_plan import SecondInput
from transforms.predicting import Answers
from transforms.records import Failure, ImageBatch, RivalRows
from transforms.scoring import ScoredBatch, Scorer, ScorerPlan
from transforms.settings import PreprocessSettings
from transforms.sifting import PredictedBatch, SiftedBatch, score_failure
from transforms.tables import failures_batch

_LOG = logging.getLogger(__name__)
# What decides the pixels that are loaded; the rest of preprocessing is done inside the model's graph.
_OF_PIXELS = frozenset({"resize", "crop_pct", "crop_order", "interpolation", "pad_color"})


class ContestPlan(NamedTuple):
    """Which models score: picklable, the same on both roads."""

    champion: ScorerPlan
    """The first model: its table is `scores`."""
    challenger: ScorerPlan | None = None
    """The second one; None where there is none."""


class AnsweredBatch(NamedTuple):
    """A batch between its two parts."""

    champion: PredictedBatch | SiftedBatch
    """What the first model said; looked through where there is a challenger, which is asked for what is left."""
    challenger: PredictedBatch | RunError | None = None
    """What the challenger said, or why nothing that it said can be trusted; None where there is none."""
    asked: ImageBatch | None = None
    """What the challenger was asked for."""


class ContestedBatch(NamedTuple):
    """What became of one batch."""

    champion: ScoredBatch
    """Every image is in one of its two."""
    challenger: ScoredBatch | None = None
    """Every image that the champion has scored is in one of its two; None where there is no challenger."""

    def together(self) -> RivalRows:
        """Return the rows of both models, which are written together or not at all."""
        if self.challenger is None:
            raise ValueError("there is no challenger")
        return RivalRows(self.champion.rows, self.challenger.rows, failures_batch(self.challenger.failures))


class Contest:
    """One or two loaded models. One a process: Beam keeps one shared object alive; threads may share it.

    Args:
        plan: What to load.
        when_frozen: Called when TensorFlow is left to optimise the last model, without the interpreter's lock.

    Raises:
        ConfigError: A model does not fit its configuration, or the two cannot be scored in one pass.
    """

    champion: Scorer
    """Its table is `scores`."""
    challenger: Scorer | None
    """Its table is `scores_challenger`; None where there is none."""

    def __init__(self, plan: ContestPlan, when_frozen: Callable[[], None] = lambda: None) -> None:
        alone = plan.challenger is None
        self._hold(Scorer(plan.champion, when_frozen if alone else lambda: None))
        if plan.challenger is None:
            return
        try:
            self.challenger = Scorer(plan.challenger, when_frozen, self.champion.slots)
        except ConfigError as error:
            raise type(error)(f"challenger: {error}") from error
        self._refuse_mixed(self.challenger)

    @classmethod
    def of(cls, scorer: Scorer) -> "Contest":
        """Return the contest of one model that is loaded already."""
        contest = cls.__new__(cls)
        contest._hold(scorer)
        return contest

    def _hold(self, champion: Scorer) -> None:
        self.champion = champion
        self.challenger = None
        self._told = False

    def _refuse_mixed(self, challenger: Scorer) -> None:
        kinds = {True: "encoded images", False: "pixels"}
        mine, theirs = self.champion.classifier.takes_bytes, challenger.classifier.takes_bytes
        if mine != theirs:
            raise ConfigError(
                f"challenger: {challenger.plan.model.path} takes {kinds[theirs]} and {self.champion.plan.model.path} "
                f"takes {kinds[mine]}: one pass loads images for one kind of model; score the challenger in a run of "
                "its own"
            )

    @property
    def calls_in_flight(self) -> int:
        """Batches that may be with the models at a time."""
        return self.champion.calls_in_flight

    @property
    def second_input(self) -> SecondInput | None:
        """What is loaded for the challenger beside the champion's pixels; None where it gets these, or is none."""
        if self.challenger is None or self.challenger.classifier.takes_bytes:
            return None
        first, second = self._pixels_of(self.champion), self._pixels_of(self.challenger)
        if first == second:
            return None
        classifier = self.challenger.classifier
        return SecondInput(self.challenger.plan.preprocess, classifier.height, classifier.width)

    @staticmethod
    def _pixels_of(scorer: Scorer) -> tuple[int, int, dict[str, object]]:
        preprocess: PreprocessSettings = scorer.plan.preprocess
        return scorer.classifier.height, scorer.classifier.width, preprocess.model_dump(include=set(_OF_PIXELS))

    def score(self, batch: ImageBatch) -> ContestedBatch:
        """Score one batch with both models.

        Raises:
            RunError: As Scorer.score, of the champion.
        """
        return self.finish(self.predict(batch))

    def predict(self, batch: ImageBatch) -> AnsweredBatch:
        """Do the devices' part of score: it may run in a thread beside finish of the batch before.

        Raises:
            RunError: As Scorer.predict, of the champion.
        """
        predicted = self.champion.predict(batch)
        if self.challenger is None:
            return AnsweredBatch(predicted)
        sifted = self.champion.sift(predicted)
        asked = _asked(batch, sifted.kept)
        try:
            return AnsweredBatch(sifted, self.challenger.predict(asked), asked)
        except RunError as error:
            return AnsweredBatch(sifted, error, asked)

    def finish(self, answered: AnsweredBatch) -> ContestedBatch:
        """Do the host's part of score: from what the models said to rows.

        Raises:
            RunError: As Scorer.finish, of the champion.
        """
        champion = answered.champion
        if isinstance(champion, PredictedBatch):
            return ContestedBatch(self.champion.finish(champion))
        return ContestedBatch(self.champion.fill(champion), self._finish_challenger(answered))

    def _finish_challenger(self, answered: AnsweredBatch) -> ScoredBatch:
        challenger, said, asked = self.challenger, answered.challenger, answered.asked
        assert challenger is not None and said is not None and asked is not None  # noqa: S101,PT018  for the type checker
        if isinstance(said, RunError):
            return self._distrusted(challenger, asked, said, PredictedBatch(asked, Answers([], 0), 0.0))
        try:
            return challenger.finish(said)
        except RunError as error:
            return self._distrusted(challenger, asked, error, said)

    def _distrusted(self, challenger: Scorer, asked: ImageBatch, error: RunError, said: PredictedBatch) -> ScoredBatch:
        """Give every image of a batch up for the challenger, whose answer cannot be trusted."""
        if not self._told:
            self._told = True
            _LOG.warning("the challenger scores none of %d images, and goes on with the next: %s", len(asked), error)
        reason = f"the challenger's answer to the batch of this image cannot be trusted: {error}"
        failures: list[Failure] = [
            score_failure(asked, row, FailureCode.MODEL_ERROR, reason) for row in range(len(asked))
        ]
        return ScoredBatch(challenger.no_rows(), failures, said.model_ms, said.answers.out_of_memory)


def _asked(batch: ImageBatch, kept: list[int]) -> ImageBatch:
    """Return of a batch what the challenger is asked for, with the pixels that it is given."""
    pixels = batch.pixels if batch.second is None else batch.second
    if len(kept) == len(batch):
        return replace(batch, pixels=pixels, second=None)
    return ImageBatch(tuple(batch.refs[row] for row in kept), pixels[kept], tuple(batch.infos[row] for row in kept))
