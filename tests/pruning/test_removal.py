"""Edits and masks say the same thing."""

from __future__ import annotations

import torch
from torch import nn

from edgeopt.model import Edit
from edgeopt.pruning.groups import Choice, find_groups
from edgeopt.pruning.removal import make_edits, mask_channels


def keep(module: str, axis: str, *channels: int) -> Edit:
    return Edit(kind="keep_channels", module=module, arguments={"axis": axis, "channels": list(channels)})


def test_every_member_of_a_group_gets_one_edit() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    (group,) = find_groups(network, [torch.randn(2, 1, 2, 2)])
    edits = make_edits(network, [Choice(group, (0, 2))])
    assert sorted(edits, key=lambda edit: edit.module) == [
        keep("0", "out", 0, 2), keep("1", "out", 0, 2), keep("4", "in", *range(4), *range(8, 12)),
    ]  # fmt: skip


def test_two_groups_that_meet_in_one_layer_share_its_edit() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.last = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 3, 1), nn.Conv2d(5, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.last(torch.cat([self.left(x), self.right(x)], 1))
            return result

    network = Branches()
    left, right = find_groups(network, [torch.randn(2, 1, 2, 2)])
    edits = make_edits(network, [Choice(left, (1,)), Choice(right, (0, 2))])
    assert keep("last", "in", 1, 2, 4) in edits
    assert len(edits) == 3


def test_a_group_that_keeps_all_has_no_edits() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 1, 1))
    (group,) = find_groups(network, [torch.randn(2, 1, 2, 2)])
    assert make_edits(network, [Choice(group, (0, 1, 2, 3))]) == ()


def test_a_mask_is_zero_where_channels_go_and_nowhere_else() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1))
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    mask_channels(network, [keep("0", "out", 0, 2), keep("1", "in", 0, 2)])
    assert network[0].weight.flatten().tolist() == [1, 0, 1]
    assert network[0].bias.tolist() == [1, 0, 1]
    assert network[1].weight.flatten(1).tolist() == [[1, 0, 1], [1, 0, 1]]
    assert network[1].bias.tolist() == [1, 1]
