"""How many channels each group keeps, so that as little as possible is lost within a budget of cost.

Each group has a few counts to choose from, and a loss for each; a layer's cost depends on two groups, so this is no
plain knapsack. It is solved by the price of cost: for a price, every group in turn takes the count whose loss and
priced cost are least while the others stand, again and again until none moves. Where that ends depends on where it
began, as a block's width matters little once the block is to go: so it begins at several widths, and the best is taken.
The price is found by halving. What of the budget is then left goes where it saves most loss for its cost.

The problem is that of Shen et al., "Structural Pruning via Latency-Saliency Knapsack" (NeurIPS 2022), where each
channel is an item; here whole counts are, since kernels compute in blocks and a channel alone saves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

#: halvings of the price, and sweeps over all groups for one price
HALVINGS, SWEEPS = 40, 20

#: where the counts of all groups begin for each price, from the least to the most
STARTS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Costs(Protocol):
    """What a choice of counts costs."""

    def total(self, kept: Sequence[int]) -> float:
        """The cost of the whole network."""

    def share(self, group: int, kept: Sequence[int]) -> float:
        """The cost of all that a group has a part in."""


@dataclass(frozen=True)
class Option:
    """One count of channels that a group may keep, and what is lost by it."""

    count: int
    loss: float


def allocate(options: Sequence[Sequence[Option]], costs: Costs, budget: float) -> list[int] | None:
    """The count of each group: least loss at a cost of at most `budget`; None where even the least counts cost more.

    Args:
        options: of each group, by rising count.
    """
    least = [group[0].count for group in options]
    if costs.total(least) > budget:
        return None
    most = [group[-1].count for group in options]
    if costs.total(most) <= budget:
        return most
    low, high = 0.0, _dear(options, costs)
    best = least
    for _ in range(HALVINGS):
        price = (low + high) / 2
        kept = _settle(options, costs, price, best)
        if costs.total(kept) <= budget:
            high, best = price, kept
        else:
            low = price
    return _fill(options, costs, budget, best)


def _dear(options: Sequence[Sequence[Option]], costs: Costs) -> float:
    """A price at which every group takes its least count: that of all loss for the least cost that a step saves."""
    most = [group[-1].count for group in options]
    all_loss = sum(group[0].loss - group[-1].loss for group in options) or 1.0
    saved = costs.total(most) - costs.total([group[0].count for group in options])
    return 1e4 * all_loss / max(saved, 1e-12)


def _settle(options: Sequence[Sequence[Option]], costs: Costs, price: float, start: Sequence[int]) -> list[int]:
    """Counts from which no group alone moves any more at this price; the best of several starts."""
    even = [[group[round(share * (len(group) - 1))].count for group in options] for share in STARTS]
    found = [_descend(options, costs, price, kept) for kept in (*even, list(start))]
    return min(found, key=lambda kept: _loss(options, kept) + price * costs.total(kept))


def _descend(options: Sequence[Sequence[Option]], costs: Costs, price: float, kept: list[int]) -> list[int]:
    for _ in range(SWEEPS):
        before = list(kept)
        for number, group in enumerate(options):
            kept[number] = _best(group, _priced(costs, number, kept, price))
        if kept == before:
            break
    return kept


def _priced(costs: Costs, number: int, kept: list[int], price: float) -> Callable[[Option], float]:
    def priced(option: Option) -> float:
        standing, kept[number] = kept[number], option.count
        found = option.loss + price * costs.share(number, kept)
        kept[number] = standing
        return found

    return priced


def _best(group: Sequence[Option], priced: Callable[[Option], float]) -> int:
    return min(group, key=lambda option: (priced(option), -option.count)).count


def _fill(options: Sequence[Sequence[Option]], costs: Costs, budget: float, kept: list[int]) -> list[int]:
    """Give what is left of the budget to the step up that saves most loss for its cost, while one fits."""
    total = costs.total(kept)
    while True:
        fitting = [step for step in _steps(options, costs, kept) if step.cost <= budget]
        if not fitting:
            return kept
        best = max(fitting, key=lambda step: step.saved / max(step.cost - total, 1e-12))
        total, kept = best.cost, best.kept


class _Step(NamedTuple):
    """One group's next larger count: what the whole then costs, and the loss that it saves."""

    kept: list[int]
    cost: float
    saved: float


def _steps(options: Sequence[Sequence[Option]], costs: Costs, kept: Sequence[int]) -> Iterator[_Step]:
    for number, group in enumerate(options):
        at = next(place for place, option in enumerate(group) if option.count == kept[number])
        if at + 1 < len(group) and group[at + 1].loss < group[at].loss:
            raised = [*kept[:number], group[at + 1].count, *kept[number + 1 :]]
            yield _Step(raised, costs.total(raised), group[at].loss - group[at + 1].loss)


def _loss(options: Sequence[Sequence[Option]], kept: Sequence[int]) -> float:
    return sum(
        next(option.loss for option in group if option.count == count)
        for group, count in zip(options, kept, strict=True)
    )
