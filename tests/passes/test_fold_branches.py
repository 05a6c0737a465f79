"""Folded networks compute what they did, with fewer layers, and are read back from their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeopt.context import Context, Timer
from edgeopt.exporting import export_graph
from edgeopt.model import Model, load_model
from edgeopt.network import count_macs, make_network
from edgeopt.passes import PassResult
from edgeopt.passes.fold_branches import FoldBranches
from edgeopt.passes.prune_weights import PruneWeights
from edgeopt.reshaping.verdict import random_inputs
from edgeopt.workers import ignore_progress

Architecture = Callable[[str], Model]


def fold(model: Model, folder: Path) -> PassResult:
    return FoldBranches()(model, Context(folder=folder, progress=ignore_progress))


def layers(network: nn.Module) -> list[str]:
    return [type(module).__name__ for module in network.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("name", "folds", "left"),
    [("branches", 5, 0), ("shortcuts", 2, 0), ("chains", 2, 2), ("deciding", 1, 0), ("curious", 0, 1)],
)
def test_what_is_read_back_computes_what_the_given_network_does(
    architecture: Architecture, name: str, folds: int, left: int, tmp_path: Path
) -> None:
    model = architecture(f"reparameterized.py:make_{name}")
    result = fold(model, tmp_path)
    assert load_model(tmp_path, model.sources) == result.model
    given, read_back = make_network(model), make_network(result.model)
    inputs = random_inputs(model.inputs, 7, 3)
    with torch.inference_mode():
        torch.testing.assert_close(read_back(*inputs), given(*inputs), rtol=1e-4, atol=1e-5)
    assert sum(fact.startswith("fold ") for fact in result.facts) == folds
    assert sum(fact.startswith("left ") for fact in result.facts) == left
    assert result.changed == (folds > 0)
    assert len(layers(read_back)) < len(layers(given)) or not folds
    assert count_macs(read_back, inputs) <= count_macs(given, inputs)


def test_zeros_that_are_to_stay_are_not_folded_away(architecture: Architecture, tmp_path: Path) -> None:
    sparse = PruneWeights(sparsity=0.5, keep_without_gain=True)(
        architecture("reparameterized.py:make_branches"), Context(folder=tmp_path / "a", progress=ignore_progress)
    )
    result = fold(sparse.model, tmp_path / "b")
    assert not result.changed
    assert {fact for name, fact in result.facts.items() if name.startswith("left ")} == {"has zeros that are to stay"}


def test_blocks_of_branches_become_single_convolutions(architecture: Architecture, tmp_path: Path) -> None:
    model = architecture("reparameterized.py:make_branches")
    result = fold(model, tmp_path)
    network = make_network(result.model)
    assert layers(network) == ["Conv2d"] * 5
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.groups for conv in convs] == [1, 1, 1, 4, 24]
    assert [conv.kernel_size for conv in convs] == [(3, 3)] * 5
    graph = export_graph(network, result.model)
    assert [node.op_type for node in graph.graph.node].count("Add") == 0
    assert str(result.facts["summary"]).startswith("5 folded, ")


def test_a_folded_network_is_not_folded_again(architecture: Architecture, tmp_path: Path) -> None:
    once = fold(architecture("reparameterized.py:make_branches"), tmp_path / "once").model
    twice = fold(once, tmp_path / "twice")
    assert not twice.changed
    assert twice.facts["summary"] == "nothing to fold"


def test_chains_say_why_they_stay(architecture: Architecture, tmp_path: Path) -> None:
    facts = fold(architecture("reparameterized.py:make_chains"), tmp_path).facts
    assert facts["left 7 · 8"] == "is not linear as a whole, or not the same at the borders"
    assert facts["left 10 · 11"] == "takes fewer operations as it is"


@pytest.mark.parametrize(
    ("stopwatch", "told"),
    [("time_by_steps", None), ("time_by_weights", "takes fewer operations as it is, and 1.97× the time as one")],
)
def test_the_clock_decides_on_folds_that_take_more_operations(
    architecture: Architecture, stopwatch: str, told: str | None, tmp_path: Path
) -> None:
    model = architecture("reparameterized.py:make_chains")
    timer = Timer(f"tests.passes.stopwatch:{stopwatch}", "onnxruntime_cpu", 1, 1)
    context = Context(folder=tmp_path, progress=ignore_progress, timer=timer)
    result = FoldBranches(on="onnxruntime_cpu/fp32")(model, context)
    assert result.facts.get("left 10 · 11") == told
    assert ("fold 10 · 11" in result.facts) == (told is None)
    given, made = make_network(model), make_network(load_model(tmp_path, model.sources))
    inputs = random_inputs(model.inputs, 7, 3)
    with torch.inference_mode():
        torch.testing.assert_close(made(*inputs), given(*inputs), rtol=1e-4, atol=1e-5)


def test_modules_that_cannot_be_traced_are_named(architecture: Architecture, tmp_path: Path) -> None:
    facts = fold(architecture("reparameterized.py:make_deciding"), tmp_path).facts
    assert "TraceError" in str(facts["not traced 0"])
    assert str(facts["summary"]).endswith("; cannot be traced: 0")


def test_a_network_without_branches_stays_as_it_is(torch_model: Model, tmp_path: Path) -> None:
    result = fold(torch_model, tmp_path)
    assert not result.changed
    assert result.model.digest() == torch_model.digest()
    assert result.facts["summary"] == "nothing to fold"


@pytest.mark.parametrize("keep", [True, False])
def test_folds_without_gain_are_kept_unless_that_is_unwanted(
    architecture: Architecture, keep: bool, tmp_path: Path
) -> None:
    model = architecture("reparameterized.py:make_branches")
    timer = Timer("tests.passes.stopwatch:time_alike", "onnxruntime_cpu", 1, 1)
    context = Context(folder=tmp_path, progress=ignore_progress, timer=timer)
    result = FoldBranches(on="onnxruntime_cpu/fp32", keep_without_gain=keep)(model, context)
    assert result.facts["gain"] == "no gain on onnxruntime_cpu/fp32: 1.00× the time"
    assert result.changed == keep
