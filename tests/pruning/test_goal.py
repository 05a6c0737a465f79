"""What layers are said to cost is what the pruned network costs, and a goal is met by running it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu
from edgeopt.context import Context, Memo, Timer
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.edits import apply_edit
from edgeopt.errors import PassError
from edgeopt.model import Model, TorchValue, load_model
from edgeopt.network import call_factory, count_macs, make_network, write_network
from edgeopt.passes.prune_channels import PruneChannels
from edgeopt.pruning.allocation import Option
from edgeopt.pruning.costs import LayerCosts
from edgeopt.pruning.costs import count_macs as macs_of
from edgeopt.pruning.goal import LEARNED_FROM, Pruning
from edgeopt.pruning.groups import Choice, Group, find_groups
from edgeopt.pruning.layers import Widths, find_layers
from edgeopt.pruning.removal import make_edits
from edgeopt.pruning.sensitivity import Curve
from edgeopt.pruning.soundness import make_inputs
from edgeopt.pruning.yardstick import Yardstick

NETWORKS = ["make_plain", "make_mobile", "make_concatenated", "make_grouped", "make_two_inputs", "make_upsampling"]


def first(group: Group, count: int) -> tuple[int, ...]:
    """The first channels of each block, `count` in all."""
    width, each = group.size // group.blocks, count // group.blocks
    return tuple(channel for channel in range(group.size) if channel % width < each)


@pytest.mark.parametrize("function", NETWORKS)
def test_costs_of_a_choice_are_those_of_the_network_that_it_gives(
    function: str, architecture: Callable[[str], Model]
) -> None:
    model = architecture(function)
    network, inputs = make_network(model), make_inputs(model.inputs, 1)
    groups = [group for group in find_groups(network, inputs) if not group.obstacle]
    widths = Widths(find_layers(network, inputs), groups)
    for share in (1.0, 0.5):
        kept = [max(group.blocks, int(share * group.size) // group.blocks * group.blocks) for group in groups]
        choices = [Choice(group, first(group, count)) for group, count in zip(groups, kept, strict=True)]
        pruned = copy.deepcopy(network)
        for edit in make_edits(network, choices):
            apply_edit(pruned, edit)
        assert LayerCosts(widths, macs_of).total(kept) == count_macs(pruned, inputs)
        found = {layer.name: (layer.inputs, layer.outputs) for layer in find_layers(pruned, inputs)}
        for layer in widths.layers:
            inputs_left, outputs_left = widths.counts(layer, kept)
            assert (inputs_left, outputs_left) == (outputs_left if layer.depthwise else found[layer.name][0],
                                                   found[layer.name][1])  # fmt: skip


def test_a_curve_never_falls_and_goes_on_beyond_its_last_point() -> None:
    curve = Curve("group", (0.25, 0.5), (0.2, 0.1))
    assert [curve.at(share) for share in (0, 0.125, 0.25, 0.5)] == [0, 0.1, 0.2, 0.2]
    rising = Curve("group", (0.25, 0.5), (0.1, 0.3))
    assert rising.at(0.75) == pytest.approx(0.5)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    random = np.random.default_rng(0)
    np.savez(tmp_path / "some.npz", image=random.normal(size=(64, 1, 16, 16)).astype(np.float32))
    samples = Samples("npz", tmp_path / "some.npz", ("image",), Preprocess())
    (tmp_path / "out").mkdir()
    timer = Timer("edgeopt.validation.ranking:time_models", "onnxruntime_cpu", 1, 1)
    return Context(
        folder=tmp_path / "out", calibration=samples, timer=timer, profile=OnnxruntimeCpu().profile(),
        memo=Memo(tmp_path / "memos", "data"), progress=lambda text, fraction: None,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["macs", "parameters"])
def test_a_goal_is_met_by_what_comes_out(kind: str, torch_model: Model, context: Context) -> None:
    options = {"goal": {kind: 0.6}, "importance": "l2", "round_to": 1, "min_channels": 1, "reestimate_bn": True}
    result = PruneChannels.model_validate(options)(torch_model, context)
    before, after = make_network(torch_model), make_network(load_model(context.folder, torch_model.sources))
    inputs = make_inputs(torch_model.inputs, 1)
    if kind == "macs":
        share = count_macs(after, inputs) / count_macs(before, inputs)
    else:
        counts = [sum(part.numel() for part in network.parameters()) for network in (before, after)]
        share = counts[1] / counts[0]
    assert 0.4 < share <= 0.6
    assert result.facts["predicted"] == pytest.approx(share, abs=0.02)
    assert result.facts.get("measured", share) == pytest.approx(share, abs=1e-4)
    with torch.inference_mode():
        assert after(*make_inputs(torch_model.inputs, 2)).isfinite().all()


@pytest.mark.slow
def test_a_goal_of_latency_is_met_by_the_clock_of_the_target(
    torch_model: Model, context: Context, tmp_path: Path
) -> None:
    assert isinstance(torch_model.value, TorchValue)
    value = torch_model.value.model_copy(update={"options": {"width": 64}})
    network = call_factory(torch_model.sources, value.factory, value.options)
    (tmp_path / "wide").mkdir()
    wide = write_network(network, torch_model.model_copy(update={"value": value}), tmp_path / "wide")
    result = PruneChannels.model_validate({"goal": {"latency": 0.7}, "importance": "l2", "reestimate_bn": True})(
        wide, context
    )
    assert float(result.facts["measured"]) <= 0.7
    assert list((context.folder.parent / "memos").glob("*.memo"))  # the next recipe times no such layer again


def test_a_goal_that_cannot_be_met_says_how_far_it_gets(torch_model: Model, context: Context) -> None:
    options = {"goal": {"macs": 0.01}, "importance": "l2", "reestimate_bn": True}
    with pytest.raises(
        PassError,
        match=r"the goal of 0.01 of what the network costs \(0.0213 MMACs\) cannot be met: 0\.\d\d \(.* MMACs\) is the "
        r"least, and loses .* nats of its answers",
    ):
        PruneChannels.model_validate(options)(torch_model, context)


class Floored(Yardstick):
    """A cost of which a part stays whatever goes, and is not foreseen."""

    unit = ("ms", 1.0)

    def __init__(self, network: torch.nn.Module, inputs: list[torch.Tensor], floor: float) -> None:
        self._inputs, self._floor, self.whole = inputs, floor, float(count_macs(network, inputs))
        self.measured: list[float] = []
        self.disturbed = 0  # so many measurements find far too much, as on a machine that is busy

    def foresee(self, network: torch.nn.Module, widths: Widths) -> LayerCosts:
        return LayerCosts(widths, macs_of)

    def measure(self, network: torch.nn.Module) -> float:
        share = self._floor + (1 - self._floor) * count_macs(network, self._inputs) / self.whole
        share += 1 if len(self.measured) < self.disturbed else 0
        self.measured.append(share)
        return share


def make_pruning(architecture: Callable[[str], Model], floor: float, counts: tuple[int, ...]) -> Pruning:
    model = architecture("make_plain")
    network, inputs = make_network(model), make_inputs(model.inputs, 2)
    groups = [group for group in find_groups(network, inputs) if not group.obstacle]
    yardstick = Floored(network, make_inputs(model.inputs, 1), floor)
    costs = LayerCosts(Widths(find_layers(network, make_inputs(model.inputs, 1)), groups), macs_of)
    options = [[Option(count, group.size - count) for count in (*counts, group.size)] for group in groups]
    scores = [torch.arange(group.size, dtype=torch.float64) for group in groups]
    return Pruning(network, inputs, groups, scores, options, costs, yardstick)


def test_the_least_is_measured_before_a_goal_is_given_up_and_the_goal_is_told_as_it_was_asked(
    architecture: Callable[[str], Model],
) -> None:
    pruning = make_pruning(architecture, 0.3, tuple(range(1, 16)))
    with pytest.raises(PassError, match=r"the goal of 0\.3 of .* cannot be met: 0\.32 ") as caught:
        pruning.meet(0.3, lambda fraction: None)
    assert isinstance(pruning.yardstick, Floored)
    assert min(pruning.yardstick.measured) == pruning.yardstick.measured[-1] > 0.3
    assert pruning.yardstick.show(pruning.yardstick.measured[-1]) in caught.value.message


def test_a_goal_that_no_round_will_meet_is_given_up_in_the_first_one_and_told_as_it_was_asked(
    architecture: Callable[[str], Model],
) -> None:
    pruning = make_pruning(architecture, 0.3, tuple(range(1, 16)))
    with pytest.raises(PassError, match=r"the goal of 0\.01 of .* cannot be met: 0\.32 "):
        pruning.approach(0.4, 0.01)


def test_a_step_that_is_wrongly_foreseen_to_be_too_far_goes_no_further_than_was_asked(
    architecture: Callable[[str], Model],
) -> None:
    sound = make_pruning(architecture, 0.0, (2, 8))
    assert isinstance(sound.yardstick, Floored)
    dear = LayerCosts(sound.costs.widths, macs_of, fixed=sound.yardstick.whole)  # foreseen: the least is above 1
    found = dataclasses.replace(sound, costs=dear).approach(0.5, 0.4)  # measured: it is not
    assert len(sound.yardstick.measured) == 1
    assert found.kept == sound.choose(0.5).kept
    assert set(found.kept) != {2}
    assert found.predicted <= 0.5


def test_what_was_measured_and_is_the_best_choice_again_is_not_measured_again(
    architecture: Callable[[str], Model],
) -> None:
    pruning = make_pruning(architecture, 0.2, (4, 8))
    found = pruning.meet(0.8, lambda fraction: None)
    assert isinstance(pruning.yardstick, Floored)
    tried = pruning.yardstick.measured[len(LEARNED_FROM) :]
    assert found.measured in tried
    assert len(set(tried)) == len(tried)


def test_a_goal_that_is_wrongly_foreseen_out_of_reach_is_met_and_not_by_far(
    architecture: Callable[[str], Model],
) -> None:
    pruning = make_pruning(architecture, 0.0, tuple(range(1, 16)))
    assert isinstance(pruning.yardstick, Floored)
    pruning.yardstick.disturbed = len(LEARNED_FROM)
    found = pruning.meet(0.5, lambda fraction: None)
    assert found.measured is not None
    assert 0.45 < found.measured <= 0.5


@pytest.mark.parametrize(
    "options", [{}, {"ratio": 0.5, "goal": {"macs": 0.5}}, {"goal": {}}, {"goal": {"macs": 0.5, "latency": 0.5}},
                {"ratio": 0.5, "on": "onnxruntime_cpu/int8"}],
)  # fmt: skip
def test_one_aim_is_given_and_no_more(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="should"):
        PruneChannels.model_validate(options)
