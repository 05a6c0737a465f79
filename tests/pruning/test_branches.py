"""Residual branches are found by running their blocks; a network without one computes what it does with zeros in it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgeopt.edits import apply_edit
from edgeopt.errors import SourceError
from edgeopt.model import Edit, Model
from edgeopt.network import count_macs, make_network, write_network
from edgeopt.pruning.branches import find_branches
from edgeopt.pruning.groups import Choice
from edgeopt.pruning.removal import make_edits, mask_channels
from edgeopt.pruning.soundness import make_inputs

Architecture = Callable[[str], Model]


class Residual(nn.Module):
    """y = x + f(x), or with `after` another function of the sum."""

    def __init__(self, width: int, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1))
        self.after = after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.after(x + self.branch(x))
        return result


def drop_all(network: nn.Module, inputs: list[Tensor]) -> tuple[Edit, ...]:
    return make_edits(network, [Choice(branch, ()) for branch in find_branches(network, inputs)])


IMAGES = [torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(
    ("function", "blocks"),
    [
        ("make_option_a", ["layer1.0", "layer1.1", "layer2.1"]), ("make_mobile", ["1", "2"]),
        ("make_plain", []), ("make_concatenated", []), ("make_grouped", []),
    ],
)  # fmt: skip
def test_blocks_whose_shortcut_is_their_input_are_found_and_no_others(
    architecture: Architecture, function: str, blocks: list[str]
) -> None:
    model = architecture(function)
    found = find_branches(make_network(model), make_inputs(model.inputs, 2))
    assert [branch.name for branch in found] == blocks


@pytest.mark.parametrize("function", ["make_option_a", "make_mobile"])
def test_a_network_without_branches_is_the_one_with_them_silenced(architecture: Architecture, function: str) -> None:
    model = architecture(function)
    network, inputs = make_network(model), make_inputs(model.inputs, 2)
    silent, pruned = copy.deepcopy(network), copy.deepcopy(network)
    edits = drop_all(network, inputs)
    mask_channels(silent, edits)
    for edit in edits:
        apply_edit(pruned, edit)
    with torch.inference_mode():
        torch.testing.assert_close(pruned(*inputs), silent(*inputs))
    assert count_macs(pruned, inputs) < count_macs(network, inputs)


def test_a_dropped_branch_replays_on_a_fresh_module(architecture: Architecture, tmp_path: Path) -> None:
    model = architecture("make_mobile")
    network, inputs = make_network(model), make_inputs(model.inputs, 2)
    edits = drop_all(network, inputs)
    for edit in edits:
        apply_edit(network, edit)
    made = make_network(write_network(network, model, tmp_path / "pruned", edits))
    with torch.inference_mode():
        assert torch.equal(made(*inputs), network(*inputs))
    assert len(made.state_dict()) == len(network.state_dict()) < len(make_network(model).state_dict())


def test_a_sum_that_is_changed_afterwards_is_no_shortcut() -> None:
    network = nn.Sequential(Residual(4, nn.Sigmoid()), Residual(4))
    assert [branch.name for branch in find_branches(network, IMAGES)] == ["1"]


def test_a_relu_behind_the_sum_is_no_hindrance_where_what_came_is_positive() -> None:
    assert [branch.name for branch in find_branches(nn.Sequential(Residual(4, nn.ReLU())), IMAGES)] == []
    network = nn.Sequential(nn.ReLU(), Residual(4, nn.ReLU()))
    assert [branch.name for branch in find_branches(network, IMAGES)] == ["1"]


def test_of_a_wrapped_block_the_block_is_named_once() -> None:
    network = nn.Sequential(nn.Sequential(Residual(4)))
    assert [(one.name, one.silenced) for one in find_branches(network, IMAGES)] == [("0.0", "0.0.branch.2")]


def test_a_block_keeps_its_name_when_the_others_of_its_stage_went() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sequential(Residual(4), Residual(4)))
    first, second = find_branches(network, IMAGES)
    apply_edit(network, *make_edits(network, [Choice(first, ())]))
    assert [one.name for one in find_branches(network, IMAGES)] == [second.name] == ["1.1"]


def test_a_bound_behind_the_sum_is_seen_though_small_inputs_do_not_reach_it() -> None:
    assert find_branches(nn.Sequential(Residual(4, nn.Hardtanh(-20, 20)), nn.ReLU()), IMAGES) == []
    positive = nn.Sequential(nn.ReLU6(), Residual(4, nn.ReLU6()))
    assert [one.name for one in find_branches(positive, IMAGES)] == ["1"]


class Rectified(Residual):
    """Its first layer changes what the block is given, also for the shortcut."""

    def __init__(self) -> None:
        super().__init__(4)
        self.branch.insert(0, nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        return x + y


class Scaled(Residual):
    def forward(self, x: Tensor, *, scale: float) -> Tensor:  # type: ignore[override]
        return x + scale * self.branch(x)  # type: ignore[no-any-return]


class Calling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Scaled(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x, scale=0.5)  # type: ignore[no-any-return]


def test_a_block_that_changes_what_it_is_given_or_takes_more_is_left() -> None:
    assert find_branches(nn.Sequential(nn.Conv2d(4, 4, 1), Rectified()), IMAGES) == []
    assert find_branches(Calling(), IMAGES) == []


def test_a_block_with_a_layer_that_another_one_runs_too_is_left() -> None:
    network = nn.Sequential(Residual(4), Residual(4))
    network[1].branch[0] = network[0].branch[0]
    assert find_branches(network, IMAGES) == []


def test_of_a_branch_in_a_branch_the_outer_one_takes_the_inner_with_it() -> None:
    outer = Residual(4)
    outer.branch.insert(0, Residual(4))
    network = nn.Sequential(outer, nn.Conv2d(4, 2, 1))
    branches = find_branches(network, IMAGES)
    assert [one.name for one in branches] == ["0", "0.branch.0"]
    edits = make_edits(network, [Choice(one, ()) for one in branches])
    assert [edit.module for edit in edits] == ["0"]


def test_a_block_that_runs_twice_is_left() -> None:
    block = Residual(4)
    assert find_branches(nn.Sequential(block, block), IMAGES) == []


@pytest.mark.parametrize("ignored", ["1", "1.branch", "1.branch.0"])
def test_blocks_in_below_or_around_what_is_ignored_are_left(ignored: str) -> None:
    network = nn.Sequential(Residual(4), Residual(4))
    assert [branch.name for branch in find_branches(network, IMAGES, [ignored])] == ["0"]


def test_a_layer_alone_has_no_branch_to_drop() -> None:
    with pytest.raises(SourceError, match="without layers"):
        apply_edit(nn.Sequential(nn.Conv2d(1, 1, 1)), Edit(kind="drop_branch", module="0", arguments={}))
