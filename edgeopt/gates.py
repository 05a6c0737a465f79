"""Budgets × measurements → verdicts: pure arithmetic that never sees a model.

Every comparison is written "pass iff the bound is within the budget", so what is absent or not a number never passes.
What was simulated is never better than unmeasured, and what was measured at less confidence than the budget asks for is
never decided.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeopt.model import Value
from edgeopt.recipe.budgets import AccuracyBudget, Budgets, LatencyBudget
from edgeopt.validation import Measurement
from edgeopt.validation.statistics import pairs_needed

Outcome = Literal["pass", "fail", "inconclusive", "unmeasured"]

#: from the worst to the best: what a candidate or a run with several verdicts amounts to
WORST_FIRST: tuple[Outcome, ...] = ("fail", "inconclusive", "unmeasured", "pass")
#: from the best to the worst: what a target amounts to, of which one candidate ships
BEST_FIRST: tuple[Outcome, ...] = ("pass", "inconclusive", "unmeasured", "fail")

#: with fewer images an accuracy budget is not decided, whatever the bound says
LEAST_IMAGES = 500
LEAST_CLASS_IMAGES = 50

#: a drop that is nearer than this to its budget, as a share of the images, is not told from it by any number of them
CLOSEST_DROP = 1e-4

#: the drop against a side → how often the two agree
DROPS = {
    "accuracy.drop_pp": "accuracy.agreement",
    "accuracy.drop_baseline_pp": "accuracy.agreement_baseline",
}

#: units that are told in tenths; of others two digits that count
TENTHS = (" pp", " %")

#: what every side that was timed has: how fast a session opens says nothing of its speed
TIMED = "latency.p50_ms"

#: the share of images on which one of two networks is right, where it is not known (3 % is common for int8)
USUAL_DISCORDANCE = 0.03


class Verdict(Value):
    """The judgement of one budget: `budget` names it (`latency.max_ratio`), `margin` is limit minus bound in its unit
    (None where there is no bound), `sentence` says it to a person."""

    budget: str
    verdict: Outcome
    margin: float | None
    sentence: str


@dataclass(frozen=True)
class Limit:
    """One limit of a recipe and the measurement that it is held against.

    `scale` turns the measurement's unit into that of the limit. `exact`: the value is its own bound. `least`: the limit
    is a lower one.
    """

    budget: str
    metric: str
    limit: float
    what: str
    unit: str
    confidence: float = 0.0
    scale: float = 1.0
    exact: bool = False
    least: bool = False
    images: int = 0


def limits(budgets: Budgets) -> tuple[Limit, ...]:
    """Every limit that the recipe sets, in the order of the sections."""
    rest = []
    if budgets.size:
        rest.append(Limit("size.max_mb", "size.bytes", budgets.size.max_mb, "size", " MB", scale=1e-6, exact=True))
    if budgets.memory:
        rest.append(Limit("memory.max_mb", "memory.peak_mb", budgets.memory.max_mb, "memory", " MB", exact=True))
    if budgets.energy:
        most, sure = budgets.energy.max_mj, budgets.energy.confidence
        rest.append(Limit("energy.max_mj", "energy.mj", most, "energy", " mJ", sure))
    if budgets.throughput:
        least = budgets.throughput.min_per_s
        rest.append(Limit("throughput.min_per_s", "throughput.per_s", least, "throughput", " per s", least=True))
    return (*_accuracy_limits(budgets.accuracy), *_latency_limits(budgets.latency), *rest)


def _accuracy_limits(budget: AccuracyBudget | None) -> Iterator[Limit]:
    if budget is None:
        return
    sure = budget.confidence
    if budget.max_drop_pp is not None:
        drop = budget.max_drop_pp
        yield Limit("accuracy.max_drop_pp", "accuracy.drop_pp", drop, "drop", " pp", sure, images=LEAST_IMAGES)
    if budget.max_drop_baseline_pp is not None:
        drop = budget.max_drop_baseline_pp
        name, metric, what = "accuracy.max_drop_baseline_pp", "accuracy.drop_baseline_pp", "drop against the baseline"
        yield Limit(name, metric, drop, what, " pp", sure, images=LEAST_IMAGES)
    for name, floor in sorted((budget.class_floor or {}).items()):
        metric, what = f"accuracy.class.{name}", f"accuracy of class `{name}`"
        budget_name = f"accuracy.class_floor.{name}"
        yield Limit(budget_name, metric, 100 * floor, what, " %", sure, least=True, images=LEAST_CLASS_IMAGES)


def _latency_limits(budget: LatencyBudget | None) -> Iterator[Limit]:
    if budget is None:
        return
    sure = budget.confidence
    if budget.max_ratio is not None:
        what = "time against the original"
        yield Limit("latency.max_ratio", "latency.ratio", budget.max_ratio, what, "×", sure)
    if budget.max_ratio_fp32 is not None:
        what = "time against float"
        yield Limit("latency.max_ratio_fp32", "latency.ratio_fp32", budget.max_ratio_fp32, what, "×", sure)
    if budget.max_ratio_baseline is not None:
        what = "time against the baseline"
        yield Limit("latency.max_ratio_baseline", "latency.ratio_baseline", budget.max_ratio_baseline, what, "×", sure)
    for percentile in ("p50", "p90", "p99"):
        limit: float | None = getattr(budget, f"{percentile}_ms")
        if limit is not None:
            yield Limit(f"latency.{percentile}_ms", f"latency.{percentile}_ms", limit, percentile, " ms", sure)


def judge(budgets: Budgets, measurements: Sequence[Measurement]) -> tuple[Verdict, ...]:
    """One verdict for each limit set, and one more for each thing that no recipe allows: see `_judge_soundness`."""
    verdicts = [_judge_limit(limit, measurements) for limit in limits(budgets)]
    return (*_judge_soundness(measurements), *verdicts)


def find(measurements: Iterable[Measurement], metric: str) -> Measurement | None:
    """The measurement of that metric: a real one before a simulated one, one with a value before one without."""
    found = [measurement for measurement in measurements if measurement.metric == metric]
    return min(found, key=lambda one: (one.simulated, number(one.value) is None), default=None)


def number(value: float | None) -> float | None:
    """`value` where it is a finite number, else None."""
    return value if value is not None and math.isfinite(value) else None


def _judge_soundness(measurements: Sequence[Measurement]) -> Iterator[Verdict]:
    """What fails whatever the recipe says: outputs that are no answer, and a speed that nobody has seen."""
    broken = find(measurements, "accuracy.nonfinite")
    if broken is not None and broken.value is not None and broken.value != 0:
        sentence = f"outputs are not finite on {broken.value:.0f} of {broken.samples} images"
        yield Verdict(budget="accuracy.finite", verdict="fail", margin=None, sentence=broken.note or sentence)
    timed = [one for one in measurements if one.metric == TIMED and number(one.value) is not None]
    if all(one.simulated for one in timed):
        why = "latency was only simulated" if timed else "latency was not measured"
        sentence = f"{why}: nobody knows whether it is slower than what it replaces"
        yield Verdict(budget="latency", verdict="unmeasured", margin=None, sentence=sentence)


def _judge_limit(limit: Limit, measurements: Sequence[Measurement]) -> Verdict:
    found = find(measurements, limit.metric)
    value = None if found is None else number(found.value)
    if found is None or value is None:
        missing = "no --baseline was given" if "baseline" in limit.metric and found is None else ""
        note = (found.note if found is not None else "") or missing
        note = f": {note}" if note else ""
        return _verdict(limit, "unmeasured", None, f"{limit.what} was not measured{note}")
    span = _span(limit, found, value)
    said = f"{limit.what} {_figures(limit, span, found)}"
    if found.simulated:
        return _verdict(limit, "unmeasured", span, f"{said}: simulated, which proves nothing")
    doubt = _doubt(limit, found, measurements)
    if doubt:
        return _verdict(limit, "inconclusive", span, f"{said}: {doubt}")
    if span.within:
        return _verdict(limit, "pass", span, f"{said}: within {span.show_limit()}{limit.unit}")
    if span.beyond:
        side = "under" if limit.least else "over"
        return _verdict(limit, "fail", span, f"{said}: {side} {span.show_limit()}{limit.unit}")
    remedy = _remedy(limit, found, measurements)
    return _verdict(limit, "inconclusive", span, f"{said}: {span.show_limit()}{limit.unit} is not decided{remedy}")


@dataclass(frozen=True)
class _Span:
    """A value between its bounds, in the unit of the limit. `worst` is the bound that must be within the limit for a
    pass, `best` the one that must be beyond it for a fail; None where there is no such bound. `fine`: show two digits
    that count, not tenths."""

    value: float
    best: float | None
    worst: float | None
    limit: float
    least: bool
    fine: bool

    @property
    def margin(self) -> float | None:
        if self.worst is None:
            return None
        return self.worst - self.limit if self.least else self.limit - self.worst

    @property
    def within(self) -> bool:
        # A value outside its own bounds is a contradiction, which decides nothing.
        return self.margin is not None and self.margin >= 0 and self._inside(self.value)

    @property
    def beyond(self) -> bool:
        return self.best is not None and not self._inside(self.best) and not self._inside(self.value)

    def _inside(self, figure: float) -> bool:
        return figure >= self.limit if self.least else figure <= self.limit

    def show(self, figure: float) -> str:
        """`figure` with digits enough to tell every other one of the span from the limit."""
        others = [abs(one) for one in (self.value, self.best, self.worst) if one is not None and one != self.limit]
        smallest = min((one for one in others if one), default=1.0)
        digits = min(6, max(1, 1 - math.floor(math.log10(smallest)))) if self.fine else 1
        while digits < 6 and any(round(one, digits) == round(abs(self.limit), digits) for one in others):
            digits += 1
        return f"{figure:.{digits}f}"

    def show_limit(self) -> str:
        """The limit as somebody would write it: `0.5`, `2.0`."""
        said = self.show(self.limit).rstrip("0")
        return f"{said}0" if said.endswith(".") else said


def _span(limit: Limit, found: Measurement, value: float) -> _Span:
    low, high = number(found.low), number(found.high)
    if limit.exact:
        low, high = value if low is None else low, value if high is None else high
    best, worst = (high, low) if limit.least else (low, high)
    scaled = [None if one is None else one * limit.scale for one in (best, worst)]
    return _Span(value * limit.scale, scaled[0], scaled[1], limit.limit, limit.least, limit.unit not in TENTHS)


def _figures(limit: Limit, span: _Span, found: Measurement) -> str:
    """`0.3 pp, at most 0.7 pp at 95 % confidence`: the value, and the bound that the verdict rests on."""
    said, unit = span.show(span.value), limit.unit
    if limit.exact and span.best == span.worst == span.value:
        return f"{said}{unit}"
    sure = f" at {100 * found.confidence:.4g} % confidence" if found.confidence is not None else ""
    low, high = (span.worst, span.best) if limit.least else (span.best, span.worst)
    if span.within:
        side, bound = ("at least", low) if limit.least else ("at most", high)
    elif span.beyond:
        side, bound = ("at most", high) if limit.least else ("at least", low)
    elif low is not None and high is not None:
        return f"{said}{unit}, between {span.show(low)} and {span.show(high)}{unit}{sure}"
    else:
        side, bound = ("at most", high) if low is None else ("at least", low)
    return f"{said}{unit}, {side} {span.show(bound)}{unit}{sure}" if bound is not None else f"{said}{unit}"


def _doubt(limit: Limit, found: Measurement, measurements: Sequence[Measurement]) -> str:
    """Why a measurement decides nothing, however far from the limit it is; empty if it may decide."""
    if limit.confidence and not (found.confidence or 0.0) >= limit.confidence - 1e-9:
        asked = f"the budget asks for {100 * limit.confidence:.4g} % confidence"
        return f"{asked}{f'; {found.note}' if found.note else ''}"
    if found.samples < limit.images:
        needed = max(limit.images, _images_needed(limit, found, measurements) or 0)
        return f"{found.samples} images decide nothing, it takes {_round_up(needed)} or more"
    return ""


def _remedy(limit: Limit, found: Measurement, measurements: Sequence[Measurement]) -> str:
    """What would decide an undecided budget, as far as it is known."""
    if limit.metric in DROPS:
        needed = _images_needed(limit, found, measurements)
        if needed and needed > found.samples:
            return f", about {_round_up(needed)} images would decide"
    return f", {found.note}" if found.note else ""


def _round_up(count: int) -> str:
    step = 10 ** max(0, len(str(count)) - 2)
    return f"{math.ceil(count / step) * step:,}"


def _images_needed(limit: Limit, found: Measurement, measurements: Sequence[Measurement]) -> int | None:
    """Images that it takes to show the drop that was seen to be within its budget; None where none would do."""
    if limit.metric not in DROPS:
        return None
    agreement = find(measurements, DROPS[limit.metric])
    agreed = None if agreement is None else number(agreement.value)
    drop = max(0.0, number(found.value) or 0.0) / 100
    seen = USUAL_DISCORDANCE if agreed is None else 1.0 - agreed / 100
    # One image less than was looked at may differ, for all that is known of the ones that were not.
    discordance = min(1.0, max(seen, drop, 1.0 / max(1, found.samples)))
    margin = limit.limit / 100
    return pairs_needed(discordance, margin, limit.confidence, drop=drop) if margin - drop > CLOSEST_DROP else None


def _verdict(limit: Limit, outcome: Outcome, span: _Span | None, sentence: str) -> Verdict:
    margin = None if span is None else number(span.margin)
    rounded = None if margin is None else round(margin, 9)
    return Verdict(budget=limit.budget, verdict=outcome, margin=rounded, sentence=sentence)


def judge_candidate(verdicts: Iterable[Verdict]) -> Outcome:
    """What the verdicts of one candidate amount to: the worst of them; a candidate that nothing is asked of passes."""
    return _first(WORST_FIRST, (verdict.verdict for verdict in verdicts), "pass")


def judge_target(candidates: Iterable[Outcome]) -> Outcome:
    """What the candidates of one target amount to: the best of them, as one of them ships."""
    return _first(BEST_FIRST, candidates, "unmeasured")


def judge_run(targets: Iterable[Outcome]) -> Outcome:
    """What the targets of a run amount to: the worst of them."""
    return _first(WORST_FIRST, targets, "unmeasured")


def _first(order: Sequence[Outcome], outcomes: Iterable[Outcome], otherwise: Outcome) -> Outcome:
    found = set(outcomes)
    return next((outcome for outcome in order if outcome in found), otherwise)
