"""Counts are chosen as an exhaustive search would choose them, and never beyond the budget."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from edgeopt.pruning.allocation import Costs, Option, allocate


class Chain:
    """Layers in a row: each costs the product of the counts on its two sides, with weights of their own."""

    def __init__(self, weights: Sequence[float], groups: int) -> None:
        self.weights, self.groups = weights, groups

    def total(self, kept: Sequence[int]) -> float:
        return sum(self._of(at, kept) for at in range(self.groups + 1))

    def share(self, group: int, kept: Sequence[int]) -> float:
        return self._of(group, kept) + self._of(group + 1, kept)

    def _of(self, at: int, kept: Sequence[int]) -> float:
        ends = [3, *kept, 10]
        return self.weights[at] * ends[at] * ends[at + 1]


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[Option]], Chain, float]:
    groups = draw(st.integers(1, 4))
    options = []
    for _ in range(groups):
        counts = sorted(draw(st.sets(st.integers(1, 8), min_size=2, max_size=4)))
        losses = sorted(draw(st.lists(st.floats(0, 5), min_size=len(counts), max_size=len(counts))), reverse=True)
        options.append([Option(8 * count, loss) for count, loss in zip(counts, losses, strict=True)])
    weights = draw(st.lists(st.floats(0.1, 3), min_size=groups + 1, max_size=groups + 1))
    return options, Chain(weights, groups), draw(st.floats(0.2, 1.0))


def loss_of(options: list[list[Option]], kept: Sequence[int]) -> float:
    return sum(
        next(option.loss for option in group if option.count == count)
        for group, count in zip(options, kept, strict=True)
    )


def best_of_all(options: list[list[Option]], costs: Costs, budget: float) -> float | None:
    fit = [
        sum(option.loss for option in chosen)
        for chosen in itertools.product(*options)
        if costs.total([option.count for option in chosen]) <= budget
    ]
    return min(fit, default=None)


@given(problem=problems())
def test_a_choice_keeps_to_the_budget_and_is_found_where_there_is_one(
    problem: tuple[list[list[Option]], Chain, float],
) -> None:
    options, costs, share = problem
    budget = share * costs.total([group[-1].count for group in options])
    found, best = allocate(options, costs, budget), best_of_all(options, costs, budget)
    assert (found is None) == (best is None)
    if found is not None and best is not None:
        assert costs.total(found) <= budget
        assert all(count in {option.count for option in group} for group, count in zip(options, found, strict=True))
        assert loss_of(options, found) >= best - 1e-9


def test_on_average_it_loses_hardly_more_than_the_best_of_all_choices() -> None:
    import random

    drawn, ours, best = random.Random(0), 0.0, 0.0
    for _ in range(60):
        options = []
        for _ in range(5):
            scale = drawn.uniform(0.2, 4)
            options.append([Option(8 * count, scale * (1 - count / 6) ** 2) for count in range(1, 7)])
        costs = Chain([drawn.uniform(0.2, 2) for _ in range(6)], 5)
        budget = drawn.uniform(0.3, 0.8) * costs.total([48] * 5)
        found, least = allocate(options, costs, budget), best_of_all(options, costs, budget)
        assert found is not None
        assert least is not None
        ours, best = ours + loss_of(options, found), best + least
    assert ours <= 1.01 * best


class Blocks:
    """A stream of channels, and blocks on it with channels of their own that may go as a whole.

    The groups are the stream, the blocks' channels, and whether each block stays.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = weights

    def total(self, kept: Sequence[int]) -> float:
        return 5 * kept[0] + sum(self._of(block, kept) for block in range(len(self.weights)))

    def share(self, group: int, kept: Sequence[int]) -> float:
        return self._of((group - 1) % len(self.weights), kept) if group else self.total(kept)

    def _of(self, block: int, kept: Sequence[int]) -> float:
        stays = kept[1 + len(self.weights) + block]
        return self.weights[block] * kept[0] * kept[1 + block] if stays else 0.0


def test_blocks_that_go_as_a_whole_are_weighed_against_narrower_ones() -> None:
    import random

    drawn, ours, best, dropped = random.Random(0), 0.0, 0.0, 0
    for _ in range(60):
        scales = [drawn.uniform(0.2, 4) for _ in range(4)]
        options = [[Option(8 * count, scale * (1 - count / 4) ** 2) for count in range(1, 5)] for scale in scales]
        options += [[Option(0, drawn.uniform(0.1, 3)), Option(1, 0.0)] for _ in range(3)]
        costs = Blocks([drawn.uniform(0.5, 2) for _ in range(3)])
        budget = drawn.uniform(0.2, 0.8) * costs.total([32, 32, 32, 32, 1, 1, 1])
        found, least = allocate(options, costs, budget), best_of_all(options, costs, budget)
        assert found is not None
        assert least is not None
        assert costs.total(found) <= budget
        ours, best, dropped = ours + loss_of(options, found), best + least, dropped + found[4:].count(0)
    assert ours <= 1.01 * best
    assert dropped
