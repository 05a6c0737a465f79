"""How many channels each group keeps, so that as little as possible is lost within a budget of cost.

Each group has a few counts to choose from, and a loss for each; a layer's cost depends on two groups, so this is no
plain knapsack. It is solved by the price of cost: for a price, every group in turn takes the count whose loss and
priced cost are least while the others stand, again and again until none moves. Where that ends depends on where it
began, as a block's width matters little once the block is to go: so it begins at several widths, and the best is taken.
The price is found by halving. At the least price that fits, what is left of the budget goes where it saves most loss
for its cost; at the price just below it, what is too much is taken where that costs least loss. Where a whole block
goes between the two, much lies between them. From the better one on, each group is moved by a step, what is then over
or left is made up for by the others, and what comes out best is kept, until no step helps.

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

#: share of the loss below which nothing is gained
LEAST_GAIN = 1e-6


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
    best, over = least, most
    for _ in range(HALVINGS):
        price = (low + high) / 2
        kept = _settle(options, costs, price, best)
        if costs.total(kept) <= budget:
            high, best = price, kept
        else:
            low, over = price, kept
    ends = [_fit(options, costs, budget, kept) for kept in (best, over)]
    return _improve(options, costs, budget, min((kept for kept in ends if kept), key=lambda kept: _loss(options, kept)))


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


def _improve(options: Sequence[Sequence[Option]], costs: Costs, budget: float, kept: list[int]) -> list[int]:
    """Move one group by a step, fit the others to it, and go on from the best that comes out, while it loses less."""
    while True:
        loss = _loss(options, kept)
        moves = [move for up in (True, False) for move in _moves(options, costs, kept, up=up)]
        found = [_fit(options, costs, budget, _moved(kept, move)) for move in moves]
        best = min((each for each in found if each), key=lambda each: _loss(options, each), default=kept)
        if _loss(options, best) >= loss * (1 - LEAST_GAIN):
            return kept
        kept = best


def _fit(options: Sequence[Sequence[Option]], costs: Costs, budget: float, kept: list[int]) -> list[int] | None:
    """Take steps down where they lose least for what they save until the budget is kept to, then up what still fits.

    None where it cannot be kept to by steps that save something.
    """
    while (over := costs.total(kept) - budget) > 0:
        saving = [move for move in _moves(options, costs, kept, up=False) if move.cost < 0]
        if not saving:
            return None
        # what is saved beyond what is over saves nothing
        kept = _moved(kept, min(saving, key=lambda move: move.loss / min(-move.cost, over)))
    while True:
        left = budget - costs.total(kept)
        raised = [move for move in _moves(options, costs, kept, up=True) if move.loss < 0 and move.cost <= left]
        fitting = [move for move in raised if costs.total(_moved(kept, move)) <= budget]
        if not fitting:
            return kept
        kept = _moved(kept, max(fitting, key=lambda move: -move.loss / max(move.cost, 1e-12)))


class _Move(NamedTuple):
    """One group's next count, up or down: what it adds to the cost, and to the loss."""

    group: int
    to: int
    cost: float
    loss: float


def _moves(options: Sequence[Sequence[Option]], costs: Costs, kept: list[int], *, up: bool) -> Iterator[_Move]:
    for number, group in enumerate(options):
        at = next(place for place, option in enumerate(group) if option.count == kept[number])
        to = at + 1 if up else at - 1
        if 0 <= to < len(group):
            standing, cost = kept[number], costs.share(number, kept)
            kept[number] = group[to].count
            added = costs.share(number, kept) - cost
            kept[number] = standing
            yield _Move(number, group[to].count, added, group[to].loss - group[at].loss)


def _moved(kept: Sequence[int], move: _Move) -> list[int]:
    return [*kept[: move.group], move.to, *kept[move.group + 1 :]]


def _loss(options: Sequence[Sequence[Option]], kept: Sequence[int]) -> float:
    return sum(
        next(option.loss for option in group if option.count == count)
        for group, count in zip(options, kept, strict=True)
    )
