"""What only OpenVINO promises: a fixed batch, integers that mean what the pairs say, named refusals, nothing sent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeopt import environment, onnx_graph
from edgeopt.backends import Arrays, zeros
from edgeopt.backends.openvino_cpu import OpenvinoCpu, open_runtime
from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import BackendError, MissingError
from edgeopt.model import ActivationRange, Artifact, Model, write_artifact, write_model
from edgeopt.passes.export_onnx import ExportOnnx
from edgeopt.passes.quantize_int8 import QuantizeInt8

if environment.library_version("openvino") is None:  # looked up, and not imported: see the backend
    pytest.skip("OpenVINO is not installed", allow_module_level=True)

ROOT = Path(__file__).parents[2]
LARGEST = 255

WATCHED = """if True:
    import os, sys
    seen = []
    watched = ("os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.getaddrinfo")
    sys.addaudithook(lambda event, arguments: seen.append(event) if event in watched else None)
    from edgeopt.backends.openvino_cpu import OpenvinoCpu
    OpenvinoCpu().available()
    import openvino, openvino_telemetry
    print(openvino.__name__, openvino_telemetry.__name__, seen)
"""


def build(model: Model, folder: Path, batch: int = 1) -> Artifact:
    return OpenvinoCpu().build(model, Context(folder=folder, target="here", batch=batch), folder)


def save(
    nodes: list[onnx.NodeProto], ends: dict[str, tuple[int, list[int | str]]], folder: Path, **given: Any
) -> Model:
    """A model of a graph; `ends` are its inputs and outputs, of which the last is the one output unless `outputs`."""
    outputs = given.pop("outputs", list(ends)[-1:])
    values = {name: helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in ends.items()}
    inputs = [value for name, value in values.items() if name not in outputs]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in given.items()]
    graph = helper.make_graph(nodes, "g", inputs, [values[name] for name in outputs], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx_graph.save_graph(made, folder / "model.onnx")
    specs = {"inputs": onnx_graph.input_specs(made), "outputs": onnx_graph.output_specs(made)}
    return write_model(Model.model_validate({"value": {"form": "onnx"}, **specs}).at(folder, folder), folder)


def set_machine(patch: pytest.MonkeyPatch, machine: str, *isa: str) -> None:
    patch.setattr("platform.machine", lambda: machine)
    patch.setattr(environment, "cpu", lambda: ("a CPU", isa))


def precisions(artifact: Artifact, operator: str) -> list[str]:
    """What each node of that kind computes in, of the graph as OpenVINO runs it."""
    compiled = open_runtime(artifact.folder / "model.onnx", artifact.inputs, 1)
    told = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    found = [{key: str(info[key].value) for key in ("layerType", "runtimePrecision")} for info in told]
    return [one["runtimePrecision"] for one in found if one["layerType"] == operator]


def quantize(model: Model, folder: Path, **options: Any) -> tuple[Model, Arrays]:
    """The model as the profile of this backend wants it, and the samples that it was calibrated on."""
    shape = tuple(int(size) for size in model.inputs[0].shape[1:])
    images = np.random.default_rng(0).standard_normal((100, *shape)).astype(np.float32)
    (folder / "data").mkdir(parents=True)
    np.savez(folder / "data/samples.npz", image=images)
    samples = Samples("npz", folder / "data/samples.npz", ("image",), Preprocess())
    context = Context(folder=folder / "quantized", calibration=samples, profile=OpenvinoCpu().profile())
    return QuantizeInt8(**options)(model, context).model, {"image": images[:16]}


@pytest.mark.parametrize(
    ("machine", "isa", "name", "activations", "bits"),
    [
        ("x86_64", ("avx2",), "openvino_cpu/x86", "uint8", 7),
        ("x86_64", ("avx2", "avx512f"), "openvino_cpu/x86", "uint8", 7),
        ("x86_64", ("avx2", "avx512_vnni"), "openvino_cpu/x86_vnni", "uint8", 8),
        ("x86_64", ("avx2", "avx_vnni"), "openvino_cpu/x86_vnni", "uint8", 8),
        ("aarch64", ("asimd", "asimddp"), "openvino_cpu/arm64", "int8", 8),
    ],
)
def test_the_profile_follows_the_instruction_set(
    monkeypatch: pytest.MonkeyPatch, machine: str, isa: tuple[str, ...], name: str, activations: str, bits: int
) -> None:
    set_machine(monkeypatch, machine, *isa)
    profile = OpenvinoCpu().profile()
    assert (profile.name, profile.activation_dtype, profile.weight_bits) == (name, activations, bits)
    assert profile.activation_symmetric == (machine == "aarch64")


def test_weights_that_need_vnni_say_so(onnx_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"image": ActivationRange(scale=(0.1,), zero_point=(0,))}
    quantized = onnx_model.model_copy(update={"ranges": known})
    found = {}
    for isa in ("avx2", "avx512_vnni"):
        set_machine(monkeypatch, "x86_64", isa)
        for name, model in (("float", onnx_model), ("int8", quantized)):
            found[isa, name] = build(model, tmp_path / isa / name).requires["isa"]
    assert set(found.values()) == {"x86_64", "x86_64 vnni"}
    assert [key for key, isa in found.items() if isa == "x86_64 vnni"] == [("avx512_vnni", "int8")]


def test_an_artifact_is_the_graph_as_it_is_for_one_batch_size(onnx_model: Model, tmp_path: Path) -> None:
    artifact = build(onnx_model, tmp_path, batch=3)
    assert [file.path for file in artifact.files] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == onnx_model.path.read_bytes()
    assert [spec.shape for spec in (*artifact.inputs, *artifact.outputs)] == [(3, 1, 16, 16), (3, 4)]
    assert artifact.requires["openvino"] == environment.library_version("openvino")
    with OpenvinoCpu().open(artifact) as session:
        assert session.run(zeros(artifact, 3))["output"].shape == (3, 4)
        with pytest.raises(BackendError, match=r"expected `image` as float32 \[3, 1, 16, 16\], got float32 \[1, 1"):
            session.run({"image": np.zeros((1, 1, 16, 16), np.float32)})


def test_a_graph_into_which_the_batch_does_not_go_is_refused_on_opening(tmp_path: Path) -> None:
    """With a symbolic batch OpenVINO gives the outputs of the run before, and says nothing."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    ends: dict[str, tuple[int, list[int | str]]] = {"x": (1, ["n", 3]), "y": (1, ["m", 4])}
    model = save(nodes, ends, tmp_path, shape=np.array([-1, 4]))
    with OpenvinoCpu().open(build(model, tmp_path / "four", 4)) as session:
        assert session.run({"x": np.zeros((4, 3), np.float32)})["y"].shape == (3, 4)
    with pytest.raises(BackendError, match="do not evenly divide"):
        OpenvinoCpu().open(build(model, tmp_path / "one", 1))


