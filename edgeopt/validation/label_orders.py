"""How labels and a network's classes can be numbered differently: the usual ways, and one learned from predictions.

An order says which class of the network each label stands for. Those of `make_orders` have nothing to learn, so they
are held against all images at once; a learned one is only ever held against images that it was not learned from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Hits = NDArray[np.bool_]

#: the class of a label that nothing is known of
UNKNOWN = -1

#: longer lists are cut in a message
SHOWN = 12


@dataclass(frozen=True)
class Order:
    """One way of numbering.

    Attributes:
        name: what kind of mistake it would explain.
        repair: what was done to the labels: `with 1 added to every label`.
        advice: what the user does about it.
        classes: (labels,) the network's class of each label, or `UNKNOWN`.
    """

    name: str
    repair: str
    advice: str
    classes: Integers

    def hits(self, labels: Integers, classes: Integers) -> Hits:
        """(images,) whether the predicted class is what the label stands for."""
        right: Hits = self.classes[labels] == classes
        return right


def make_orders(labels: Integers, classes: Integers, names: Sequence[str]) -> list[Order]:
    """The usual other orders, the simplest first; `names` are those of the recipe's classes, if it has any."""
    count = _count(labels, classes, names)
    given = list(names) or [str(number) for number in range(count)]
    found, seen = [], {np.arange(count).tobytes()}
    for order in (*_shifts(labels, count), *_sortings(given, count)):
        if order.classes.tobytes() not in seen:
            seen.add(order.classes.tobytes())
            found.append(order)
    return found


def _count(labels: Integers, classes: Integers, names: Sequence[str] = ()) -> int:
    return max(int(labels.max(initial=0)), int(classes.max(initial=0)), len(names) - 1) + 1


def _shifts(labels: Integers, count: int) -> Iterator[Order]:
    numbers = np.arange(count)
    last = count - 1
    around = f" ({last} becomes 0)" if last in labels else ""
    advice = "the labels are shifted by one, as where the network's first class is a background"
    yield Order("labels shifted by one", f"with 1 added to every label{around}", advice, (numbers + 1) % count)
    around = f" (0 becomes {last})" if 0 in labels else ""
    advice = "the labels are shifted by one, as where they are counted from 1"
    yield Order("labels shifted by one", f"with 1 taken from every label{around}", advice, (numbers - 1) % count)


def _sortings(names: list[str], count: int) -> Iterator[Order]:
    """The orders that folders of these names are listed in, where the labels or the network may have followed them."""
    for kind, ordered in (("as text", sorted(names)), ("by number", sorted(names, key=_by_number))):
        shown = _listed(ordered)
        along = np.array([ordered.index(name) for name in names])
        advice = f"the network was trained on classes sorted {kind}: number the labels, or list `classes`, so"
        order = np.concatenate([along, np.arange(len(names), count)])
        yield Order(f"classes sorted {kind}", f"with the classes in the order {shown}", advice, order)
        advice = f"the labels were counted along classes sorted {kind}: number them as the network does"
        order = np.concatenate([np.argsort(along), np.arange(len(names), count)])
        yield Order(f"labels sorted {kind}", f"with labels that count along {shown}", advice, order)


def _by_number(name: str) -> list[tuple[int, str]]:
    """A key that puts `2` before `10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _listed(names: Sequence[str]) -> str:
    return f"[{', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''}]"


def learn_order(labels: Integers, classes: Integers, names: Sequence[str] = ()) -> Order:
    """The one-to-one order that predictions suggest: the commonest pairs of label and class first."""
    count = _count(labels, classes, names)
    order, taken = np.full(count, UNKNOWN), np.zeros(count, bool)
    pairs, seen = np.unique(labels * count + classes, return_counts=True)
    for pair in pairs[np.argsort(-seen, kind="stable")]:
        label, predicted = divmod(int(pair), count)
        if order[label] == UNKNOWN and not taken[predicted]:
            order[label], taken[predicted] = predicted, True
    repair = f"with the labels renumbered ({_changes(order)})"
    return Order("labels permuted", repair, _permuted(order, names), order)


def _changes(order: Integers) -> str:
    moved = [f"{label} → {order[label]}" for label in range(len(order)) if order[label] not in (UNKNOWN, label)]
    return f"{', '.join(moved[:SHOWN])}{', …' if len(moved) > SHOWN else ''}"


def _permuted(order: Integers, names: Sequence[str]) -> str:
    if len(names) != len(order) or len(names) > SHOWN or UNKNOWN in order:
        return "number the labels as the network does"
    return f"the network's classes are in the order {_listed([names[label] for label in np.argsort(order)])}"


def cross_fitted_hits(labels: Integers, classes: Integers) -> Hits:
    """(images,) whether the order learned from the other half of the images explains each one.

    Learned and judged on the same images, a permutation of many classes explains much of what is noise. Every class
    has half of its images in each half.
    """
    half = np.empty(len(labels), bool)
    half[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % 2 == 0
    right = np.zeros(len(labels), bool)
    count = _count(labels, classes)
    for rows in (half, ~half):
        order = np.full(count, UNKNOWN)
        learned = learn_order(labels[~rows], classes[~rows]).classes
        order[: len(learned)] = learned
        right[rows] = order[labels[rows]] == classes[rows]
    return right
