"""Groups are read out of the trace as they are wired in the network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from edgeopt.errors import PassError
from edgeopt.model import Model
from edgeopt.network import make_network
from edgeopt.pruning.groups import Group, Member, find_groups

Architecture = Callable[[str], Model]


def groups_of(model: Model, *ignore: str) -> dict[str, Group]:
    inputs = [torch.randn(2, 3, 16, 16) for _ in model.inputs]
    return {group.name: group for group in find_groups(make_network(model), inputs, ignore)}


def member(group: Group, module: str, axis: str) -> Member:
    return next(member for member in group.members if (member.module, member.axis) == (module, axis))


def test_a_flatten_gives_each_channel_a_stretch_of_the_next_layer(architecture: Architecture) -> None:
    groups = groups_of(architecture("make_plain"))
    tied = member(groups["3"], "8", "in").channels
    assert tied[0] == tuple(range(16))
    assert tied[5] == tuple(range(80, 96))


def test_a_concatenation_shifts_the_channels(architecture: Architecture) -> None:
    groups = groups_of(architecture("make_concatenated"))
    assert member(groups["1.right"], "2", "out").channels[0] == (16,)
    assert member(groups["0.0"], "3.left", "in").channels[0] == (40,)
    assert member(groups["0.0"], "6", "in").channels[0] == (80,)


def test_a_sum_ties_the_channels_of_its_terms(torch_model: Model) -> None:
    groups = find_groups(make_network(torch_model), [torch.randn(2, 1, 16, 16)])
    stem = next(group for group in groups if group.name == "stem.0")
    makers = {member.module for member in stem.members if member.axis == "out"}
    assert makers == {"stem.0", "stem.1", "blocks.0.conv2", "blocks.0.norm2"}
    assert all(channels == (i,) for member in stem.members for i, channels in enumerate(member.channels))


def test_a_depthwise_convolution_has_one_axis(architecture: Architecture) -> None:
    axes = [
        member.axis
        for group in groups_of(architecture("make_mobile")).values()
        for member in group.members
        if member.module == "1.depthwise.0"
    ]
    assert axes == ["out"]


def test_a_grouped_convolution_divides_a_group_into_blocks(architecture: Architecture) -> None:
    assert {name: group.blocks for name, group in groups_of(architecture("make_grouped")).items()} == {
        "0": 4,
        "3": 4,
        "6": 1,
    }


def test_the_outputs_are_no_group(architecture: Architecture) -> None:
    for function in ("make_plain", "make_mobile", "make_two_inputs"):
        makers = {
            member.module
            for group in groups_of(architecture(function)).values()
            for member in group.members
            if member.axis == "out"
        }
        last = [name for name, module in make_network(architecture(function)).named_modules() if name][-1]
        assert last not in makers


def test_outputs_behind_an_activation_are_no_group_either() -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.Softmax(dim=1))
    assert [group.name for group in find_groups(network, [torch.randn(2, 3, 4, 4)])] == ["0"]


def test_a_frozen_network_has_the_same_groups_and_stays_frozen(architecture: Architecture) -> None:
    frozen = make_network(architecture("make_frozen"))
    groups = find_groups(frozen, [torch.randn(2, 3, 16, 16)])
    assert groups == list(groups_of(architecture("make_plain")).values())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_what_cannot_be_sliced_is_an_obstacle(architecture: Architecture) -> None:
    groups = groups_of(architecture("make_group_normalized"))
    assert groups["0"].obstacle == "`1`, a GroupNorm, takes all channels together"
    assert not groups["3"].obstacle


def test_layers_that_are_tied_to_an_obstacle_are_told_with_it(architecture: Architecture) -> None:
    groups = groups_of(architecture("make_attentive"))
    assert groups["patches"].layers == ("patches", "attention", "narrow")
    assert groups["patches"].obstacle == (
        "`attention` (MultiheadAttention) cannot be narrowed (tied to it: `attention`, `narrow`)"
    )
    assert not groups["widen"].obstacle


def test_layers_that_no_trace_comes_to_are_groups_with_a_reason(architecture: Architecture) -> None:
    groups = groups_of(architecture("make_unseen"))
    assert {name: group.obstacle for name, group in groups.items()} == {
        "backbone": "it does not pass gradients on to the outputs, and it is by gradients that channels are followed",
        "lent": "its weights are used without calling it",
        "auxiliary": "a forward pass does not run it",
        "last": "",
        "colours": "layers of its kind (Embedding) cannot be narrowed",
    }
    assert [group.size for group in groups.values()] == [16, 24, 8, 16, 24]


def test_a_bare_parameter_is_named(architecture: Architecture) -> None:
    groups = groups_of(architecture("families.py:make_convnext"))
    assert groups["0.0"].obstacle.startswith("`2.gamma` is a parameter outside of the layers that can be narrowed")


def test_layers_that_share_the_outputs_are_named() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return x + self.second(x)

    (group,) = find_groups(Residual(), [torch.randn(2, 3, 4, 4)])
    assert group.obstacle == "its channels are those of the outputs (tied to it: `second`)"


def test_an_output_that_only_happens_to_be_as_large_is_no_output_of_the_channels() -> None:
    class Summed(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(super().forward(x)).sum(1)

    network = Summed(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1))
    groups = find_groups(network, [torch.randn(2, 3, 16, 16)])
    assert [group.name for group in groups if not group.obstacle] == ["0", "1"]


def test_slopes_and_normalizations_of_single_channels_are_members(architecture: Architecture) -> None:
    groups = groups_of(architecture("make_slopes"))
    assert [[member.module for member in group.members if member.axis == "out"] for group in groups.values()] == [
        ["0", "1"], ["2", "3"], ["5", "6"], ["8", "9"],
    ]  # fmt: skip


def test_an_ignored_module_is_an_obstacle_for_all_that_it_makes(architecture: Architecture) -> None:
    groups = groups_of(architecture("make_option_a"), "layer1.0")
    assert {name for name, group in groups.items() if "ignored" in group.obstacle} == {"conv1", "layer1.0.conv1"}


def test_an_unknown_module_to_ignore_is_named_with_the_closest_one(architecture: Architecture) -> None:
    with pytest.raises(PassError, match=r"no module `layer1\.0\.conf1`") as caught:
        groups_of(architecture("make_option_a"), "layer1.0.conf1")
    assert "`layer1.0.conv1`" in caught.value.hint


def test_a_network_without_channels_to_prune_is_refused(architecture: Architecture) -> None:
    with pytest.raises(PassError, match="no channels of the network can be pruned"):
        groups_of(architecture("make_linear"))


def test_a_network_that_cannot_be_traced_says_why(architecture: Architecture) -> None:
    with pytest.raises(PassError, match=r"cannot be traced for pruning: RuntimeError: .*channels"):
        find_groups(make_network(architecture("make_plain")), [torch.randn(2, 1, 16, 16)])
