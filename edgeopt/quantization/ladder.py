"""The ladder: techniques, the cheapest first, climbed until the accuracy budget is met on the tuning split.

Each rung adds to the best technique so far, and stands only where it loses less or meets the budget: what does not help
a network is not done to it. The rungs are min-max, finer ranges (a percentile or MSE, MSE weights), equalization,
shifted zeros where the target has none, full bias correction, AdaRound, and at last layers in float, which costs time
on the target (`mixed`).
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from edgeopt.context import Checkpoints
from edgeopt.model import QuantizationProfile
from edgeopt.quantization.evaluation import Evaluation, Loss
from edgeopt.quantization.quantize import Quantized, Quantizing
from edgeopt.quantization.sensitivity import Clock, Sensitivity, rank_layers
from edgeopt.quantization.technique import Technique

#: the budget is for the verdict on other images: a point estimate of half of it leaves room for what is not known
ROOM = 0.5

#: iterations of AdaRound on the ladder
ADAROUND = 500


@dataclass(frozen=True)
class Rung:
    """One technique that was tried, what it lost, and the seconds that it took."""

    technique: Technique
    loss: Loss
    seconds: float

    def describe(self) -> str:
        """`86.3 % (−0.4 pp), 1.2 % changed, 31 dB, 4.1 s`."""
        gained = 0.0 - self.loss.drop_pp  # not `-drop_pp`, which is -0.00 where nothing is lost
        changed = "" if self.loss.changed is None else f", {self.loss.changed:.2f} % changed"
        return f"{self.loss.score:.2f} % ({gained:+.2f} pp){changed}, {self.loss.sqnr_db:.1f} dB, {self.seconds:.1f} s"


@dataclass
class Ladder:
    """The state of one climb; rungs that were done before a kill are found in `checkpoints`.

    Attributes:
        most_pp: the drop that is allowed; None: none is named, and the whole ladder is climbed.
        clock: how long networks take on the target.
        tell: progress.
    """

    quantizing: Quantizing
    evaluation: Evaluation
    most_pp: float | None
    clock: Clock | None = None
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    tell: Callable[[str, float | None], None] = field(default=lambda text, share: None)

    def __post_init__(self) -> None:
        self.rungs: list[Rung] = []
        self.sensitive: list[Sensitivity] = []
        self._made: dict[str, Quantized] = {}
        self._known = {_key(rung.technique): rung for rung in self._restore()}

    def climb(self, first: Technique) -> Rung:
        """The first rung that meets the budget, or the best of all."""
        best = self.try_one(first)
        for step in STEPS:
            if self.is_met(best.loss):
                return best
            tried = [self.try_one(technique) for technique in step(best.technique, self.quantizing.profile)]
            best = _best([rung for rung in tried if self.is_met(rung.loss)] or [best, *tried])
        if self.most_pp is None or self.is_met(best.loss):
            return best
        return self._keep_some(best)

    def _keep_some(self, best: Rung) -> Rung:
        """The fewest layers in float, the most worthwhile first, with which the budget is met."""
        if len(self.quantizing.weighted(best.technique)) < 2:
            return best
        self.sensitive = rank_layers(self.quantizing, self.evaluation, best.technique, self.clock)
        # One at least has to stay in integers: all in float is what stands beside this candidate anyway.
        most = min(len(self.sensitive), len(self.quantizing.weighted(best.technique)) - 1)
        missed, count = 0, min(1, most)
        while count > missed:
            rung = self._with_float(best.technique, count)
            if rung.loss.better_than(best.loss):
                best = rung
            if self.is_met(rung.loss):
                return self._fewest(best.technique, missed, rung)
            missed, count = count, min(2 * count, most)
        return best

    def _with_float(self, technique: Technique, count: int) -> Rung:
        kept = tuple(one.node for one in self.sensitive[:count])
        own = tuple(name for name in technique.keep_float if name not in {one.node for one in self.sensitive})
        return self.try_one(technique.model_copy(update={"keep_float": (*own, *kept)}))

    def _fewest(self, technique: Technique, missed: int, met: Rung) -> Rung:
        """Halve the distance between a count that misses and one that meets the budget."""
        count = sum(one.node in met.technique.keep_float for one in self.sensitive)
        while count - missed > 1:
            middle = (missed + count) // 2
            rung = self._with_float(technique, middle)
            missed, count, met = (missed, middle, rung) if self.is_met(rung.loss) else (middle, count, met)
        return met

    def curve(self) -> list[tuple[Rung, float]]:
        """The rungs with layers in float, and the one without, each with its time ÷ that of the latter."""
        if self.clock is None or not self.sensitive:
            return []
        kept = {one.node for one in self.sensitive}
        mixed = [rung for rung in self.rungs if kept & set(rung.technique.keep_float)]
        if not mixed:
            return []
        plain = mixed[0].technique.keep_float
        base = mixed[0].technique.model_copy(update={"keep_float": tuple(n for n in plain if n not in kept)})
        along = [*(rung for rung in self.rungs if rung.technique == base), *mixed]
        times = self.clock([self.quantizing.run(_placed(rung.technique)).graph for rung in along])
        return [(rung, taken / times[0]) for rung, taken in zip(along, times, strict=True)]

    def is_met(self, loss: Loss) -> bool:
        return self.most_pp is not None and loss.drop_pp <= ROOM * self.most_pp

    def try_one(self, technique: Technique) -> Rung:
        """The rung of a technique, done or found."""
        key = _key(technique)
        if key not in self._known:
            self.tell(technique.describe(), None)
            started = time.monotonic()
            made = self.quantizing.run(technique)
            loss = self.evaluation.loss_of(made.graph)
            self._made = {key: made}
            self._known[key] = Rung(technique, loss, round(time.monotonic() - started, 2))
        rung = self._known[key]
        if rung not in self.rungs:
            self.rungs.append(rung)
            self._save()
        return rung

    def result(self, rung: Rung) -> Quantized:
        """What the technique of a rung gives: made again where it was not the last one tried."""
        key = _key(rung.technique)
        return self._made[key] if key in self._made else self.quantizing.run(rung.technique)

    def _save(self) -> None:
        rows = [
            {"technique": rung.technique.model_dump(mode="json"), "loss": asdict(rung.loss), "seconds": rung.seconds}
            for rung in self.rungs
        ]
        self.checkpoints.put(len(rows), json.dumps(rows).encode())

    def _restore(self) -> list[Rung]:
        found = self.checkpoints.latest()
        rows = json.loads(found[1]) if found else []
        return [Rung(Technique.model_validate(row["technique"]), Loss(**row["loss"]), row["seconds"]) for row in rows]


def _best(rungs: Sequence[Rung]) -> Rung:
    """The one that loses least; of equals the first."""
    best = rungs[0]
    for rung in rungs[1:]:
        best = rung if rung.loss.better_than(best.loss) else best
    return best


def _finer_ranges(best: Technique, profile: QuantizationProfile) -> Iterator[Technique]:
    for method, weight_method in itertools.product(("percentile", "mse"), ("minmax", "mse")):
        yield best.model_copy(update={"method": method, "weight_method": weight_method})


def _equalized(best: Technique, profile: QuantizationProfile) -> Iterator[Technique]:
    yield best.model_copy(update={"equalize": True})


def _shifted(best: Technique, profile: QuantizationProfile) -> Iterator[Technique]:
    if profile.zero_shift:
        yield best.model_copy(update={"zero_shift": True})


def _corrected(best: Technique, profile: QuantizationProfile) -> Iterator[Technique]:
    yield best.model_copy(update={"bias_correction": "full"})


def _rounded(best: Technique, profile: QuantizationProfile) -> Iterator[Technique]:
    yield best.model_copy(update={"adaround": ADAROUND})


def _placed(technique: Technique) -> Technique:
    """A technique that takes no time, with the same nodes in integers: that is all its speed depends on."""
    return Technique(
        keep_float=technique.keep_float, per_channel=technique.per_channel, zero_shift=technique.zero_shift
    )


#: best technique so far, profile of the target → what to try next
STEPS: tuple[Callable[[Technique, QuantizationProfile], Iterator[Technique]], ...] = (
    _finer_ranges, _equalized, _shifted, _corrected, _rounded,
)  # fmt: skip


def _key(technique: Technique) -> str:
    return technique.model_dump_json()
