"""Families of architectures at 30 %: pruned and exported, or told what was left; nothing goes missing silently."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from edgeopt import onnx_graph
from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.model import Edit, Model, TorchValue, load_model
from edgeopt.network import count_macs, make_network
from edgeopt.passes import PassResult
from edgeopt.passes.export_onnx import ExportOnnx
from edgeopt.passes.prune_channels import PruneChannels
from edgeopt.pruning.removal import mask_channels
from edgeopt.pruning.soundness import make_inputs
from edgeopt.workers import ignore_progress

Architecture = Callable[[str], Model]

#: of each family the layers that give the answers, and those that are left whole for a reason
FAMILIES: dict[str, tuple[str, set[str]]] = {
    "resnet_a": ("5.2", {"0.0", "1.conv2.0", "2.conv2.0", "3.conv2.0", "4.conv2.0"}),
    "resnet": ("5.2", set()),
    "vgg": ("15", set()),
    "mobilenetv2": ("6.2", set()),
    "mobilenetv3": ("9", set()),
    "efficientnet": ("6.2", set()),
    "densenet": ("13.2", set()),
    "inception": ("4.2", set()),
    "shufflenetv2": ("6.2", {"0.0", "1.branch.2.0", "2.branch.2.0", "3.0", "4.branch.2.0"}),
    "shufflenetv2_fixed": ("6.2", {"0.0", "1.branch.2.0", "2.branch.2.0", "3.0", "4.branch.2.0"}),
    "regnet": ("4.2", set()),
    "convnext": (
        "8", {"0.0", "1.depthwise", "1.narrow", "2.depthwise", "2.narrow", "3.1", "4.depthwise", "4.narrow"},
    ),
    "unet": ("last", set()),
}  # fmt: skip

#: of the reasons for which layers are left whole, a part of each
REASONS = {
    "resnet_a": ["does not run without its channels"],
    "shufflenetv2": ["cannot be followed", "does not run without its channels"],
    "shufflenetv2_fixed": ["cannot be followed", "does not run without its channels"],
    "convnext": ["`2.gamma` is a parameter", "`4.norm`, a LayerNorm, takes all channels together"],
}

#: those that each run prunes to a goal; the others take a slow one
QUICK = {"vgg", "shufflenetv2", "convnext"}

Samplers = Callable[..., Samples]


def prune(model: Model, samples: Samples, folder: Path, **aim: Any) -> PassResult:
    step = PruneChannels(importance="l2", round_to=2, min_channels=4, **aim)
    return step(model, Context(folder=folder, progress=ignore_progress, training=samples))


def edits_of(model: Model) -> tuple[Edit, ...]:
    assert isinstance(model.value, TorchValue)
    return model.value.edits


def masked_twin(model: Model, edits: tuple[Edit, ...]) -> nn.Module:
    network = make_network(model)
    mask_channels(network, edits)
    return network


def assert_equal_to_masked(model: Model, pruned: Model) -> None:
    """As it is read back from its files, and in ONNX Runtime."""
    inputs = make_inputs(model.inputs, 4, seed=7)
    with torch.inference_mode():
        expected = masked_twin(model, edits_of(pruned))(*inputs)
        found = make_network(load_model(pruned.folder, model.sources))(*inputs)
    assert (expected - expected[:1]).abs().max() > 0.02 * expected.abs().max(), "samples are not told apart"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    exported = ExportOnnx()(pruned, Context(folder=pruned.folder / "onnx", progress=ignore_progress)).model
    session = onnx_graph.make_session(exported.path.read_bytes())
    run = onnx_graph.run_session(session, {"image": inputs[0].numpy()})["output"]
    torch.testing.assert_close(torch.from_numpy(run), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def find_layers(model: Model) -> set[str]:
    return {name for name, module in make_network(model).named_modules() if isinstance(module, (_ConvNd, nn.Linear))}


def find_whole(model: Model, pruned: Model) -> set[str]:
    """The layers that make as many channels as before, but for those that went with a branch."""
    return find_layers(pruned) - {edit.module for edit in edits_of(pruned) if edit.arguments.get("axis") == "out"}


def find_told(model: Model, reasons: str) -> set[str]:
    """The layers that a report names."""
    return {name for name in find_layers(model) if f"; {name}: " in f"; {reasons}" or f"`{name}`" in reasons}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_pruned_and_no_layer_goes_missing(
    architecture: Architecture, make_samples: Samplers, name: str, tmp_path: Path
) -> None:
    model = architecture(f"families.py:make_{name}")
    result = prune(model, make_samples(model, "training", 16), tmp_path / "pruned", ratio=0.3)
    assert_equal_to_masked(model, result.model)

    answers, left = FAMILIES[name]
    told = str(result.facts["left_whole"])
    assert find_whole(model, result.model) - {answers} == left
    assert left <= find_told(model, told)
    assert all(reason in told for reason in REASONS.get(name, []))
    inputs = make_inputs(model.inputs, 1)
    assert count_macs(make_network(result.model), inputs) < (0.93 if left else 0.65) * count_macs(
        make_network(model), inputs
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_a_family_meets_a_goal(architecture: Architecture, make_samples: Samplers, name: str, tmp_path: Path) -> None:
    model = architecture(f"families.py:make_{name}")
    share = 0.9 if "shuffle" in name else 0.7
    result = prune(model, make_samples(model, "training", 16), tmp_path / "pruned", goal={"macs": share})
    assert_equal_to_masked(model, result.model)
    whole_layers = find_whole(model, result.model) - {FAMILIES[name][0]}
    assert whole_layers <= find_told(model, str(result.facts["left_whole"]))
    inputs = make_inputs(model.inputs, 1)
    whole = count_macs(make_network(model), inputs)
    assert 0.8 * share * whole < count_macs(make_network(result.model), inputs) <= share * whole