def test_axes_beside_the_batch_may_still_vary(tmp_path: Path) -> None:
    ends: dict[str, tuple[int, list[int | str]]] = {
        "x": (1, ["n", 3, "side", "side"]),
        "y": (1, ["n", 3, "side", "side"]),
    }
    artifact = build(save([helper.make_node("Relu", ["x"], ["y"])], ends, tmp_path), tmp_path / "built", 2)
    assert artifact.inputs[0].shape == (2, 3, "side", "side")
    with OpenvinoCpu().open(artifact) as session:
        for side in (4, 6):
            assert session.run({"x": np.ones((2, 3, side, side), np.float32)})["y"].sum() == 2 * 3 * side * side


def test_inputs_that_nobody_reads_and_outputs_of_any_type(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"]),
        helper.make_node("ArgMax", ["positive"], ["index"], axis=1, keepdims=0),
        helper.make_node("Greater", ["x", "positive"], ["greater"]),
    ]
    ends: dict[str, tuple[int, list[int | str]]] = {
        "unread": (TensorProto.FLOAT, ["n", 2]), "x": (TensorProto.FLOAT, ["n", 3]),
        "index": (TensorProto.INT64, ["n"]), "greater": (TensorProto.BOOL, ["n", 3]),
    }  # fmt: skip
    artifact = build(save(nodes, ends, tmp_path, outputs=["index", "greater"]), tmp_path / "built", 2)
    given = {"unread": np.zeros((2, 2), np.float32), "x": np.array([[1, 2, 0], [-1, -2, 3]], np.float32)}
    with OpenvinoCpu().open(artifact) as session:
        found = session.run(given)
    assert {name: array.dtype.name for name, array in found.items()} == {"index": "int64", "greater": "bool"}
    assert found["index"].tolist() == [1, 2]
    assert not found["greater"].any()


def test_an_operator_that_the_runtime_lacks_is_named(onnx_model: Model, tmp_path: Path) -> None:
    graph = onnx_graph.load_graph(onnx_model.path)
    graph.graph.node[-1].op_type = "Frobnicate"
    onnx_graph.save_graph(graph, tmp_path / "odd" / "model.onnx")
    artifact = build(onnx_model.at(tmp_path / "odd", tmp_path), tmp_path / "built")
    with pytest.raises(BackendError, match="No conversion rule found for operations: Frobnicate"):
        OpenvinoCpu().open(artifact)


