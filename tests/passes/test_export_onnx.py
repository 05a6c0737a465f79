"""ONNX export on real networks: what the graph looks like, and that a graph that would be wrong is never written."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgeopt import exporting, onnx_graph
from edgeopt.context import Context
from edgeopt.errors import PassError
from edgeopt.model import Model, TensorSpec, TorchValue
from edgeopt.network import call_factory, write_network
from edgeopt.passes.export_onnx import ExportOnnx

NETWORKS = Path(__file__).parents[1] / "networks"
IMAGE = TensorSpec(name="image", shape=("batch", 1, 8, 8))
LOGITS = TensorSpec(name="output", shape=("batch", 4))


def make_model(
    folder: Path, kind: str, inputs: tuple[TensorSpec, ...] = (IMAGE,), outputs: tuple[TensorSpec, ...] = (LOGITS,)
) -> Model:
    value = TorchValue(factory="awkward.py:make_network", options={"kind": kind})
    described = Model(value=value, inputs=inputs, outputs=outputs, sources=NETWORKS)
    return write_network(call_factory(NETWORKS, value.factory, value.options), described, folder / "given")


def operators(model: Model) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(model.path).graph.node)


def test_normalization_is_folded_and_pooling_stays_pooling(onnx_model: Model) -> None:
    assert operators(onnx_model) == {"Conv": 6, "Relu": 5, "Add": 2, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}


def test_the_graph_keeps_names_and_a_symbolic_batch(onnx_model: Model, torch_model: Model) -> None:
    graph = onnx_graph.load_graph(onnx_model.path)
    assert onnx_graph.input_specs(graph) == torch_model.inputs == onnx_model.inputs
    assert onnx_graph.output_specs(graph) == torch_model.outputs == onnx_model.outputs
    onnx.checker.check_model(graph, full_check=True)


@pytest.mark.parametrize("opset", [17, 21])
def test_the_graph_has_the_opset_that_was_asked_for(torch_model: Model, tmp_path: Path, opset: int) -> None:
    exported = ExportOnnx(opset=opset)(torch_model, Context(folder=tmp_path)).model
    assert [(each.domain, each.version) for each in onnx.load(exported.path).opset_import] == [("", opset)]


def test_it_tells_how_far_network_and_graph_are_apart(torch_model: Model, tmp_path: Path) -> None:
    facts = ExportOnnx()(torch_model, Context(folder=tmp_path)).facts
    assert facts["exporter"] == "trace"
    assert 0 < float(facts["max_difference"]) < 1e-5
    assert facts["summary"] == f"max difference {facts['max_difference']:.0e}"


def test_equal_tensors_leave_no_identity_before_a_convolution(tmp_path: Path) -> None:
    exported = ExportOnnx()(make_model(tmp_path, "FreshNorms"), Context(folder=tmp_path)).model
    assert set(operators(exported)) == {"Conv", "Relu", "GlobalAveragePool", "Flatten"}


def test_a_network_with_a_named_pair_of_outputs_keeps_both(tmp_path: Path) -> None:
    outputs = (TensorSpec(name="features", shape=("batch", 8)), LOGITS.model_copy(update={"name": "logits"}))
    model = make_model(tmp_path, "TwoOutputs", outputs=outputs)
    exported = ExportOnnx()(model, Context(folder=tmp_path)).model
    assert exported.outputs == outputs == onnx_graph.output_specs(onnx_graph.load_graph(exported.path))


def test_a_network_with_two_inputs_takes_them_in_order(tmp_path: Path) -> None:
    inputs = (IMAGE, TensorSpec(name="scale", shape=("batch", 1)))
    exported = ExportOnnx()(make_model(tmp_path, "TwoInputs", inputs), Context(folder=tmp_path)).model
    session = onnx_graph.make_session(onnx_graph.load_graph(exported.path))
    image = np.ones((2, 1, 8, 8), np.float32)
    once, twice = (
        onnx_graph.run_session(session, {"image": image, "scale": np.full((2, 1), scale, np.float32)})["output"]
        for scale in (1, 2)
    )
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)


def test_nothing_is_said_on_any_stream(
    torch_model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ExportOnnx()(torch_model, Context(folder=tmp_path))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_graph_that_computes_something_else_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(exporting.EXPORTERS, "capture", _give_up)
    model = make_model(tmp_path, "Stateful")
    with pytest.raises(PassError, match=r"by `trace` outputs differ by \de.\d+, allowed is 1e-04; `capture` failed"):
        ExportOnnx()(model, Context(folder=tmp_path / "out"))
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_a_tolerance_below_rounding_is_a_named_failure(
    torch_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(exporting.EXPORTERS, "capture", _give_up)
    with pytest.raises(PassError, match=r"differ by \de-0\d, allowed is 1e-12"):
        ExportOnnx(tolerance=1e-12)(torch_model, Context(folder=tmp_path))


def test_control_flow_on_values_is_never_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(exporting.EXPORTERS, "capture", _give_up)
    with pytest.raises(PassError, match=r"`trace` failed: .* a Python boolean .*; `capture` failed: .* gave up"):
        ExportOnnx()(make_model(tmp_path, "ValueDependent"), Context(folder=tmp_path))


@pytest.mark.slow
def test_what_cannot_be_traced_is_captured_and_the_reason_told(tmp_path: Path, torch_model: Model) -> None:
    """The second exporter: sound about control flow, silent, without paths, and the same bytes each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(exporting.EXPORTERS, "trace", _give_up)
        one, two = (ExportOnnx()(torch_model, Context(folder=tmp_path / name)) for name in "ab")
    assert one.facts["exporter"] == "capture"
    assert one.facts["exporter_reason"] == "`trace` failed: RuntimeError: gave up"
    assert one.model.path.read_bytes() == two.model.path.read_bytes()
    assert operators(one.model)["Conv"] == 6
    assert not {"BatchNormalization", "Identity"} & set(operators(one.model))
    assert str(NETWORKS).encode() not in one.model.path.read_bytes()


def _give_up(*_arguments: Any) -> onnx.ModelProto:
    raise RuntimeError("gave up\nand more lines")


def test_the_network_that_was_given_is_only_read(torch_model: Model, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    ExportOnnx()(torch_model, Context(folder=tmp_path, seed=3))
    assert torch.equal(torch.random.get_rng_state(), before)
