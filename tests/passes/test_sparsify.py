"""Two of four, from the network to the finished graph; a target that has no use for it keeps its network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeopt import onnx_graph
from edgeopt.backends import build_artifact
from edgeopt.context import Context, Timer
from edgeopt.data import Samples
from edgeopt.engines.plan import load_plan
from edgeopt.gain import WORTH
from edgeopt.model import Model
from edgeopt.network import make_network
from edgeopt.passes import PassResult
from edgeopt.passes.export_onnx import ExportOnnx
from edgeopt.passes.fine_tune import FineTune
from edgeopt.passes.quantize_aware_train import QuantizeAwareTrain
from edgeopt.passes.quantize_int8 import QuantizeInt8
from edgeopt.passes.simplify_onnx import SimplifyOnnx
from edgeopt.passes.sparsify import Sparsify
from edgeopt.quantization.profiles import TENSORRT
from edgeopt.sparsity.pattern import find_sparse
from edgeopt.sparsity.two_four import keep_two_of_four
from edgeopt.workers import ignore_progress

MakeSamples = Callable[..., Samples]


def sparsify(model: Model, folder: Path, context: Context | None = None, **options: Any) -> PassResult:
    context = context or Context(folder=folder, progress=ignore_progress)
    return Sparsify(**{"min_channels": 16} | options)(model, context)


def test_the_finished_graph_has_two_of_four_after_training_and_int8(
    torch_model: Model, make_samples: MakeSamples, tmp_path: Path
) -> None:
    samples = make_samples(torch_model, "training")
    given = sparsify(torch_model, tmp_path / "sparse")
    assert given.facts["layers_sparse"] == 5
    context = Context(folder=tmp_path / "tuned", training=samples, progress=ignore_progress)
    model = FineTune(epochs=1, distill=False, shift=0)(given.model, context).model
    for step in (ExportOnnx(), SimplifyOnnx(), QuantizeInt8()):
        name = type(step).__name__
        context = Context(folder=tmp_path / name, calibration=samples, profile=TENSORRT, progress=ignore_progress)
        model = step(model, context).model
        found = find_sparse(onnx_graph.load_graph(model.path))
        assert sum(found.values()) == 5, name
        assert len(found) == 7


def test_training_with_quantization_leaves_two_of_four(
    torch_model: Model, make_samples: MakeSamples, tmp_path: Path
) -> None:
    samples = make_samples(torch_model, "training")
    model = sparsify(torch_model, tmp_path / "sparse").model
    for step in (ExportOnnx(), SimplifyOnnx(), QuantizeAwareTrain(epochs=1, batch=16)):
        folder = tmp_path / type(step).__name__
        context = Context(folder, calibration=samples, training=samples, profile=TENSORRT, progress=ignore_progress)
        model = step(model, context).model
    assert sum(find_sparse(onnx_graph.load_graph(model.path)).values()) == 5


def test_another_order_of_channels_keeps_more_and_says_so(torch_model: Model, tmp_path: Path) -> None:
    facts = sparsify(torch_model, tmp_path / "a").facts
    assert float(facts["magnitude_kept"]) > float(facts["magnitude_kept_in_order"])
    assert "groups of channels" in str(facts["permuted"])
    plain = sparsify(torch_model, tmp_path / "b", permute=False).facts
    assert plain["magnitude_kept"] == plain["magnitude_kept_in_order"] == facts["magnitude_kept_in_order"]
    assert "permuted" not in plain


def test_what_stays_is_what_it_was(torch_model: Model, tmp_path: Path) -> None:
    before = make_network(torch_model).state_dict()
    after = make_network(sparsify(torch_model, tmp_path, permute=False).model).state_dict()
    weight = before["blocks.1.conv2.weight"]
    expected = weight * keep_two_of_four(weight)
    assert torch.equal(after["blocks.1.conv2.weight"], expected)
    assert torch.equal(after["stem.0.weight"], before["stem.0.weight"])


def test_layers_that_stay_dense_are_named_with_the_reason(torch_model: Model, tmp_path: Path) -> None:
    facts = sparsify(torch_model, tmp_path).facts
    assert facts["dense stem.0"] == "1 input channels are no multiple of 4"
    assert facts["dense classifier"] == "32 to 4 channels, fewer than 16"


def test_a_network_of_narrow_layers_stays_as_it_is(torch_model: Model, tmp_path: Path) -> None:
    result = sparsify(torch_model, tmp_path, min_channels=64)
    assert not result.changed
    assert result.model.digest() == torch_model.digest()
    assert result.facts["summary"] == "none of 7 layers can be 2:4"


@pytest.mark.parametrize("backend", ["onnxruntime_cpu", "openvino_cpu"])
def test_a_runtime_without_sparse_kernels_keeps_its_network(backend: str, torch_model: Model, tmp_path: Path) -> None:
    """On a machine that is busy with other things its clock may err, and what it says is followed."""
    pytest.importorskip(backend.removesuffix("_cpu"))
    timer = Timer("edgeopt.validation.ranking:time_models", backend, threads=1, batch=64)
    context = Context(folder=tmp_path, timer=timer, progress=ignore_progress)
    result = sparsify(torch_model, tmp_path, context, on=f"{backend}/fp32")
    assert float(result.facts["time_share"]) > 0.7
    assert result.changed == (float(result.facts["time_share"]) <= WORTH)
    assert f"on {backend}/fp32" in str(result.facts["gain"])
    assert result.changed or "left as it was" in str(result.facts["summary"])


def test_an_engine_of_such_a_graph_is_planned_with_sparse_kernels(torch_model: Model, tmp_path: Path) -> None:
    sparse = sparsify(torch_model, tmp_path / "sparse").model
    planned = {}
    for name, model in (("dense", torch_model), ("sparse", sparse)):
        context = Context(folder=tmp_path / f"onnx-{name}", progress=ignore_progress)
        exported = ExportOnnx()(model, context).model
        for told in (None, False):
            folder = tmp_path / f"{name}-{told}"
            folder.mkdir()
            build_artifact("tensorrt", exported, Context(folder=folder, batch=1), {"sparse": told})
            planned[name, told] = load_plan(folder).options.sparse
    assert planned == {
        ("dense", None): False, ("dense", False): False, ("sparse", None): True, ("sparse", False): False,
    }  # fmt: skip
