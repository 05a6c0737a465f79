"""What only ONNX Runtime promises: profiles by instruction set, one file, and named refusals."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from edgeopt import environment, onnx_graph, onnx_sessions
from edgeopt.backends import zeros
from edgeopt.backends.null import Null
from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu, open_runtime
from edgeopt.context import Context
from edgeopt.errors import BackendError, MissingError
from edgeopt.model import ActivationRange, Artifact, Model
from edgeopt.onnx_sessions import Opening
from edgeopt.quantization.arithmetic import Range
from edgeopt.quantization.fold import fold
from edgeopt.quantization.insert import insert_pairs
from edgeopt.quantization.placement import make_placement
from edgeopt.quantization.scheme import make_scheme


def build(model: Model, folder: Path, threads: int = 1, **options: object) -> Artifact:
    context = Context(folder=folder, target="here", threads=threads)
    return OnnxruntimeCpu.model_validate(options).build(model, context, folder)


def set_machine(patch: pytest.MonkeyPatch, machine: str, *isa: str) -> None:
    patch.setattr("platform.machine", lambda: machine)
    patch.setattr(environment, "cpu", lambda: ("a CPU", isa))


@pytest.mark.parametrize(
    ("machine", "isa", "name", "activations", "bits"),
    [
        ("x86_64", ("avx2",), "onnxruntime_cpu/x86", "uint8", 7),
        ("x86_64", ("avx2", "avx512f"), "onnxruntime_cpu/x86", "uint8", 7),
        ("x86_64", ("avx2", "avx512_vnni"), "onnxruntime_cpu/x86_vnni", "uint8", 8),
        ("x86_64", ("avx2", "avx_vnni"), "onnxruntime_cpu/x86_vnni", "uint8", 8),
        ("aarch64", ("asimd", "asimddp"), "onnxruntime_cpu/arm64", "int8", 8),
        ("aarch64", ("asimd",), "onnxruntime_cpu/arm64", "int8", 8),
        ("riscv64", (), "onnxruntime_cpu/x86", "uint8", 7),
    ],
)
def test_the_profile_follows_the_instruction_set(
    monkeypatch: pytest.MonkeyPatch, machine: str, isa: tuple[str, ...], name: str, activations: str, bits: int
) -> None:
    set_machine(monkeypatch, machine, *isa)
    profile = OnnxruntimeCpu().profile()
    assert (profile.name, profile.activation_dtype, profile.weight_bits) == (name, activations, bits)
    assert profile.weight_dtype == "int8"
    assert not profile.activation_symmetric


def test_weights_that_need_vnni_say_so(onnx_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"image": ActivationRange(scale=(0.1,), zero_point=(0,))}
    quantized = onnx_model.model_copy(update={"ranges": known})
    found = {}
    for isa in ("avx2", "avx512_vnni"):
        set_machine(monkeypatch, "x86_64", isa)
        for name, model in (("float", onnx_model), ("int8", quantized)):
            found[isa, name] = build(model, tmp_path / isa / name).requires["isa"]
    assert found == {
        ("avx2", "float"): "x86_64",
        ("avx2", "int8"): "x86_64",
        ("avx512_vnni", "float"): "x86_64",
        ("avx512_vnni", "int8"): "x86_64 vnni",
    }


def test_an_artifact_is_the_graph_as_it_is(onnx_model: Model, tmp_path: Path) -> None:
    artifact = build(onnx_model, tmp_path)
    assert [file.path for file in artifact.files] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == onnx_model.path.read_bytes()
    assert artifact.requires["onnxruntime"] == environment.library_version("onnxruntime")


def test_one_artifact_runs_any_batch(onnx_model: Model, tmp_path: Path) -> None:
    artifact = build(onnx_model, tmp_path)
    with OnnxruntimeCpu().open(artifact) as session:
        assert [session.run(zeros(artifact, batch))["output"].shape for batch in (1, 7)] == [(1, 4), (7, 4)]


def test_an_operator_that_the_runtime_lacks_is_named(onnx_model: Model, tmp_path: Path) -> None:
    graph = onnx_graph.load_graph(onnx_model.path)
    graph.graph.node[-1].op_type = "Frobnicate"
    onnx_graph.save_graph(graph, tmp_path / "odd" / "model.onnx")
    artifact = build(onnx_model.at(tmp_path / "odd", tmp_path), tmp_path / "built")
    with pytest.raises(BackendError, match="Frobnicate"):
        OnnxruntimeCpu().open(artifact)


def test_a_torn_file_is_a_named_failure(onnx_model: Model, tmp_path: Path) -> None:
    artifact = build(onnx_model, tmp_path)
    (tmp_path / "model.onnx").write_bytes(onnx_model.path.read_bytes()[:1000])
    with pytest.raises(BackendError, match=r"cannot run .*model\.onnx") as caught:
        OnnxruntimeCpu().open(artifact)
    assert "\n" not in caught.value.message


def test_a_failure_inside_a_run_is_a_backend_error(tmp_path: Path) -> None:
    """The graph promises 4 columns whatever it gets, so that only the runtime can find that 3 do not go into them."""
    nodes = [
        helper.make_node("Constant", [], ["shape"], value_ints=[-1, 4]),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    sizes = {"x": ["n", 3], "y": ["m", 4]}
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size) for name, size in sizes.items()]
    opset = [helper.make_opsetid("", 18)]
    graph = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=opset, ir_version=8)
    onnx_graph.save_graph(graph, tmp_path / "model.onnx")
    specs = onnx_graph.input_specs(graph), onnx_graph.output_specs(graph)
    value = {"form": "onnx"}
    model = Model.model_validate({"value": value, "inputs": specs[0], "outputs": specs[1]}).at(tmp_path, tmp_path)
    with OnnxruntimeCpu().open(build(model, tmp_path / "built")) as session:
        assert session.run({"x": np.zeros((4, 3), np.float32)})["y"].shape == (3, 4)
        with pytest.raises(BackendError, match="ONNX Runtime failed"):
            session.run({"x": np.zeros((1, 3), np.float32)})


def test_outputs_that_are_not_finite_are_given_back(tmp_path: Path, onnx_model: Model) -> None:
    """A network that yields NaN is a loser in the race, not a crash: whoever measures has to see it."""
    artifact = build(onnx_model, tmp_path)
    with OnnxruntimeCpu().open(artifact) as session:
        assert np.isnan(session.run({"image": np.full((1, 1, 16, 16), np.nan, np.float32)})["output"]).all()


def test_a_closed_session_says_so(onnx_model: Model, tmp_path: Path) -> None:
    artifact = build(onnx_model, tmp_path)
    session = OnnxruntimeCpu().open(artifact)
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run(zeros(artifact, 1))


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingError) as caught:
        OnnxruntimeCpu().available()
    assert "edgeopt[cpu]" in caught.value.hint


def test_a_layer_that_is_kept_in_float_runs_in_float(onnx_model: Model, tmp_path: Path) -> None:
    """ONNX Runtime would quantize a float weight that stands between two pairs, coarsely, unless it is told not to."""
    graph, profile = fold(onnx_graph.load_graph(onnx_model.path)), OnnxruntimeCpu().profile()
    chosen = [node.name for node in graph.graph.node if node.op_type == "Conv"][1]
    placement = make_placement(graph, profile, [chosen])
    ranges = {pair.tensor: Range(0.0, 4.0) for pair in placement.pairs}  # so that every Relu folds
    quantized = insert_pairs(graph, make_scheme(graph, placement, ranges, profile))
    opened = tmp_path / "opened.onnx"
    open_runtime(quantized.SerializeToString(), 1, optimized_model_filepath=str(opened))
    operators = [node.op_type for node in onnx.load(opened).graph.node]
    convolutions = sum(node.op_type == "Conv" for node in graph.graph.node)
    assert operators.count("QLinearConv") == convolutions - 1


def test_the_profile_follows_a_cpu_that_the_recipe_declares() -> None:
    found = {isa: OnnxruntimeCpu().profile([isa]) for isa in ("avx2", "avx512_vnni", "asimddp", "asimd")}
    assert [profile.weight_bits for profile in found.values()] == [7, 8, 8, 8]
    assert OnnxruntimeCpu().profile(["asimd", "asimddp"]).activation_dtype == "int8"
    assert found["avx512_vnni"].activation_dtype == "uint8"


@pytest.fixture
def opened_by(monkeypatch: pytest.MonkeyPatch) -> list[onnxruntime.SessionOptions]:
    """The options of each of ONNX Runtime's sessions that the backend has opened, as ONNX Runtime has them."""
    found = []
    open_session = onnx_sessions.open_session

    def watched(graph: str | bytes, opening: Opening) -> onnxruntime.InferenceSession:
        session = open_session(graph, opening)
        found.append(session.get_session_options())
        return session

    monkeypatch.setattr(onnx_sessions, "open_session", watched)
    return found


