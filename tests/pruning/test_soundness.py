"""What the dependency graph gets wrong is found by running the result."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from edgeopt.model import Edit, Model, TensorSpec
from edgeopt.network import make_network
from edgeopt.pruning.groups import Choice, Group, find_groups
from edgeopt.pruning.soundness import Sound, Trial, keep_sound, make_inputs

Architecture = Callable[[str], Model]


def halve(group: Group) -> Choice:
    """Keep every second channel: even in each block, and neither the first half nor the last."""
    return Choice(group, tuple(range(1, group.size, 2)))


def judge(model: Model) -> Sound:
    network, inputs = make_network(model), make_inputs(model.inputs, 2)
    groups = find_groups(network, inputs)
    return keep_sound(network, [halve(group) for group in groups if not group.obstacle], inputs)


@pytest.mark.parametrize(
    ("function", "groups"),
    [
        ("make_plain", 3), ("make_mobile", 5), ("make_concatenated", 5), ("make_grouped", 3), ("make_upsampling", 4),
        ("make_two_inputs", 1),
    ],
)  # fmt: skip
def test_networks_that_the_graph_understands_are_pruned_throughout(
    architecture: Architecture, function: str, groups: int
) -> None:
    sound = judge(architecture(function))
    assert sound.left_whole == {}
    assert sound.pruned == groups


def test_shortcuts_without_parameters_leave_their_group_whole_and_no_other(architecture: Architecture) -> None:
    sound = judge(architecture("make_option_a"))
    assert set(sound.left_whole) == {"conv1"}
    assert sound.pruned == 4
    inner = {
        f"layer{stage}.{block}.{part}" for stage in (1, 2) for block in (0, 1) for part in ("conv1", "bn1", "conv2")
    }
    assert {edit.module for edit in sound.edits} == inner


def test_hard_coded_shapes_leave_their_group_whole(architecture: Architecture) -> None:
    sound = judge(architecture("make_shuffled"))
    assert set(sound.left_whole) == {"0.0"}
    assert "does not run" in sound.left_whole["0.0"]
    assert "shape" in sound.left_whole["0.0"]
    assert sound.pruned == 1


def test_a_network_that_runs_but_computes_something_else_is_found_out(architecture: Architecture) -> None:
    sound = judge(architecture("make_centred"))
    assert "something else" in sound.left_whole["conv"]
    assert sound.edits == ()


def test_a_group_that_keeps_all_its_channels_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 1, 1))
    inputs = [torch.randn(2, 1, 2, 2)]
    (group,) = find_groups(network, inputs)
    assert keep_sound(network, [Choice(group, (0, 1, 2, 3))], inputs).left_whole == {
        "0": "rounding keeps all of its 4 channels"
    }


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ([("0", "out", [0, 2]), ("1", "in", [0, 1])], "something else"),
        ([("0", "out", [0, 2])], "does not run"),
        ([("1", "out", [0])], "another shape"),
        ([("0", "out", [0, 7]), ("1", "in", [0, 1])], "these cannot be kept"),
    ],
    ids=["misaligned", "unmatched", "outputs", "out of range"],
)
def test_wrong_edits_are_found_out(wrong: list[tuple[str, str, list[int]]], fault: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1), nn.ReLU())
    edits = [Edit(kind="keep_channels", module=m, arguments={"axis": a, "channels": c}) for m, a, c in wrong]
    assert fault in Trial(network, [torch.randn(2, 1, 4, 4)]).fault(edits)


def test_an_error_without_a_text_is_told_by_its_kind() -> None:
    class Strict(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[1] == 4
            return super().forward(x)

    network = nn.Sequential(nn.Conv2d(1, 4, 1), Strict(4, 1, 1))
    inputs = [torch.randn(2, 1, 2, 2)]
    (group,) = find_groups(network, inputs)
    assert "AssertionError" in keep_sound(network, [halve(group)], inputs).left_whole["0"]


def test_inputs_follow_their_specs_and_the_seed() -> None:
    specs = [TensorSpec(name="x", shape=("batch", 3, 4)), TensorSpec(name="n", dtype="int64", shape=("batch", 2))]
    x, n = make_inputs(specs, 5, seed=1)
    assert x.shape == (5, 3, 4)
    assert n.dtype == torch.int64
    assert set(n.flatten().tolist()) <= {0, 1}
    assert torch.equal(x, make_inputs(specs, 5, seed=1)[0])
    assert not torch.equal(x, make_inputs(specs, 5, seed=2)[0])
