from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.validation.label_orders import UNKNOWN, Order, cross_fitted_hits, learn_order, make_orders


def best(labels: np.ndarray, classes: np.ndarray, names: tuple[str, ...] = ()) -> Order:
    return max(make_orders(labels, classes, names), key=lambda order: order.hits(labels, classes).sum())


def shown(count: int, images: int = 3000, wrong: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """True classes, and predictions of them with a few errors."""
    random = np.random.default_rng(count)
    true = random.integers(0, count, images)
    return true, np.where(random.random(images) < wrong, random.integers(0, count, images), true)


def test_a_background_class_is_a_shift_by_one() -> None:
    true, classes = shown(1000)
    found = best(true, classes + 1)
    assert found.name == "labels shifted by one"
    assert found.repair == "with 1 added to every label"
    assert found.hits(true, classes + 1).mean() > 0.94


def test_labels_counted_from_one_are_a_shift_by_one() -> None:
    true, classes = shown(10)
    assert best(true + 1, classes).repair == "with 1 taken from every label"


@pytest.mark.parametrize("count", [11, 12, 100, 1000])
def test_numbers_sorted_as_text_are_named_as_such(count: int) -> None:
    true, classes = shown(count)
    folders = sorted(map(str, range(count)))
    ranks = np.array([folders.index(str(number)) for number in range(count)])
    found = best(ranks[true], classes)
    assert found.name == "labels sorted as text"
    assert "[0, 1, 10, " in found.repair
    assert best(true, ranks[classes]).name == "classes sorted as text"


def test_names_sorted_as_text_or_by_number_are_named_as_such() -> None:
    true, classes = shown(12)
    names = tuple(f"class {number}" for number in range(12))
    ranks = np.array([sorted(names).index(name) for name in names])
    assert best(true, ranks[classes], names).name == "classes sorted as text"
    listed = tuple(sorted(names))
    assert best(ranks[true], classes, listed).name == "classes sorted by number"
    assert len(best(ranks[true], classes, listed).repair) < 200


def test_orders_are_distinct_and_none_is_the_given_one() -> None:
    for count in (2, 3, 10, 11, 40):
        true, classes = shown(count)
        orders = [order.classes.tolist() for order in make_orders(true, classes, ())]
        assert len({tuple(order) for order in orders}) == len(orders)
        assert list(range(count)) not in orders
        assert all(sorted(order) == list(range(count)) for order in orders)


@pytest.mark.parametrize("count", [2, 10, 100])
def test_a_permutation_is_learned_and_explains_what_it_was_not_learned_from(count: int) -> None:
    true, classes = shown(count)
    permutation = np.random.default_rng(0).permutation(count)
    assert learn_order(permutation[true], classes).classes[permutation].tolist() == list(range(count))
    assert cross_fitted_hits(permutation[true], classes).mean() == pytest.approx((true == classes).mean(), abs=0.01)


@pytest.mark.parametrize("images", [300, 720, 3000])
def test_noise_among_many_classes_is_no_permutation(images: int) -> None:
    random = np.random.default_rng(0)
    labels, classes = random.integers(0, 1000, images), random.integers(0, 1000, images)
    learned = learn_order(labels, classes)
    assert learned.hits(labels, classes).mean() > 0.2  # what judging it on the same images would say
    assert cross_fitted_hits(labels, classes).mean() < 0.02


@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(1, 100))
def test_a_learned_order_is_one_to_one(seed: int, count: int, images: int) -> None:
    random = np.random.default_rng(seed)
    order = learn_order(random.integers(0, count, images), random.integers(0, count, images)).classes
    known = order[order != UNKNOWN]
    assert len(set(known.tolist())) == len(known)


def test_a_network_that_says_the_same_of_all_images_is_no_permutation() -> None:
    labels = np.arange(200) % 10
    assert cross_fitted_hits(labels, np.full(200, 3)).mean() <= 0.1