def entry(options: onnxruntime.SessionOptions, name: str) -> str | None:
    try:
        return str(options.get_session_config_entry(name))
    except RuntimeError:
        return None


@pytest.mark.parametrize(
    ("option", "level", "arena", "entries"),
    [
        ({}, "ORT_ENABLE_ALL", True, {"session.force_spinning_stop": "1"}),
        ({"graph": "extended"}, "ORT_ENABLE_EXTENDED", True, {"session.force_spinning_stop": "1"}),
        ({"graph": "basic"}, "ORT_ENABLE_BASIC", True, {"session.force_spinning_stop": "1"}),
        ({"graph": "none"}, "ORT_DISABLE_ALL", True, {"session.force_spinning_stop": "1"}),
        ({"spinning": "never"}, "ORT_ENABLE_ALL", True, {"session.intra_op.allow_spinning": "0"}),
        ({"spinning": "always"}, "ORT_ENABLE_ALL", True, {}),
        ({"arena": False}, "ORT_ENABLE_ALL", False, {"session.force_spinning_stop": "1"}),
        (
            {"prepacking": False}, "ORT_ENABLE_ALL", True,
            {"session.force_spinning_stop": "1", "session.disable_prepacking": "1"},
        ),
    ],
)  # fmt: skip
def test_an_artifact_opens_with_the_options_that_it_was_built_with(
    onnx_model: Model, tmp_path: Path, opened_by: list[onnxruntime.SessionOptions],
    option: dict[str, object], level: str, arena: bool, entries: dict[str, str],
) -> None:  # fmt: skip
    artifact = build(onnx_model, tmp_path, threads=2, **option)
    OnnxruntimeCpu().open(artifact)
    (options,) = opened_by
    assert options.graph_optimization_level.name == level
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (arena, arena)
    assert options.intra_op_num_threads == 2
    known = ("session.force_spinning_stop", "session.intra_op.allow_spinning", "session.disable_prepacking")
    assert {name: value for name in known if (value := entry(options, name)) is not None} == entries


