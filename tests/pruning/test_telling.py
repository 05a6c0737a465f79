"""What is told of several rounds is told of the groups of the network as given, whatever later rounds call them."""

from __future__ import annotations

from edgeopt.pruning.course import Round
from edgeopt.pruning.groups import Group
from edgeopt.pruning.limits import Limits
from edgeopt.pruning.telling import _count_kept

STREAM = Group("block.conv2", 16, 1, (), layers=("block.conv2", "stem"))
INNER = Group("block.conv1", 32, 1, (), layers=("block.conv1",))
BRANCH = Group("block", 1, 1, (), silenced="block.conv2")


def make_round(**kept: int) -> Round:
    return Round(edits=(), kept={name.replace("_", "."): count for name, count in kept.items()}, left_whole={})


def test_a_group_that_lost_its_first_layer_with_a_branch_is_told_by_the_next_one() -> None:
    rounds = [make_round(block_conv2=12, block_conv1=32, block=0), make_round(stem=8)]
    assert _count_kept([STREAM, INNER, BRANCH], rounds) == {"block.conv2": 8, "block.conv1": 0, "block": 0}
    assert _count_kept([STREAM, INNER, BRANCH], rounds[:1]) == {"block.conv2": 12, "block.conv1": 0, "block": 0}


def test_its_size_as_given_bounds_it_under_its_next_name_too() -> None:
    given = {name: group.size for group in (STREAM, INNER, BRANCH) for name in (group.name, *group.layers)}
    later = Group("stem", 8, 1, (), layers=("stem",))
    assert Limits(1, 1, 0.5, given).count(later, 0) == 8
    assert Limits(1, 1, 0.5).count(later, 0) == 4
