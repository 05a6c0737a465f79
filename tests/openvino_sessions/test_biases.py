"""Convolutions in integers that several read: OpenVINO takes a scale twice, unless they have a bias."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeopt import environment, onnx_graph
from edgeopt.backends import Arrays
from edgeopt.backends.openvino_cpu import OpenvinoCpu
from edgeopt.context import Context
from edgeopt.model import Artifact, Model, write_artifact, write_model

if environment.library_version("openvino") is None:  # looked up, and not imported: see `openvino_sessions`
    pytest.skip("OpenVINO is not installed", allow_module_level=True)

ROOT = Path(__file__).parents[2]
CHANNELS = 16

#: on a CPU without AVX2 nothing hides what the plugin does to products, not even fixed shapes
RUN_WITHOUT_AVX2 = """if True:
    import sys
    from pathlib import Path
    import numpy as np
    from edgeopt.backends.openvino_cpu import OpenvinoCpu
    from edgeopt.model import load_artifact
    folder = Path(sys.argv[1])
    with OpenvinoCpu().open(load_artifact(folder / "built")) as session:
        np.savez(folder / "found.npz", **session.run(dict(np.load(folder / "inputs.npz"))))
"""

#: what takes a product past itself, or is one, and who reads the convolution beside it
READERS = [
    ("Relu", "Exp"), ("Relu", "Transpose"), ("Relu", "Mul"), ("Mul", "Neg"), ("Mul", "Softmax"), ("MaxPool", "Mul"),
    ("Flatten", "Sigmoid"), ("Relu", ""),
]  # fmt: skip


def make_model(
    folder: Path, readers: tuple[str, str], bias: float | None = None, between: tuple[str, ...] = (),
    group: int = 1, rank: int = 2, zero_point: int = 100, quantized: bool = True,
) -> Model:  # fmt: skip
    """A convolution between pairs, whatever stands behind it, and two readers of that; `""`: an output of the graph."""
    generator = np.random.default_rng(0)
    inputs = CHANNELS if group > 1 else 3
    weights = generator.integers(-63, 64, (CHANNELS, inputs // group, *[3] * rank)).astype(np.int8)
    tensors: dict[str, np.ndarray] = {
        "s": np.float32(0.02), "z": np.uint8(zero_point), "w": weights, "ws": np.full(CHANNELS, 0.01, np.float32),
        "wz": np.zeros(CHANNELS, np.int8), "k": np.full((1, CHANNELS, *[1] * rank), 1.3, np.float32),
        "wf": weights.astype(np.float32) * np.float32(0.01), "b": np.full(CHANNELS, bias or 0, np.float32),
        "mean": np.zeros(CHANNELS, np.float32), "variance": np.ones(CHANNELS, np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
    ]
    source = ["d", "wd"] if quantized else ["x", "wf"]
    given = [*source, *(["b"] if bias is not None else [])]
    nodes = [*(nodes if quantized else []), helper.make_node("Conv", given, ["c0"], pads=[1] * 2 * rank, group=group)]
    for number, kind in enumerate(between):
        nodes.append(make_node(kind, f"c{number}", f"c{number + 1}"))
    last = f"c{len(between)}"
    nodes += [make_node(kind, last, f"y{number}") for number, kind in enumerate(readers) if kind]
    outputs = [f"y{number}" if kind else last for number, kind in enumerate(readers)]
    used = {name for node in nodes for name in node.input}
    shape = ["n", inputs, *["height", "width", "depth"][:rank]]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items() if name in used],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    made = onnx.shape_inference.infer_shapes(made)
    onnx_graph.save_graph(made, folder / "model.onnx")
    specs = {"inputs": onnx_graph.input_specs(made), "outputs": onnx_graph.output_specs(made)}
    return write_model(Model.model_validate({"value": {"form": "onnx"}, **specs}).at(folder, folder), folder)


def make_node(kind: str, source: str, result: str) -> onnx.NodeProto:
    more = {"Mul": ["k"], "BatchNormalization": ["mean", "mean", "mean", "variance"]}
    if kind == "BatchNormalization":
        more[kind] = ["variance", "mean", "mean", "variance"]  # scale, shift, mean, variance
    options = {"kernel_shape": [2, 2]} if kind == "MaxPool" else {}
    return helper.make_node(kind, [source, *more.get(kind, [])], [result], **options)


def build(model: Model, folder: Path) -> Artifact:
    return OpenvinoCpu().build(model, Context(folder=folder, target="here", batch=2), folder / "built")


def images(model: Model) -> Arrays:
    (spec,) = model.inputs
    shape = [2, spec.shape[1], *[9] * (len(spec.shape) - 2)]
    return {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}


def exact(model: Model, inputs: Arrays) -> Arrays:
    """Every pair as it stands: nothing is fused, so nothing is computed in integers."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
    return onnx_graph.run_session(session, inputs)


