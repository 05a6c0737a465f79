"""What layers are said to cost is what the pruned network costs, and a goal is met by running it."""

from __future__ import annotations

import copy
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
from edgeopt.pruning.costs import LayerCosts
from edgeopt.pruning.costs import count_macs as macs_of
from edgeopt.pruning.costs import count_parameters as parameters_of
from edgeopt.pruning.groups import Choice, Group, find_groups
from edgeopt.pruning.layers import Widths, find_layers
from edgeopt.pruning.removal import make_edits
from edgeopt.pruning.sensitivity import Curve
from edgeopt.pruning.soundness import make_inputs

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
        layers = [find_layers(network, inputs) for network in (before, after)]
        weights = [sum(parameters_of(one, one.inputs, one.outputs) for one in each) for each in layers]
        share = weights[1] / weights[0]
    assert 0.4 < share <= 0.6
    assert result.facts["predicted"] == pytest.approx(share, abs=1e-3)
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


@pytest.mark.parametrize(
    "options", [{}, {"ratio": 0.5, "goal": {"macs": 0.5}}, {"goal": {}}, {"goal": {"macs": 0.5, "latency": 0.5}},
                {"ratio": 0.5, "on": "onnxruntime_cpu/int8"}],
)  # fmt: skip
def test_one_aim_is_given_and_no_more(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="should"):
        PruneChannels.model_validate(options)