@pytest.mark.parametrize("size", [0, 1000])
def test_a_torn_file_is_a_named_failure(onnx_model: Model, tmp_path: Path, size: int) -> None:
    artifact = build(onnx_model, tmp_path)
    (tmp_path / "model.onnx").write_bytes(onnx_model.path.read_bytes()[:size])
    with pytest.raises(BackendError, match=r"cannot run .*model\.onnx`: \w+") as caught:
        OpenvinoCpu().open(artifact)
    assert "\n" not in caught.value.message
    assert "Exception from" not in caught.value.message


def test_a_failure_inside_a_run_is_a_backend_error(onnx_model: Model, tmp_path: Path) -> None:
    """An artifact that tells of another dtype than its file: only the runtime can find that."""
    artifact = build(onnx_model, tmp_path)
    wrong = artifact.model_copy(update={"inputs": (artifact.inputs[0].model_copy(update={"dtype": "float64"}),)})
    with OpenvinoCpu().open(wrong) as session:
        for _ in range(2):
            with pytest.raises(BackendError, match=r"OpenVINO failed: .*f64") as caught:
                session.run(zeros(wrong, 1))
            assert "\n" not in caught.value.message


def test_a_closed_session_says_so(onnx_model: Model, tmp_path: Path) -> None:
    artifact = build(onnx_model, tmp_path)
    session = OpenvinoCpu().open(artifact)
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run(zeros(artifact, 1))


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingError) as caught:
        OpenvinoCpu().available()
    assert "edgeopt[openvino]" in caught.value.hint


def test_nothing_is_sent_and_nobody_is_counted(tmp_path: Path) -> None:
    """As it is, `import openvino` writes an identity into the home folder and forks a process that reports it."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}  # and no `CI`, which would keep it quiet as well
    environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", WATCHED], env=environ, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.stdout.split(maxsplit=2) == ["openvino", "openvino_telemetry", "[]\n"], done.stderr
    assert not list(tmp_path.iterdir())


def test_it_is_opened_as_the_artifact_says(onnx_model: Model, tmp_path: Path) -> None:
    artifact = build(onnx_model, tmp_path)
    compiled = open_runtime(tmp_path / "model.onnx", artifact.inputs, 2)
    wanted = {
        "INFERENCE_NUM_THREADS": "2", "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": "False",
        "INFERENCE_PRECISION_HINT": "<Type: 'float32'>", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    }  # fmt: skip
    assert {name: str(compiled.get_property(name)) for name in wanted} == wanted
    assert set(precisions(artifact, "Convolution")) == {"f32"}


def test_all_convolutions_run_in_integers_but_those_that_are_kept_in_float(onnx_model: Model, tmp_path: Path) -> None:
    graph = onnx_graph.load_graph(onnx_model.path)
    chosen = [node.name for node in graph.graph.node if node.op_type == "Conv"][1]
    for kept, floats in (((), 0), ((chosen,), 1)):
        folder = tmp_path / str(floats)
        quantized, _ = quantize(onnx_model, folder, keep_float=kept)
        found = precisions(build(quantized, folder / "built"), "Convolution")
        assert (len(found), found.count("f32")) == (6, floats)
        assert set(found) <= {"u8", "i8", "f32"}


def test_what_only_floats_are_made_of_has_no_pair(architecture: Callable[[str], Model], tmp_path: Path) -> None:
    """A pair between a convolution and a concatenation in float would be two conversions for nothing."""
    model = ExportOnnx()(architecture("make_concatenated"), Context(folder=tmp_path / "float")).model
    quantized, _ = quantize(model, tmp_path)
    nodes = onnx_graph.load_graph(quantized.path).graph.node
    dequantized = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    joins = [node for node in nodes if node.op_type == "Concat"]
    assert joins
    assert dequantized
    assert not any(dequantized & {*node.input} for node in joins)


@pytest.mark.parametrize(
    "function", ["make_plain", "make_option_a", "make_mobile", "make_concatenated", "make_grouped", "make_upsampling"]
)
def test_integers_mean_what_the_pairs_say(architecture: Callable[[str], Model], function: str, tmp_path: Path) -> None:
    """Beside the float network OpenVINO is no worse than the same pairs, computed one by one."""
    model = ExportOnnx()(architecture(function), Context(folder=tmp_path / "float")).model
    quantized, images = quantize(model, tmp_path)
    exact, pairs = (onnx_graph.run_session(exact_session(each), images)["output"] for each in (model, quantized))
    with OpenvinoCpu().open(build(quantized, tmp_path / "built", 16)) as session:
        found = session.run(images)["output"]
    assert noise(exact, found) < 1.5 * noise(exact, pairs)
    assert noise(exact, found) < 0.1


@pytest.mark.parametrize("joined", ["Pad", "Concat"])
def test_what_openvino_gets_wrong_under_other_profiles_is_right_under_this_one(joined: str, tmp_path: Path) -> None:
    """Between pairs it refuses a Pad of channels where the zero point is not 0, or pads with what is not zero; of int8
    activations it makes something else in a Concat."""
    generator = np.random.default_rng(0)
    shapes = {"one": (4, 3, 3, 3), "other": (4, 3, 1, 1), "last": (8, 8, 3, 3)}
    weights = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["image", "one"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["image", "other"], ["b"]),
        {"Pad": helper.make_node("Pad", ["a", "pads"], ["c"]),
         "Concat": helper.make_node("Concat", ["a", "b"], ["c"], axis=1)}[joined],
        helper.make_node("Conv", ["c", "last"], ["y"], pads=[1, 1, 1, 1]),
    ]  # fmt: skip
    ends: dict[str, tuple[int, list[int | str]]] = {"image": (1, ["n", 3, 8, 8]), "y": (1, ["n", 8, 8, 8])}
    model = save(nodes, ends, tmp_path / "float", **weights, pads=np.array([0, 2, 0, 0, 0, 2, 0, 0]))
    quantized, images = quantize(model, tmp_path)
    exact = onnx_graph.run_session(exact_session(model), images)["y"]
    artifact = build(quantized, tmp_path / "built", 16)
    with OpenvinoCpu().open(artifact) as session:
        assert noise(exact, session.run(images)["y"]) < 0.03
    assert set(precisions(artifact, "Convolution")) <= {"u8", "i8"}


def exact_session(model: Model) -> Any:
    """Every pair as it stands: nothing is fused, so nothing is computed in integers."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])