def assert_agrees(found: Arrays, expected: Arrays) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert np.linalg.norm(found[name] - array) < 1e-3 * np.linalg.norm(array), name


@pytest.mark.parametrize("readers", READERS)
@pytest.mark.parametrize("bias", [None, 0.0, 0.3])
def test_a_convolution_that_two_read_is_right_where_axes_are_symbolic(
    readers: tuple[str, str], bias: float | None, tmp_path: Path
) -> None:
    model = make_model(tmp_path, readers, bias)
    with OpenvinoCpu().open(build(model, tmp_path)) as session:
        assert_agrees(session.run(images(model)), exact(model, images(model)))


@pytest.mark.parametrize(
    "more",
    [
        {"zero_point": 0}, {"group": CHANNELS}, {"rank": 1}, {"rank": 3}, {"between": ("Mul",)},
        {"between": ("Mul", "Mul"), "bias": 0.0}, {"between": ("BatchNormalization",)}, {"between": ("Relu",)},
    ],
)  # fmt: skip
def test_so_it_is_whatever_its_shape_and_what_stands_behind_it(more: dict[str, object], tmp_path: Path) -> None:
    model = make_model(tmp_path, ("Relu", "Exp"), **more)  # type: ignore[arg-type]
    with OpenvinoCpu().open(build(model, tmp_path)) as session:
        assert_agrees(session.run(images(model)), exact(model, images(model)))


@pytest.mark.skipif(environment.is_arm(), reason="instruction sets of x86")
def test_so_it_is_with_fixed_shapes_on_a_cpu_without_avx2(tmp_path: Path) -> None:
    model = make_model(tmp_path, ("Relu", "Exp"))
    inputs = images(model)
    fixed = model.inputs[0].model_copy(update={"shape": inputs["x"].shape})
    artifact = build(model.model_copy(update={"inputs": (fixed,)}), tmp_path)
    write_artifact(artifact, tmp_path / "built")
    np.savez(tmp_path / "inputs.npz", **inputs)
    environ = {**os.environ, "ONEDNN_MAX_CPU_ISA": "SSE41", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    subprocess.run([sys.executable, "-c", RUN_WITHOUT_AVX2, str(tmp_path)], env=environ, check=True)
    assert_agrees(dict(np.load(tmp_path / "found.npz")), exact(model, inputs))


@pytest.mark.parametrize(
    ("more", "expected"),
    [({}, 1), ({"bias": 0.0}, 1), ({"between": ("Mul",)}, 1), ({"bias": 0.3}, 0), ({"between": ("Relu",)}, 0),
     ({"quantized": False}, 0)],
)  # fmt: skip
def test_only_what_needs_a_bias_is_given_one(more: dict[str, object], expected: int, tmp_path: Path) -> None:
    from edgeopt.openvino_sessions import import_runtime
    from edgeopt.openvino_sessions.biases import give_biases

    model = make_model(tmp_path, ("Relu", "Exp"), **more)  # type: ignore[arg-type]
    assert give_biases(import_runtime().Core().read_model(str(model.path))) == expected


def test_a_convolution_with_one_reader_is_left_as_it_is(tmp_path: Path) -> None:
    from edgeopt.openvino_sessions import import_runtime
    from edgeopt.openvino_sessions.biases import give_biases

    model = make_model(tmp_path, ("Relu", "Exp"))
    graph = onnx_graph.load_graph(model.path)
    del graph.graph.node[-1], graph.graph.output[-1]
    onnx_graph.save_graph(graph, tmp_path / "one.onnx")
    assert give_biases(import_runtime().Core().read_model(str(tmp_path / "one.onnx"))) == 0
