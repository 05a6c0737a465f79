"""An engine of the fake runs the graph that it was built from, and goes wrong as the real ones do."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from fake_gpu import VERSIONS
from onnx import TensorProto, helper, numpy_helper

from edgeopt import workers
from edgeopt.errors import WorkerError

BOTH = pytest.mark.parametrize("fake_gpu", [10, 11], indirect=True)

IMAGES = np.random.default_rng(0).standard_normal((3, 1, 16, 16)).astype(np.float32)


def build(graph: Path, **options: Any) -> bytes:
    """A plan by way of Polygraphy."""
    import tensorrt
    from polygraphy.backend import trt

    builder, network, parser = trt.network_from_onnx_path(str(graph), strongly_typed=True)
    profile = trt.Profile()
    for index in range(network.num_inputs):
        name, (_, *rest) = network.get_input(index).name, network.get_input(index).shape
        profile.add(name, (1, *rest), (4, *rest), (8, *rest))
    verbosity = tensorrt.ProfilingVerbosity.DETAILED
    config = trt.create_config(builder, network, profiles=[profile], profiling_verbosity=verbosity, **options)
    return bytes(trt.engine_bytes_from_network((builder, network, parser), config))


def build_from(graph: str) -> bytes:
    """The same where only text crosses: in a worker."""
    return build(Path(graph))


class Told:
    """A logger that keeps what it is told."""

    def __new__(cls) -> Any:
        import tensorrt

        class Kept(tensorrt.ILogger):
            def __init__(self) -> None:
                tensorrt.ILogger.__init__(self)
                self.errors: list[str] = []

            def log(self, severity: Any, msg: str) -> None:
                if severity == tensorrt.ILogger.ERROR:
                    self.errors.append(msg)

        return Kept()


def open_plan(plan: bytes, logger: Any = None) -> Any:
    import tensorrt

    return tensorrt.Runtime(logger or Told()).deserialize_cuda_engine(plan)


def run(engine: Any, images: np.ndarray) -> np.ndarray:
    """What a session does: memory, addresses, a stream, and a wait at the end."""
    from cuda.bindings import runtime

    context = engine.create_execution_context()
    _, stream = runtime.cudaStreamCreate()
    source, result = engine.get_tensor_name(0), engine.get_tensor_name(1)
    assert context.set_input_shape(source, images.shape)
    shape = tuple(context.get_tensor_shape(result))
    outcome = np.empty(shape, np.float32)
    places = {}
    for name, array in ((source, images), (result, outcome)):
        _, places[name] = runtime.cudaMalloc(array.nbytes)
        assert context.set_tensor_address(name, places[name])
    kinds = runtime.cudaMemcpyKind
    runtime.cudaMemcpyAsync(places[source], images.ctypes.data, images.nbytes, kinds.cudaMemcpyHostToDevice, stream)
    assert context.execute_async_v3(int(stream))
    runtime.cudaMemcpyAsync(outcome.ctypes.data, places[result], outcome.nbytes, kinds.cudaMemcpyDeviceToHost, stream)
    assert runtime.cudaStreamSynchronize(stream) == (0,)
    return outcome


@pytest.fixture(scope="session")
def graph(onnx_model: Any) -> Path:
    return Path(onnx_model.path)


@pytest.fixture
def quantized(tmp_path: Path) -> Callable[..., Path]:
    """Makes one convolution between pairs, its activations around a zero point."""

    def make(zero: int = 0, dtype: Any = np.int8) -> Path:
        weights = np.random.default_rng(1).integers(-127, 127, (8, 1, 3, 3)).astype(np.int8)
        constants = {
            "scale": np.float32(0.05), "zero": np.asarray(zero, dtype), "w": weights,
            "w_scale": np.full(8, 0.01, np.float32), "w_zero": np.zeros(8, np.int8),
        }  # fmt: skip
        nodes = [
            helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"], "quantize"),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"], "dequantize"),
            helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wf"], "weights", axis=0),
            helper.make_node("Conv", ["x", "wf"], ["c"], "conv1", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], "relu1"),
            helper.make_node("Softsign", ["r"], ["y"], "last"),
        ]
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 16, 16])
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 16, 16])
        initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
        made = helper.make_graph(nodes, "small", [image], [output], initializers)
        path = tmp_path / f"{zero}_{np.dtype(dtype)}.onnx"
        onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)]), path)
        return path

    return make


@BOTH
def test_an_engine_gives_what_the_graph_gives(fake_gpu: Any, graph: Path) -> None:
    engine = open_plan(build(graph))
    expected = onnxruntime.InferenceSession(str(graph)).run(None, {"image": IMAGES})[0]
    assert tuple(engine.get_tensor_shape("image")) == (-1, 1, 16, 16)
    np.testing.assert_allclose(run(engine, IMAGES), expected, atol=1e-5)


@BOTH
def test_a_session_may_capture_the_run_once_the_shapes_are_settled(fake_gpu: Any, graph: Path) -> None:
    from cuda.bindings import runtime

    told = Told()
    engine = open_plan(build(graph), told)
    context = engine.create_execution_context()
    _, stream = runtime.cudaStreamCreate()
    context.set_input_shape("image", (3, 1, 16, 16))
    for name in ("image", engine.get_tensor_name(1)):
        _, place = runtime.cudaMalloc(context.get_max_output_size(name))
        context.set_tensor_address(name, place)
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    runtime.cudaStreamBeginCapture(stream, mode)
    assert not context.execute_async_v3(stream)
    assert runtime.cudaStreamEndCapture(stream)[0] == runtime.cudaError_t.cudaErrorStreamCaptureInvalidated
    assert context.execute_async_v3(stream)
    runtime.cudaStreamSynchronize(stream)
    runtime.cudaStreamBeginCapture(stream, mode)
    assert context.execute_async_v3(stream)
    error, captured = runtime.cudaStreamEndCapture(stream)
    assert not error
    assert not runtime.cudaGraphInstantiate(captured, 0)[0]


def test_a_run_at_an_address_that_is_no_memory_breaks_the_context(fake_gpu: Any, graph: Path) -> None:
    from cuda.bindings import runtime

    engine = open_plan(build(graph))
    context = engine.create_execution_context()
    context.set_input_shape("image", (3, 1, 16, 16))
    buffer = ctypes.create_string_buffer(1 << 16)
    for name in ("image", engine.get_tensor_name(1)):
        context.set_tensor_address(name, ctypes.addressof(buffer))
    assert context.execute_async_v3(0)
    assert runtime.cudaStreamSynchronize(0) == (runtime.cudaError_t.cudaErrorIllegalAddress,)


def test_a_shape_outside_of_the_profile_is_refused(fake_gpu: Any, graph: Path) -> None:
    told = Told()
    context = open_plan(build(graph), told).create_execution_context()
    assert context.infer_shapes() == ["image"]
    assert not context.set_input_shape("image", (9, 1, 16, 16))
    assert not context.execute_async_v3(0)
    assert "is not within (1, 1, 16, 16) … (8, 1, 16, 16)" in told.errors[0]


@pytest.mark.parametrize(
    "made", [{"zero": 3}, {"dtype": np.uint8}], ids=["a zero point beside zero", "unsigned integers"]
)
def test_the_parser_refuses_pairs_that_are_not_symmetric(made: Any, fake_gpu: Any, quantized: Any) -> None:
    import tensorrt

    logger = Told()
    parser = tensorrt.OnnxParser(tensorrt.Builder(logger).create_network(), logger)
    assert not parser.parse_from_file(str(quantized(**made)))
    fault = parser.get_error(0)
    assert (fault.node_name(), fault.node_operator()) == ("quantize", "QuantizeLinear")
    assert fault.code() == tensorrt.ErrorCode.UNSUPPORTED_NODE


@BOTH
def test_the_parser_refuses_an_operator_by_the_name_of_its_node(fake_gpu: Any, quantized: Any) -> None:
    import tensorrt
    from polygraphy.backend import trt
    from polygraphy.exception import PolygraphyException

    fake_gpu.set(refuses=("Softsign",))
    logger = Told()
    parser = tensorrt.OnnxParser(tensorrt.Builder(logger).create_network(), logger)
    assert not parser.parse_from_file(str(quantized()))
    assert [parser.get_error(index).node_name() for index in range(parser.num_errors)] == ["last"]
    with pytest.raises(PolygraphyException, match="Could not parse ONNX correctly"):
        trt.network_from_onnx_path(str(quantized()), strongly_typed=True)


@pytest.mark.parametrize("what", ["none", "out_of_memory"])
def test_a_build_that_fails_returns_nothing(what: str, fake_gpu: Any, graph: Path) -> None:
    from polygraphy.exception import PolygraphyException

    fake_gpu.set(build=what)
    with pytest.raises(PolygraphyException, match="Invalid Engine"):
        build(graph)


def test_a_worker_builds_with_the_same_fakes(fake_gpu: Any, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    plan = workers.run("test_fake_tensorrt:build_from", str(graph))
    assert open_plan(plan) is not None


@pytest.mark.parametrize(("what", "said"), [("segfault", "crashed with SIGSEGV"), ("hang", "did not answer")])
def test_a_build_may_take_its_process_with_it(
    what: str, said: str, fake_gpu: Any, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    fake_gpu.set(build=what)
    with pytest.raises(WorkerError, match=said):
        workers.run(
            "test_fake_tensorrt:build_from", str(graph), limits=workers.Limits(seconds=5 if what == "hang" else 60)
        )


def test_outputs_may_be_nan_and_a_context_may_find_no_memory(fake_gpu: Any, graph: Path) -> None:
    engine = open_plan(build(graph))
    fake_gpu.set(nan=True)
    assert np.isnan(run(engine, IMAGES)).all()
    fake_gpu.set(no_context=True)
    assert engine.create_execution_context() is None


@BOTH
def test_the_inspector_tells_the_precision_of_each_layer(fake_gpu: Any, quantized: Any) -> None:
    import tensorrt

    def layers() -> list[dict[str, Any]]:
        engine = open_plan(build(quantized()))
        inspector = engine.create_engine_inspector()
        context = engine.create_execution_context()
        assert context.set_input_shape("image", (3, 1, 16, 16))
        inspector.execution_context = context
        return json.loads(inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON))["Layers"]

    key, integer, real = {
        10: ("Format/Datatype", "Four wide channel vectorized row major Int8 format", "Row major linear FP32"),
        11: ("Datatype", "Int8", "Float"),
    }[fake_gpu.major]
    found = {layer["Name"]: layer for layer in layers()}
    assert list(found) == ["quantize", "conv1 + relu1", "last"]
    conv = found["conv1 + relu1"]
    assert (conv["Inputs"][0][key], conv["Outputs"][0][key]) == (integer, real)
    assert conv["Inputs"][0]["Dimensions"] == [3, 1, 16, 16]
    assert conv["Weights"] == {"Type": "Int8", "Count": 72}
    assert conv["Metadata"] == "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]"
    fake_gpu.set(float_layers=("conv1",))
    conv = next(layer for layer in layers() if "conv1" in layer["Name"])
    assert (conv["Inputs"][0][key], conv["Weights"]["Type"]) == (real, "Float")


@BOTH
def test_the_report_names_inputs_and_outputs_as_its_version_does(fake_gpu: Any, graph: Path) -> None:
    import tensorrt

    engine = open_plan(build(graph))
    inspector = engine.create_engine_inspector()
    inspector.execution_context = engine.create_execution_context()  # which knows no shapes yet
    report = json.loads(inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON))
    assert set(report) == {"Layers", "Bindings" if fake_gpu.major == 10 else "I/O Tensors"}
    first = report["Layers"][0]["Inputs"][0]
    assert "N/A due to dynamic shapes" in (first.get("Format/Datatype"), first.get("Format"))


def test_a_plan_fits_its_version_and_its_gpu(fake_gpu: Any, graph: Path) -> None:
    plan = build(graph)
    assert open_plan(plan[:-1]) is None
    fake_gpu.set(capability=(8, 9))
    assert open_plan(plan) is None
    fake_gpu.set(capability=(8, 7), version=VERSIONS[10])
    fake_gpu.reload()
    told = Told()
    assert open_plan(plan, told) is None
    assert "11.4.0.106 was built, 10.16.1.11 runs" in told.errors[0]


def test_a_plan_without_weights_runs_once_it_is_refitted(fake_gpu: Any, graph: Path) -> None:
    import tensorrt

    engine = open_plan(build(graph, strip_plan=True, refittable=True))
    assert not np.allclose(run(engine, IMAGES), run(open_plan(build(graph)), IMAGES))
    refitter = tensorrt.Refitter(engine, Told())
    assert not refitter.refit_cuda_engine()
    assert tensorrt.OnnxParserRefitter(refitter, Told()).refit_from_file(str(graph))
    assert refitter.refit_cuda_engine()
    np.testing.assert_allclose(run(engine, IMAGES), run(open_plan(build(graph)), IMAGES), atol=1e-5)


@pytest.mark.parametrize("fake_gpu", [10], indirect=True)
def test_version_10_refuses_a_precision_for_a_network_that_has_its_own(fake_gpu: Any, graph: Path) -> None:
    from polygraphy.exception import PolygraphyException

    with pytest.raises(PolygraphyException, match="Invalid Engine"):
        build(graph, fp16=True)


def test_what_version_11_has_lost_is_lost_here(fake_gpu: Any, graph: Path) -> None:
    import tensorrt
    from polygraphy.exception import PolygraphyException

    config = tensorrt.Builder(Told()).create_builder_config()
    with pytest.raises(AttributeError):
        config.int8_calibrator = None
    with pytest.raises(PolygraphyException, match="not available on TensorRT version"):
        build(graph, int8=True)


def test_no_builder_is_made_without_a_gpu(fake_gpu: Any) -> None:
    import tensorrt

    fake_gpu.set(devices=0)
    with pytest.raises(TypeError, match="factory function returned nullptr"):
        tensorrt.Builder(Told())
