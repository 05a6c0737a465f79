"""Why the original is not as right as the recipe expects: the usual mistakes, tried one after the other.

Labels that are numbered otherwise show in the predictions; images that are prepared otherwise are predicted again, a
few hundred of them. What is named as the mistake makes the original as right as expected, by more than chance could
make of as many tries; failing that, what gains most is told as a part of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.data.splits import make_splits
from edgeopt.errors import BackendError, BuildError, DataError
from edgeopt.model import Artifact
from edgeopt.validation.accuracy import score, score_interval
from edgeopt.validation.label_orders import Hits, Integers, cross_fitted_hits, learn_order, make_orders
from edgeopt.validation.predicting import run_predictions
from edgeopt.validation.predictions import Predictions, load_predictions
from edgeopt.validation.preprocess_edits import make_edits
from edgeopt.validation.statistics import mcnemar_p_value, wilson_interval
from edgeopt.workers import Limits, Progress, Worker, ignore_progress

#: images that are predicted again for each edit
IMAGES = 256

#: of the interval that must hold the expected accuracy, before a search or after a repair
CONFIDENCE = 0.99

#: how sure it must be that a repair makes a difference, over all that are tried; below it the simpler one is as good
ALPHA = 0.05

#: a repair that gains more than this is told even where it does not explain all
GAIN_PP = 20.0

NOTHING = (
    "no usual mistake explains it (labels shifted, sorted or permuted; channels, scale, mean, std, size, inversion or "
    "axes of the images): check the weights, or correct `expect`"
)
HIGHER = "correct `expect`, or see whether it was trained on these images"

#: (labels, predicted classes) of some images, prepared as said
Rerun = Callable[[Preprocess], tuple[Integers, Integers]]


@dataclass(frozen=True)
class Mistake:
    """What may explain an accuracy that is too low.

    Attributes:
        name: its kind in a few words.
        repair: what was done: ``with `channels: bgr` ``.
        advice: what the user does about it.
        before: (images,) which are right without the repair.
        hits: (images,) which are right with it.
        expected: top-1 in percent.
    """

    name: str
    repair: str
    advice: str
    before: Hits
    hits: Hits
    expected: float

    @property
    def top1(self) -> float:
        """In percent, with the repair."""
        return _percent(self.hits)

    @property
    def gain_pp(self) -> float:
        return self.top1 - _percent(self.before)

    @property
    def whole(self) -> bool:
        """Whether the original can be as right as expected with it, or more so."""
        return 100 * wilson_interval(int(self.hits.sum()), len(self.hits), CONFIDENCE)[1] >= self.expected

    def helps(self, tries: int) -> bool:
        """Whether the gain is more than chance could make of so many tries."""
        return self.gain_pp > 0 and _p_value(self.before, self.hits) <= ALPHA / tries

    @property
    def hint(self) -> str:
        """What was found, and what to do next."""
        nearer = "" if self.whole else ", nearer but not all of it"
        return f"{self.repair} it reaches {self.top1:.1f} % on {len(self.hits)} images{nearer}: {self.advice}"


class Original:
    """The original with images of its split, in a process of its own: `predict` prepares them in any way."""

    def __init__(self, artifact: Artifact, samples: Samples, batch: int, folder: Path) -> None:
        self._artifact, self._batch, self._folder = artifact, batch, folder
        count = min(IMAGES, len(samples))
        self.samples = make_splits({"validation": replace(samples, rows=None)}, {"validation": count}).validation

    def predict(self, preprocess: Preprocess) -> tuple[Integers, Integers]:
        """The labels and the predicted classes of the images, (images,) each.

        Raises:
            DataError: the images cannot be prepared so.
            BackendError: the network does not take what they become.
        """
        run_predictions(self._artifact, replace(self.samples, preprocess=preprocess), self._batch, self._folder)
        said = load_predictions(self._folder)
        return said.labels, said.classes


def unexpected(said: Predictions, label: str, expected: float) -> str:
    """What is wrong with a recorded metric of an original that should be `expected`, in percent; empty: nothing is."""
    low, high = score_interval(label, said, CONFIDENCE)
    if low <= expected <= high:
        return ""
    named = "" if label == "top1" else f" in `{label}`"
    reached = f"the original reaches {score(label, said):.2f} %{named} on {said.images} images"
    return f"{reached}, the recipe expects {expected:g} %"


def explain(
    said: Predictions,
    expected: float,
    artifact: Artifact,
    samples: Samples,
    batch: int,
    workspace: Callable[[], AbstractContextManager[Path]],
    *,
    limits: Limits | None = None,
    progress: Progress = ignore_progress,
) -> str:
    """The hint for an original, `artifact`, whose top-1 is not the `expected` percentage.

    Args:
        said: what it predicted for all of `samples`.
        workspace: makes a folder to predict into.
    """
    if _percent(said.labels == said.classes) > expected:
        return HIGHER
    try:
        with workspace() as folder:
            made = "edgeopt.validation.mistakes:Original", artifact, samples, batch, folder
            with Worker(*made, limits=limits, progress=progress, name="find the mistake") as worker:
                rerun: Rerun = functools.partial(worker.call, "predict")
                names = samples.classes or ()
                found = find_mistake(said.labels, said.classes, expected, samples.preprocess, rerun, names)
    except BuildError as error:  # what was found out before the search stands
        return f"looking for the mistake failed: {error.message}"
    return found.hint if found else NOTHING


def find_mistake(
    labels: Integers,
    classes: Integers,
    expected: float,
    preprocess: Preprocess,
    rerun: Rerun,
    names: Sequence[str] = (),
) -> Mistake | None:
    """The simplest mistake that explains why the original is less right than `expected`, in percent; None: none does.

    Args:
        labels: (images,) the true classes.
        classes: (images,) those that the original predicted.
        preprocess: how the images were prepared.
        rerun: predicts some of the images, prepared otherwise.
        names: of the recipe's classes.
    """
    nearer: list[Mistake] = []
    for tries in _stages(labels, classes, expected, preprocess, rerun, names):
        found = [one for one in tries if one.helps(len(tries))]
        whole = [one for one in found if one.whole]
        if whole:
            return _simplest(whole)
        nearer += found
    best = max(nearer, key=lambda one: one.gain_pp, default=None)
    return best if best is not None and best.gain_pp > GAIN_PP else None


def _stages(
    labels: Integers,
    classes: Integers,
    expected: float,
    preprocess: Preprocess,
    rerun: Rerun,
    names: Sequence[str],
) -> Iterator[list[Mistake]]:
    """What is tried, in an order of plausibility; a permutation can imitate much, so it comes last."""
    before = labels == classes
    yield [
        Mistake(order.name, order.repair, order.advice, before, order.hits(labels, classes), expected)
        for order in make_orders(labels, classes, names)
    ]
    yield _edited(expected, preprocess, rerun)
    learned, hits = learn_order(labels, classes, names), cross_fitted_hits(labels, classes)
    yield [Mistake(learned.name, learned.repair, learned.advice, before, hits, expected)]


def _edited(expected: float, preprocess: Preprocess, rerun: Rerun) -> list[Mistake]:
    """Each edit of the preprocessing that the network can run, until one makes it as right as expected."""
    labels, classes = rerun(preprocess)
    before, edits, tries = labels == classes, make_edits(preprocess), list[Mistake]()
    enough = math.floor(expected / 100 * len(before))
    for edit in edits:
        try:
            labels, classes = rerun(edit.preprocess)
        except (DataError, BackendError):  # it does not fit these images, or not this network: no explanation
            continue
        tries.append(Mistake(edit.name, edit.repair, edit.advice, before, labels == classes, expected))
        if tries[-1].hits.sum() >= enough and tries[-1].helps(len(edits)):
            break
    return tries


def _simplest(found: Sequence[Mistake]) -> Mistake:
    """The first that is as good as the best, for all that can be told."""
    best = max(found, key=lambda one: one.top1)
    return next(one for one in found if one is best or _p_value(one.hits, best.hits) > ALPHA)


def _p_value(first: Hits, second: Hits) -> float:
    return mcnemar_p_value(int((first & ~second).sum()), int((second & ~first).sum()))


def _percent(hits: Hits) -> float:
    return 100 * float(hits.mean())
