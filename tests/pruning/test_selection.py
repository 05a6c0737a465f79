"""What stays is the best, in numbers that kernels like."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.pruning.groups import Group
from edgeopt.pruning.limits import Limits
from edgeopt.pruning.selection import keep_best, select_channels, share_globally


def make_group(size: int, blocks: int = 1) -> Group:
    return Group(name="conv", size=size, blocks=blocks, members=())


@given(
    width=st.integers(1, 40), blocks=st.integers(1, 6), share=st.floats(0, 1), round_to=st.integers(1, 16),
    least=st.integers(1, 20),
)  # fmt: skip
def test_counts_are_even_multiples_and_never_less_than_asked_for(
    width: int, blocks: int, share: float, round_to: int, least: int
) -> None:
    group = make_group(width * blocks, blocks)
    count = Limits(round_to, least).count(group, share * group.size)
    assert count == group.size or count % round_to == 0
    assert count % blocks == 0
    assert count >= min(group.size, max(least, math.floor(share * group.size)))
    assert count <= group.size


def test_counts_are_not_raised_by_errors_in_the_last_digit() -> None:
    assert Limits(1, 1).count(make_group(10), 10 * (1 - 0.3)) == 7
    assert Limits(1, 1).count(make_group(10), 10 * (0.1 + 0.2)) == 3


@given(scores=st.lists(st.integers(0, 10), min_size=1, max_size=30), data=st.data())
def test_no_channel_that_goes_is_better_than_one_that_stays(scores: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(scores)))
    kept = keep_best(make_group(len(scores)), torch.tensor(scores), count)
    assert list(kept) == sorted(set(kept))
    assert len(kept) == count
    gone = [score for index, score in enumerate(scores) if index not in kept]
    assert max(gone, default=0) <= min(scores[index] for index in kept)


def test_each_block_keeps_as_many() -> None:
    scores = torch.tensor([9.0, 8, 7, 6, 1, 2, 3, 4])
    assert keep_best(make_group(8, blocks=2), scores, 4) == (0, 1, 6, 7)


def test_of_equal_channels_the_earlier_stay() -> None:
    assert keep_best(make_group(4), torch.ones(4), 2) == (0, 1)


def test_a_local_ratio_holds_in_each_group_and_a_global_one_over_all() -> None:
    groups = [make_group(8), make_group(8)]
    scores = [torch.arange(8.0) + 10, torch.arange(8.0)]
    limits = Limits(round_to=1, min_channels=2)
    local = select_channels(groups, scores, share=0.5, scope="local", limits=limits)
    assert [choice.kept for choice in local] == [(4, 5, 6, 7), (4, 5, 6, 7)]
    overall = select_channels(groups, scores, share=0.5, scope="global", limits=limits)
    assert [choice.kept for choice in overall] == [tuple(range(8)), (6, 7)]


@given(st.lists(st.lists(st.floats(0, 10), min_size=1, max_size=20), min_size=1, max_size=5), st.floats(0.01, 0.99))
def test_a_global_ratio_is_met_where_scores_differ(raw: list[list[float]], ratio: float) -> None:
    ranks = torch.cat([torch.tensor(scores) for scores in raw]).argsort().argsort().double()
    scores = list(ranks.split([len(scores) for scores in raw]))
    shares = share_globally(scores, ratio)
    stay = sum(share * len(score) for share, score in zip(shares, scores, strict=True))
    assert abs(stay - (1 - ratio) * len(ranks)) <= 1
