"""What is timed has the precision that ships, whatever it computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from torch import nn

from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu, open_runtime
from edgeopt.clock import Clock, quantize_blindly, strip_ends
from edgeopt.context import Timer
from edgeopt.exporting import export_graph
from edgeopt.model import Model
from edgeopt.network import make_network
from edgeopt.quantization.fold import fold
from edgeopt.quantization.quantize import Quantizing
from edgeopt.quantization.technique import Technique
from edgeopt.reshaping.timing import export_alone


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_graphs_are_timed_at_the_precision_that_ships(
    quantized: bool, half: bool, torch_model: Model, tmp_path: Path
) -> None:
    timer = Timer("edgeopt.validation.ranking:time_models", "onnxruntime_cpu", 1, 1)
    clock = Clock(timer, OnnxruntimeCpu().profile() if quantized else None, tmp_path, half=half)
    finished = clock.finished(export_graph(make_network(torch_model), torch_model))
    types = {tensor.data_type for tensor in finished.graph.initializer}
    assert (onnx.TensorProto.FLOAT16 in types) == half
    assert (onnx.TensorProto.INT8 in types) == quantized
    assert finished.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    (ms,) = clock.time([finished])
    assert ms > 0


def operators(graph: onnx.ModelProto, folder: Path) -> Counter[str]:
    """What ONNX Runtime makes of a graph."""
    open_runtime(graph.SerializeToString(), 1, optimized_model_filepath=str(folder / "optimized.onnx"))
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize("name", ["resnet", "vgg", "mobilenetv3", "densenet", "inception", "shufflenetv2", "unet"])
def test_what_is_timed_runs_in_the_operators_that_will_run(
    name: str, architecture: Callable[[str], Model], tmp_path: Path
) -> None:
    model, random = architecture(f"families.py:make_{name}"), np.random.default_rng(0)
    graph, profile = export_graph(make_network(model), model), OnnxruntimeCpu().profile()
    images = random.standard_normal((16, 3, 16, 16), np.float32)
    calibrated = Quantizing(fold(graph), profile, lambda count: [{"image": images}], 16).run(Technique())
    expected = operators(calibrated.graph, tmp_path)
    assert operators(quantize_blindly(graph, profile), tmp_path) == expected
    assert expected["QLinearConv"] > 0


@pytest.mark.parametrize("half", [False, True])
def test_a_layer_is_timed_between_what_will_stand_around_it(half: bool, tmp_path: Path) -> None:
    timer = Timer("edgeopt.validation.ranking:time_models", "onnxruntime_cpu", 1, 1)
    clock = Clock(timer, None, tmp_path, half=half)
    inner = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
    stripped = strip_ends(clock.finished(export_alone(nn.Conv2d(3, 8, 3), (3, 8, 8))))
    assert [node.op_type for node in stripped.graph.node] == ["Conv", "Relu"]
    ends = (*stripped.graph.input, *stripped.graph.output)
    assert {value.type.tensor_type.elem_type for value in ends} == {inner}
    (ms,) = clock.time([stripped])
    assert ms > 0


@pytest.mark.parametrize("changed", [{"batch": 2}, {"machine": {"cpu": "another"}},
                                     {"machine": {"gpus": [{"name": "another"}]}}])  # fmt: skip
def test_times_are_told_apart_by_all_that_they_depend_on(changed: dict[str, Any], tmp_path: Path) -> None:
    given = Timer("edgeopt.validation.ranking:time_models", "onnxruntime_cpu", 1, 1)
    machine = given.machine | changed.get("machine", {})
    other = Timer(given.function, given.backend, 1, **{"batch": 1, **changed, "machine": machine})
    assert Clock(given, None, tmp_path).describe() != Clock(other, None, tmp_path).describe()
    assert Clock(given, None, tmp_path).describe() != Clock(given, None, tmp_path, half=True).describe()


@pytest.mark.parametrize(
    ("shares", "patience", "looks", "found"),
    [
        ([0.5, 0.5, 0.5], 30.0, 3, 0.5),
        ([0.5, 0.8, 0.5, 0.5, 0.51, 0.49, 0.5, 0.5, 0.5], 30.0, 9, 0.5),  # the second process was off
        ([0.5, 0.8, 0.5, 0.5], 0.0, 3, 0.5),  # and building it again takes too long
        ([0.5, 0.52, 0.51, 0.505, 0.515], 30.0, 4, 0.5075),
    ],
)
def test_processes_that_disagree_are_looked_at_more_often(
    shares: list[float], patience: float, looks: int, found: float, torch_model: Model, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    timer = Timer("edgeopt.validation.ranking:time_models", "onnxruntime_cpu", 1, 1)
    clock, graph, left = Clock(timer, None, tmp_path), export_graph(make_network(torch_model), torch_model), [*shares]
    monkeypatch.setattr("edgeopt.clock.PATIENCE_S", patience)
    monkeypatch.setattr(clock, "time", lambda graphs: [2.0, 2.0 * left.pop(0)])
    assert clock.compare(graph, graph) == pytest.approx(found)
    assert len(shares) - len(left) == looks
