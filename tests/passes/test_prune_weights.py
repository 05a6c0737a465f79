"""Pruned weights are zero in as many places as was asked, stay so in training and to the integers, and compress."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from edgeopt import onnx_graph
from edgeopt.context import Context, Timer
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.model import Model, TorchValue, load_model
from edgeopt.network import make_network
from edgeopt.passes import PassResult
from edgeopt.passes.export_onnx import ExportOnnx
from edgeopt.passes.fine_tune import FineTune
from edgeopt.passes.prune_weights import DENSE, PruneWeights
from edgeopt.passes.quantize_int8 import QuantizeInt8
from edgeopt.quantization.profiles import TENSORRT
from edgeopt.sparsity.weights import find_layers, share_of_zeros
from edgeopt.workers import ignore_progress

MakeSamples = Callable[..., Samples]


def prune(model: Model, folder: Path, context: Context | None = None, **options: Any) -> PassResult:
    context = context or Context(folder=folder, progress=ignore_progress)
    return PruneWeights(**options)(model, context)


def zeros_of(model: Model) -> dict[str, torch.Tensor]:
    return {name: layer.weight.detach() == 0 for name, layer in find_layers(make_network(model)).items()}


@pytest.mark.parametrize("scope", ["local", "global"])
def test_the_weights_that_were_asked_for_are_zero_in_the_file(torch_model: Model, scope: str, tmp_path: Path) -> None:
    result = prune(torch_model, tmp_path, scope=scope, sparsity=0.6)
    network = make_network(load_model(tmp_path, torch_model.sources))
    assert share_of_zeros(find_layers(network).values()) == pytest.approx(0.6, abs=0.01)
    assert result.facts["zeros"] == pytest.approx(0.6, abs=0.01)
    shares = [zeros.float().mean().item() for zeros in zeros_of(result.model).values()]
    assert (max(shares) - min(shares) < 0.02) == (scope == "local")


def test_the_gain_is_the_download_and_no_time_is_promised(torch_model: Model, tmp_path: Path) -> None:
    facts = prune(torch_model, tmp_path).facts
    assert 0.3 < float(facts["download_share"]) < 0.6
    assert str(facts["gain"]).endswith("× the download")
    assert facts["time"] == DENSE
    assert "70 % of" in str(facts["summary"])


def test_few_zeros_gain_nothing_and_the_network_stays(torch_model: Model, tmp_path: Path) -> None:
    result = prune(torch_model, tmp_path / "left", sparsity=0.01)
    assert not result.changed
    assert result.model.digest() == torch_model.digest()
    assert "left as it was" in str(result.facts["summary"])
    assert prune(torch_model, tmp_path / "kept", sparsity=0.01, keep_without_gain=True).changed


def test_taylor_keeps_what_the_loss_hangs_on(torch_model: Model, make_samples: MakeSamples, tmp_path: Path) -> None:
    context = Context(folder=tmp_path / "a", training=make_samples(torch_model, "t"), progress=ignore_progress)
    taylor = prune(torch_model, tmp_path, context, importance="taylor").model
    plain = prune(torch_model, tmp_path / "b").model
    assert any(not torch.equal(*pair) for pair in zip(zeros_of(taylor).values(), zeros_of(plain).values(), strict=True))


def test_taylor_without_labels_says_what_to_do(torch_model: Model, make_samples: MakeSamples, tmp_path: Path) -> None:
    samples = make_samples(torch_model, "unlabelled", labelled=False)
    context = Context(folder=tmp_path, training=samples, progress=ignore_progress)
    with pytest.raises(PassError, match="needs labels") as caught:
        prune(torch_model, tmp_path, context, importance="taylor")
    assert "importance: magnitude" in caught.value.hint


def test_data_is_lent_only_where_it_is_looked_at() -> None:
    assert PruneWeights().lent() == frozenset()
    assert PruneWeights(importance="taylor").lent() == {"training", "calibration"}
    assert PruneWeights(on="onnxruntime_cpu/int8").lent() == {"timer"}


def test_zeros_outlive_fine_tuning_the_export_and_int8(
    torch_model: Model, make_samples: MakeSamples, tmp_path: Path
) -> None:
    pruned = prune(torch_model, tmp_path / "pruned").model
    samples = make_samples(torch_model, "training")
    context = Context(folder=tmp_path / "tuned", training=samples, progress=ignore_progress)
    tuned = FineTune(epochs=1, distill=False, shift=0)(pruned, context).model
    before, after = zeros_of(pruned), zeros_of(tuned)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert isinstance(tuned.value, TorchValue)
    assert [edit.kind for edit in tuned.value.edits] == ["hold_zeros"] * len(before)
    exported = ExportOnnx()(tuned, Context(folder=tmp_path / "onnx", progress=ignore_progress)).model
    context = Context(folder=tmp_path / "int8", calibration=samples, profile=TENSORRT, progress=ignore_progress)
    quantized = QuantizeInt8()(exported, context).model
    wanted = sorted(int(zeros.sum()) for zeros in before.values())
    for model, dtypes in ((exported, (np.float32,)), (quantized, (np.int8, np.float32))):
        found = weights_of(onnx_graph.load_graph(model.path), dtypes)
        assert all(
            kept >= zeros for kept, zeros in zip(sorted(int((w == 0).sum()) for w in found), wanted, strict=True)
        )


def weights_of(graph: onnx.ModelProto, dtypes: tuple[type, ...]) -> list[np.ndarray]:
    arrays = [numpy_helper.to_array(tensor) for tensor in graph.graph.initializer]
    return [array for array in arrays if array.ndim > 1 and array.dtype in dtypes]


def test_with_on_the_clock_is_asked_and_the_download_is_that_of_the_target(torch_model: Model, tmp_path: Path) -> None:
    timer = Timer("edgeopt.validation.ranking:time_models", "onnxruntime_cpu", threads=1, batch=1)
    context = Context(folder=tmp_path, timer=timer, profile=TENSORRT, progress=ignore_progress)
    facts = prune(torch_model, tmp_path, context, on="onnxruntime_cpu/int8").facts
    assert "the time" in str(facts["time"])
    assert "onnxruntime_cpu/int8" in str(facts["time"])
    told = prune(torch_model, tmp_path / "float").facts
    assert facts["download_float"] == told["gain"]
    assert facts["download_share"] != told["download_share"]


def test_ignored_layers_keep_their_weights(torch_model: Model, tmp_path: Path) -> None:
    before = copy.deepcopy(make_network(torch_model).classifier.weight)
    result = prune(torch_model, tmp_path, ignore=["classifier"])
    assert torch.equal(make_network(result.model).classifier.weight, before)
    assert "zeros classifier" not in result.facts