def noise(exact: NDArray[Any], found: NDArray[Any]) -> float:
    """The error as a share of the signal."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize("operator", ["Conv", "Gemm"])
def test_the_largest_weights_of_the_profile_do_not_saturate(operator: str, tmp_path: Path) -> None:
    """Without VNNI two products are added in 16 bits, in which 8-bit weights give half of the sum."""
    largest = min(127, 2 ** (OpenvinoCpu().profile().weight_bits - 1))
    assert sum_of_largest(operator, largest, tmp_path / "largest") == pytest.approx(64 * LARGEST * largest, rel=1e-4)
    if not environment.has_integer_dot_product() and environment.cpu()[1]:
        saturated = sum_of_largest(operator, 127, tmp_path / "saturated")
        assert saturated == pytest.approx(32 * (2**15 - 1), rel=1e-4)


def sum_of_largest(operator: str, weight: int, folder: Path) -> float:
    """The sum of 64 products of the largest uint8 with a weight, of a node between pairs whose scales are 1."""
    square = (1, 1) if operator == "Conv" else ()
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ones", "zeros"], ["wd"], axis=0),
        helper.make_node(operator, ["d", "wd"], ["y"], **({} if square else {"transB": 1})),
    ]
    ends: dict[str, tuple[int, list[int | str]]] = {"x": (1, ["n", 64, *square]), "y": (1, ["n", 64, *square])}
    weights = {"w": np.full((64, 64, *square), weight, np.int8), "zeros": np.zeros(64, np.int8)}
    scales = {"one": np.float32(1), "zero": np.uint8(0), "ones": np.ones(64, np.float32)}
    model = save(nodes, ends, folder, **weights, **scales)
    with OpenvinoCpu().open(build(model, folder / "built")) as session:
        return float(session.run({"x": np.full((1, 64, *square), LARGEST, np.float32)})["y"].flat[0])


PINNED = """if True:
    import os, sys, threading
    from pathlib import Path
    import numpy as np
    from edgeopt.model import load_artifact
    from edgeopt.validation.subject import Subject

    core, image = max(os.sched_getaffinity(0)), np.zeros((1, 1, 16, 16), np.float32)
    subject = Subject(load_artifact(Path(sys.argv[1])), [{"image": image}], later=True)
    subject.open((core,))
    subject.pin((core,))
    seen, here, done = set(), threading.get_native_id(), threading.Event()

    def watch():
        while not done.is_set():
            seen.add(tuple(os.sched_getaffinity(here)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(300):
        subject.time_block(0, 5)
    done.set()
    watcher.join()
    sys.stdout.write(str(seen == {(core,)}))
"""


@pytest.mark.skipif(environment.cpu_cores() < 2, reason="on one core nothing can leave it")
def test_what_is_timed_on_one_core_stays_there(onnx_model: Model, tmp_path: Path) -> None:
    """In each run, OpenVINO lets the calling thread go wherever it might when the library was first asked."""
    write_artifact(build(onnx_model, tmp_path), tmp_path)
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = [sys.executable, "-c", PINNED, str(tmp_path)]
    assert subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout == "True"
