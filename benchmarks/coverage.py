"""How often the bounds of the gates hold the truth: simulated with a seed, from populations whose truth is known.

Exact bounds may not hold it less often than they say, approximate ones within `TOLERANCE` of it. Where the probability
can be computed as well, it stands beside what was simulated.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from tables import show

from edgeopt.validation import statistics
from edgeopt.validation.resampling import bootstrap_bounds

#: how far the coverage of an approximate bound may be from its confidence
TOLERANCE = 0.02

#: standard errors by which a simulation may be off
ERRORS = 4.0

CONFIDENCE = 0.95
BOTH = ("lower", "upper")

#: seconds of a run, if e to the power of a normal variable: a long tail to the right
RUN_SPREAD = 0.3

Trial = Callable[[Generator], Sequence[bool]]


@dataclass(frozen=True)
class Case:
    """One kind of bound in one population.

    Attributes:
        name, size: of what, from how many samples.
        sides: the bounds that one trial takes.
        confidence: what each of them promises.
        exact: whether it may hold less often than that.
        trial: draws a sample and says of each bound whether it held the truth.
        computed: the probability that it does, where it is known.
    """

    name: str
    size: int
    sides: tuple[str, ...]
    confidence: float
    exact: bool
    trial: Trial
    computed: tuple[float, ...] | None = None
    trials: int = 10_000


@dataclass(frozen=True)
class Coverage:
    """How often one bound of a case held."""

    case: Case
    side: str
    simulated: float
    computed: float | None

    @property
    def error(self) -> float:
        """The standard error of what was simulated, if the bound promises no more than it keeps."""
        expected = self.case.confidence if self.computed is None else self.computed
        return math.sqrt(expected * (1.0 - expected) / self.case.trials)

    @property
    def sound(self) -> bool:
        if self.computed is not None and not abs(self.simulated - self.computed) <= ERRORS * self.error:
            return False
        if self.case.exact:
            return self.simulated >= self.case.confidence - ERRORS * self.error
        return abs(self.simulated - self.case.confidence) <= TOLERANCE


def cover(case: Case, seed: int = 0) -> list[Coverage]:
    """Simulate one case: the coverage of each of its sides."""
    rng = np.random.default_rng(seed)
    held = np.mean([case.trial(rng) for _ in range(case.trials)], axis=0)
    computed = case.computed or (None,) * len(case.sides)
    return [Coverage(case, *found) for found in zip(case.sides, held.tolist(), computed, strict=True)]


def cases() -> Iterator[Case]:
    """Every kind of bound that a verdict can rest on."""
    yield from (median(sets, alpha) for sets, alpha in [(10, 0.05), (20, 0.05 / 3), (40, 0.05 / 3), (501, 0.05)])
    yield from (percentile(runs, quantile) for runs, quantile in [(100, 0.9), (500, 0.99)])
    yield early_stopping(1000, 0.9)
    yield from (exact_share(images, share) for images, share in [(50, 0.9), (500, 0.98)])
    yield floors(3, 100, 0.9)
    yield from (wilson_share(images, share) for images, share in [(500, 0.92), (500, 0.985), (10_000, 0.75)])
    yield from (paired_drop(500, 0.02, 0.01), paired_drop(500, 0.06, 0.04), paired_drop(5000, 0.015, 0.015))
    yield paired_macro_f1(500, 0.03)
    yield from (correlated_mean(2000, correlation) for correlation in (0.5, 0.9))


def median(sets: int, alpha: float) -> Case:
    ranks = statistics.median_ranks(sets, alpha)
    assert ranks is not None
    computed = 1.0 - 2.0 * statistics.binomial_cdf(ranks[0] - 1, sets, 0.5)

    def trial(rng: Generator) -> list[bool]:
        low, high = statistics.median_interval(_run_times(rng, sets), alpha) or (math.nan, math.nan)
        return [low <= 1.0 <= high]

    return Case("median", sets, ("both",), 1.0 - alpha, True, trial, (computed,))


def percentile(runs: int, quantile: float) -> Case:
    truth = math.exp(RUN_SPREAD * statistics.normal_quantile(quantile))
    alpha = 1.0 - CONFIDENCE

    def trial(rng: Generator) -> list[bool]:
        times = _run_times(rng, runs)
        low = statistics.percentile_lower_bound(times, quantile, alpha)
        high = statistics.percentile_upper_bound(times, quantile, alpha)
        assert low is not None
        assert high is not None
        return [low <= truth, truth <= high]

    ranks = {share: statistics.count_below_tail(runs, share, alpha) for share in (quantile, 1.0 - quantile)}
    computed = tuple(1.0 - statistics.binomial_cdf(rank - 1, runs, share) for share, rank in ranks.items())
    return Case(_named(quantile), runs, BOTH, CONFIDENCE, True, trial, computed)


def early_stopping(runs: int, quantile: float) -> Case:
    truth = math.exp(RUN_SPREAD * statistics.normal_quantile(quantile))

    def trial(rng: Generator) -> list[bool]:
        estimate = statistics.early_stopping_estimate(_run_times(rng, runs), quantile)
        return [estimate is not None and truth <= estimate]

    return Case(f"{_named(quantile)}, early stopping", runs, ("upper",), 0.99, True, trial)


def exact_share(images: int, share: float) -> Case:
    @functools.cache
    def held(hits: int) -> list[bool]:
        low, high = statistics.exact_bounds(hits, images, CONFIDENCE)
        return [low <= share, share <= high]

    return _share_case("share, exact", images, share, BOTH, held, exact=True)


def wilson_share(images: int, share: float) -> Case:
    @functools.cache
    def held(hits: int) -> list[bool]:
        low, high = statistics.wilson_interval(hits, images, CONFIDENCE)
        return [low <= share <= high]

    return _share_case("share, Wilson", images, share, ("both",), held, exact=False)


def _share_case(
    name: str, images: int, share: float, sides: tuple[str, ...], held: Callable[[int], list[bool]], *, exact: bool
) -> Case:
    def trial(rng: Generator) -> list[bool]:
        return held(int(rng.binomial(images, share)))

    chances = np.exp(statistics.binomial_log_pmf(images, share))
    likely = [hits for hits in range(images + 1) if chances[hits] > 1e-9]
    computed = np.sum([chances[hits] * np.array(held(hits)) for hits in likely], axis=0)
    return Case(f"{name}, {share:g}", images, sides, CONFIDENCE, exact, trial, tuple(computed.tolist()))


def floors(classes: int, images: int, floor: float) -> Case:
    """Classes that are all just at their floor: none may be shown to be above it, nor below."""

    @functools.cache
    def held(hits: tuple[int, ...]) -> list[bool]:
        bounds = statistics.floor_bounds(hits, [images] * classes, [floor] * classes, CONFIDENCE)
        return [all(low < floor for low, _ in bounds), all(floor < high for _, high in bounds)]

    def trial(rng: Generator) -> list[bool]:
        return held(tuple(sorted(rng.binomial(images, floor, size=classes).tolist())))

    return Case(f"{classes} floors together, Holm", images, BOTH, CONFIDENCE, True, trial)


def paired_drop(images: int, lost: float, gained: float) -> Case:
    @functools.cache
    def held(lost_count: int, gained_count: int) -> list[bool]:
        low, high = statistics.tango_bounds(lost_count, gained_count, images, CONFIDENCE)
        return [low <= lost - gained, lost - gained <= high]

    def trial(rng: Generator) -> list[bool]:
        counts = rng.multinomial(images, [lost, gained, 1.0 - lost - gained]).tolist()
        return held(counts[0], counts[1])

    return Case(f"drop of {100 * (lost - gained):.2g} pp, Tango", images, BOTH, CONFIDENCE, False, trial)


def paired_macro_f1(images: int, changed: float) -> Case:
    """Three classes, one of them rare; the candidate answers a share `changed` of the images otherwise."""
    labels = np.array([0.6, 0.3, 0.1])
    original = np.array([[0.95, 0.04, 0.01], [0.05, 0.92, 0.03], [0.05, 0.10, 0.85]])
    candidate = (1.0 - changed) * np.eye(3) + changed * np.array([[0.0, 0.6, 0.4], [0.7, 0.0, 0.3], [0.5, 0.5, 0.0]])
    chances = (labels[:, None, None] * original[:, :, None] * candidate).ravel()
    parts = _macro_f1_parts()
    truth = _macro_f1_drop(chances @ parts)

    def trial(rng: Generator) -> list[bool]:
        seen = parts[rng.choice(chances.size, size=images, p=chances)]
        seed = int(rng.integers(2**32))
        low, high = bootstrap_bounds(
            lambda drawn: _macro_f1_drop(drawn @ seen), images, CONFIDENCE, resamples=1499, seed=seed
        )
        return [low <= truth, truth <= high]

    return Case("drop of macro F1, bootstrap", images, BOTH, CONFIDENCE, False, trial, trials=500)


def _macro_f1_parts() -> NDArray[np.float64]:
    """What an image of each (label, original, candidate) adds (27, 12): for either side and class, to the right answers
    (the first 6), and to the labels and answers."""
    label, original, candidate = np.eye(3)[np.indices((3, 3, 3)).reshape(3, 27)]
    right, all_of = [label * original, label * candidate], [label + original, label + candidate]
    return np.concatenate(right + all_of, axis=1)


def _macro_f1_drop(sums: NDArray[np.float64]) -> float:
    f1 = (2.0 * sums[:6] / sums[6:]).tolist()
    return sum(f1[:3]) / 3 - sum(f1[3:]) / 3


def correlated_mean(runs: int, correlation: float) -> Case:
    """The mean of a first-order autoregression, as sure as its effective size makes it."""
    z = statistics.normal_quantile(0.5 + CONFIDENCE / 2)

    def trial(rng: Generator) -> list[bool]:
        series = autoregression(rng, runs, correlation)
        return [bool(abs(series.mean()) <= z * series.std() / math.sqrt(statistics.effective_size(series)))]

    return Case(f"mean, correlation {correlation}", runs, ("both",), CONFIDENCE, False, trial, trials=3000)


def autoregression(rng: Generator, size: int, correlation: float) -> NDArray[np.float64]:
    """A stationary series (size,) of mean 0, each value `correlation` times the one before plus normal noise."""
    noise = rng.standard_normal(size)
    noise[0] /= math.sqrt(1.0 - correlation**2)
    return np.fromiter(itertools.accumulate(noise, lambda before, new: correlation * before + new), np.float64, size)


def _run_times(rng: Generator, size: int) -> NDArray[np.float64]:
    return np.exp(RUN_SPREAD * rng.standard_normal(size))


def _named(quantile: float) -> str:
    return f"p{100 * quantile:g}"


COLUMNS = ["bound", "samples", "side", "promised %", "simulated %", "computed %", "trials", "kind", ""]


def rows(seed: int = 0) -> list[list[object]]:
    """The table of coverages, one row for each bound."""
    return [_row(found) for case in cases() for found in cover(case, seed)]


def _row(found: Coverage) -> list[object]:
    case = found.case
    return [
        case.name, case.size, found.side, f"{100 * case.confidence:.1f}",
        f"{100 * found.simulated:.1f} ± {100 * found.error:.1f}",
        "" if found.computed is None else f"{100 * found.computed:.2f}", case.trials,
        "exact" if case.exact else "approximate", "" if found.sound else "OFF",
    ]  # fmt: skip


def main() -> None:
    show("how often the bounds hold the truth · seed 0", COLUMNS, rows())


if __name__ == "__main__":
    main()