@pytest.mark.parametrize("form", ["onnx", "ort"])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_alternative_opens_and_agrees(onnx_model: Model, tmp_path: Path, form: str, threads: int) -> None:
    artifact = build(onnx_model, tmp_path, threads, format=form)
    inputs = onnx_graph.random_inputs(artifact.inputs, 2, seed=0)
    with OnnxruntimeCpu().open(artifact) as session:
        expected = session.run(inputs)["output"]
    found = OnnxruntimeCpu().alternatives(artifact)
    assert set(found) == ({"graph extended"} if form == "onnx" else set()) | (
        {"spinning never"} if threads > 1 else set()
    )
    for name, other in found.items():
        assert other.files == artifact.files
        assert other.digest() != artifact.digest(), name
        with OnnxruntimeCpu().open(other) as session:
            np.testing.assert_allclose(session.run(inputs)["output"], expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_what_an_artifact_is_set_to_is_no_alternative(onnx_model: Model, tmp_path: Path) -> None:
    artifact = build(onnx_model, tmp_path, 2, graph="extended", spinning="never")
    assert OnnxruntimeCpu().alternatives(artifact) == {}


def test_most_backends_have_no_alternatives(onnx_model: Model, tmp_path: Path) -> None:
    artifact = Null().build(onnx_model, Context(folder=tmp_path), tmp_path)
    assert Null().alternatives(artifact) == {}
