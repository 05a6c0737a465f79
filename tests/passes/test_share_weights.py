"""Shared weights: the same dense graph with few values in each layer, a smaller download, and what it cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeopt import onnx_graph
from edgeopt.compression import compress
from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.model import Model
from edgeopt.passes import PassResult
from edgeopt.passes.quantize_int8 import QuantizeInt8
from edgeopt.passes.share_weights import ShareWeights
from edgeopt.quantization.lint import require_legal
from edgeopt.quantization.profiles import TENSORRT
from edgeopt.workers import ignore_progress

MakeSamples = Callable[..., Samples]


def share(model: Model, folder: Path, **options: Any) -> PassResult:
    return ShareWeights(**options)(model, Context(folder=folder, progress=ignore_progress))


@pytest.fixture
def int8_model(onnx_model: Model, make_samples: MakeSamples, tmp_path: Path) -> Model:
    samples = make_samples(onnx_model, "calibration")
    context = Context(folder=tmp_path / "int8", calibration=samples, profile=TENSORRT, progress=ignore_progress)
    return QuantizeInt8()(onnx_model, context).model


def tensors(model: Model) -> dict[str, np.ndarray]:
    return {one.name: numpy_helper.to_array(one) for one in onnx_graph.load_graph(model.path).graph.initializer}


def without_weights(model: Model) -> onnx.ModelProto:
    graph = onnx_graph.load_graph(model.path)
    for tensor in graph.graph.initializer:
        if len(tensor.dims) > 1:
            tensor.ClearField("raw_data")
    return graph


def test_each_layer_has_at_most_sixteen_values_and_all_else_is_the_same(onnx_model: Model, tmp_path: Path) -> None:
    result = share(onnx_model, tmp_path)
    arrays = tensors(result.model)
    assert max(len(np.unique(array)) for array in arrays.values() if array.ndim > 1) <= 16
    assert without_weights(result.model) == without_weights(onnx_model)
    assert result.changed
    assert result.facts["layers_shared"] == 7


def test_integers_are_shared_and_scales_are_left(int8_model: Model, tmp_path: Path) -> None:
    result = share(int8_model, tmp_path, bits=3)
    before, after = tensors(int8_model), tensors(result.model)
    for name, array in after.items():
        if array.ndim > 1:
            assert len(np.unique(array)) <= 8
            assert (array[before[name] == 0] == 0).all()
        else:
            assert np.array_equal(before[name], array)
    require_legal(onnx_graph.load_graph(result.model.path), TENSORRT)


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_the_gain_is_that_of_the_compressed_files(
    kind: str, onnx_model: Model, int8_model: Model, tmp_path: Path
) -> None:
    model = onnx_model if kind == "float" else int8_model
    result = share(model, tmp_path)
    sizes = [len(compress(each.path.read_bytes())) for each in (model, result.model)]
    assert result.facts["download_share"] == pytest.approx(sizes[1] / sizes[0], rel=0.01)
    assert result.facts["download_share"] < (0.35 if kind == "float" else 0.8)
    assert result.model.path.stat().st_size == pytest.approx(model.path.stat().st_size, rel=0.01)


def test_more_bits_answer_more_like_the_original(onnx_model: Model, tmp_path: Path) -> None:
    found = [float(share(onnx_model, tmp_path / str(bits), bits=bits).facts["sqnr_db"]) for bits in (2, 4, 6)]
    assert found == sorted(found)
    assert found[2] > 25


def test_what_is_told_of_a_layer_is_how_many_values_it_has_and_how_near_they_are(
    onnx_model: Model, tmp_path: Path
) -> None:
    facts = share(onnx_model, tmp_path).facts
    told = [str(fact) for name, fact in facts.items() if name.startswith("layer ")]
    assert len(told) == 7
    assert all("values, SQNR" in each for each in told)


def test_shared_twice_gains_nothing_more(onnx_model: Model, tmp_path: Path) -> None:
    first = share(onnx_model, tmp_path / "first").model
    second = share(first, tmp_path / "second")
    assert not second.changed
    assert second.model.digest() == first.digest()
    assert "left as it was" in str(second.facts["summary"])


def test_eight_bits_are_refused_for_integers_alone(onnx_model: Model, int8_model: Model, tmp_path: Path) -> None:
    assert share(onnx_model, tmp_path / "float", bits=8).changed
    with pytest.raises(PassError, match="has integers of 8 bits"):
        share(int8_model, tmp_path / "int8", bits=8)
