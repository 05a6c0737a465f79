"""Samples are mixed with their labels: in one proportion, with nothing lost."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from edgeopt.training.mixing import Mixing, draw_mixing


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(2, 20), st.floats(0.01, 10), st.integers(0, 1000))
def test_labels_keep_their_mass_and_go_with_their_inputs(count: int, alpha: float, seed: int) -> None:
    mixing = draw_mixing(count, alpha, generator(seed))
    labels = torch.arange(count) % 3
    mixed = mixing.labels(labels, 3)
    assert 0 <= mixing.share <= 1
    assert sorted(mixing.order.tolist()) == list(range(count))
    torch.testing.assert_close(mixed.sum(1), torch.ones(count))
    torch.testing.assert_close(mixed.sum(0), torch.bincount(labels, minlength=3).float())
    (inputs,) = mixing.inputs([functional.one_hot(labels, 3).float()])
    torch.testing.assert_close(inputs, mixed)


def test_a_sample_is_its_share_of_itself_and_the_rest_of_its_partner() -> None:
    images = torch.randn(3, 2, 4, 4)
    (mixed,) = Mixing(torch.tensor([2, 0, 1]), 0.75).inputs([images])
    torch.testing.assert_close(mixed[0], 0.75 * images[0] + 0.25 * images[2])


def test_labels_of_each_pixel_are_mixed_along_the_classes() -> None:
    labels = torch.tensor([[[0, 1]], [[1, 1]]])
    mixed = Mixing(torch.tensor([1, 0]), 0.75).labels(labels, 2)
    assert mixed.tolist() == [[[[0.75, 0.0]], [[0.25, 1.0]]], [[[0.25, 0.0]], [[0.75, 1.0]]]]


def test_the_larger_alpha_the_more_even_is_the_mixture() -> None:
    def evenness(alpha: float) -> float:
        shares = [draw_mixing(4, alpha, generator(seed)).share for seed in range(200)]
        return sum(min(share, 1 - share) for share in shares) / len(shares)

    assert evenness(0.1) < 0.15 < 0.2 < evenness(1.0) < 0.3 < 0.4 < evenness(50.0)


def test_the_same_generator_gives_the_same_mixture() -> None:
    one, two, other = (draw_mixing(8, 1.0, generator(seed)) for seed in (1, 1, 2))
    assert one.share == two.share
    assert torch.equal(one.order, two.order)
    assert one.share != other.share
