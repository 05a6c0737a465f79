"""What the dependency graph gets wrong is found by running the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from edgeopt.errors import PassError
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
        ("make_two_inputs", 1), ("make_slopes", 4),
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


def make_chain(length: int, *extra: tuple[int, nn.Module]) -> nn.Sequential:
    """Convolutions in a row, with `extra` modules behind some of them."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for number in range(length):
        conv = nn.Conv2d(8 if number else 3, 8, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight)
        layers += [conv, nn.LeakyReLU(0.2), *(module for place, module in extra if place == number)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


class Centred(nn.Module):
    """Takes the mean over channels off."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(1, keepdim=True)


def keep_half(
    network: nn.Module, inputs: list[torch.Tensor], export: Callable[[nn.Module], object] | None = None
) -> Sound:
    return keep_sound(network, [halve(group) for group in find_groups(network, inputs)], inputs, export)


def test_one_bad_group_among_many_is_found_in_few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []
    plain = Trial.fault

    def count(self: Trial, edits: Sequence[Edit]) -> str:
        tries.append(len(edits))
        return plain(self, edits)

    monkeypatch.setattr(Trial, "fault", count)
    network = make_chain(32, (13, Centred()))
    sound = keep_half(network, [torch.randn(2, 3, 8, 8)])
    assert list(sound.left_whole) == ["26"]
    assert sound.pruned == 31
    assert len(tries) <= 11


def test_all_bad_groups_are_found_and_no_other() -> None:
    network = make_chain(9, (0, Centred()), (4, Centred()), (5, Centred()))
    sound = keep_half(network, [torch.randn(2, 3, 8, 8)])
    convolutions = [str(place) for place, layer in enumerate(network) if isinstance(layer, nn.Conv2d)]
    assert list(sound.left_whole) == [convolutions[0], convolutions[4], convolutions[5]]
    assert all("something else" in reason for reason in sound.left_whole.values())
    assert sound.pruned == 6


def test_a_network_that_hardly_tells_samples_apart_once_it_lost_channels_is_judged_all_the_same() -> None:
    """As any deep one before it is tuned: biases drown what the channels that stay carry."""
    network = make_chain(40, (25, Centred()))
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            nn.init.constant_(layer.bias, 0.3)
    sound = keep_half(network, [torch.randn(2, 3, 8, 8)])
    assert sound.pruned == 39
    assert "something else" in next(iter(sound.left_whole.values()))


def test_where_outputs_are_constant_nothing_is_shown_and_nothing_pruned() -> None:
    network = make_chain(2)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    sound = keep_half(network, [torch.randn(2, 3, 8, 8)])
    assert set(sound.left_whole.values()) == {"nothing can be shown of it: the outputs do not depend on the inputs"}
    assert sound.edits == ()


def test_where_outputs_are_not_finite_nothing_is_pruned() -> None:
    network = make_chain(2)
    nn.init.constant_(network[0].weight, float("nan"))
    assert "not finite" in keep_half(network, [torch.randn(2, 3, 8, 8)]).left_whole["0"]


def test_channels_without_which_nothing_gets_through_stay() -> None:
    network = make_chain(2)
    with torch.no_grad():
        network[0].weight[1::2] = 0
    assert keep_half(network, [torch.randn(2, 3, 8, 8)]).left_whole == {
        "0": "with zeros in its channels the outputs do not depend on the inputs"
    }


def test_inputs_that_a_network_takes_for_tiny_are_told_apart() -> None:
    class Bytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = make_chain(3, (1, Centred()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.body((x - 127) / 1e6 + 3)
            return result

    assert list(keep_half(Bytes(), [torch.randn(2, 3, 8, 8)]).left_whole) == ["body.2"]


def test_a_network_that_insists_on_float32_is_compared_in_it() -> None:
    class Single(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = super().forward(x.float())
            return result

    sound = keep_half(Single(*make_chain(5, (2, Centred()))), [torch.randn(2, 3, 8, 8)])
    assert list(sound.left_whole) == ["4"]
    assert sound.pruned == 4


def test_what_makes_the_export_fail_is_left_whole() -> None:
    def export(network: nn.Module) -> None:
        if network[2].out_channels < 8:
            raise PassError("it does not export")

    inputs = [torch.randn(2, 3, 8, 8)]
    sound = keep_half(make_chain(4), inputs, export)
    assert sound.left_whole == {"2": "without its channels it does not export"}
    assert sound.pruned == 3


def test_pruning_is_not_to_blame_where_the_whole_network_cannot_be_exported() -> None:
    def export(network: nn.Module) -> None:
        raise PassError("it does not export")

    assert keep_half(make_chain(2), [torch.randn(2, 3, 8, 8)], export).pruned == 2


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3, groups=8), nn.Flatten()], (9,)),
        ([nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.ConvTranspose3d(8, 8, 1), nn.Flatten()], (5, 5, 5)),
    ],
    ids=["1d", "3d"],
)
def test_convolutions_over_one_and_three_axes_lose_channels(layers: list[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, *shape)]
    body = nn.Sequential(*layers).eval()
    sound = keep_half(nn.Sequential(body, nn.Linear(body(*inputs).shape[1], 4)), inputs)
    assert sound.left_whole == {}
    assert sound.pruned == (1 if len(shape) == 1 else 2)


@pytest.mark.parametrize("kind", ["attentive", "unseen"])
def test_what_is_left_does_not_keep_the_others_from_being_pruned(architecture: Architecture, kind: str) -> None:
    assert judge(architecture(f"make_{kind}")).pruned == 1


def test_a_layer_whose_weights_are_computed_is_left_whole() -> None:
    network = make_chain(3)
    nn.utils.parametrizations.weight_norm(network[2])
    sound = keep_half(network, [torch.randn(2, 3, 8, 8)])
    assert "does not run" in sound.left_whole["2"]


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
