"""Graphs in ONNX Runtime's own format: the same bits, the operators that its tools find, only where they fit."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeopt import environment, onnx_graph
from edgeopt.backends import Arrays
from edgeopt.backends.onnxruntime_cpu import OnnxruntimeCpu
from edgeopt.context import Context
from edgeopt.errors import BackendError
from edgeopt.model import Artifact, Model
from edgeopt.onnx_sessions import Level, ort_format
from edgeopt.quantization.arithmetic import Range
from edgeopt.quantization.fold import fold
from edgeopt.quantization.insert import insert_pairs
from edgeopt.quantization.placement import make_placement
from edgeopt.quantization.scheme import make_scheme

WIDE, NARROW = ("avx2", "avx512f"), ("avx2",)


@pytest.fixture(scope="module")
def quantized(onnx_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The network with pairs around all that computes in integers."""
    graph, profile = fold(onnx_graph.load_graph(onnx_model.path)), OnnxruntimeCpu().profile()
    placement = make_placement(graph, profile)
    ranges = {pair.tensor: Range(0.0, 4.0) for pair in placement.pairs}
    folder = tmp_path_factory.mktemp("quantized")
    onnx_graph.save_graph(insert_pairs(graph, make_scheme(graph, placement, ranges, profile)), folder / "model.onnx")
    return onnx_model.at(folder, folder)


def build(model: Model, folder: Path, isa: tuple[str, ...] | None = None, **options: object) -> Artifact:
    context = Context(folder=folder, target="here", isa=isa)
    return OnnxruntimeCpu.model_validate(options).build(model, context, folder)


def run(artifact: Artifact) -> Arrays:
    inputs = onnx_graph.random_inputs(artifact.inputs, 3, seed=0)
    with OnnxruntimeCpu().open(artifact) as session:
        return session.run(inputs)


def operators(artifact: Artifact) -> dict[tuple[str, int], set[str]]:
    lines = (artifact.folder / ort_format.OPERATORS).read_text(encoding="utf8").splitlines()
    rows = [line.split(";") for line in lines if not line.startswith("#")]
    return {(domain, int(version)): set(names.split(",")) for domain, version, names in rows}


@pytest.mark.parametrize("level", ["all", "extended", "basic", "none"])
@pytest.mark.parametrize("kind", ["float", "int8"])
def test_the_two_formats_give_the_same_bits(
    onnx_model: Model, quantized: Model, kind: str, level: Level, tmp_path: Path
) -> None:
    model = {"float": onnx_model, "int8": quantized}[kind]
    sides = [build(model, tmp_path / form, graph=level, format=form) for form in ("onnx", "ort")]
    expected, found = run(sides[0]), run(sides[1])
    np.testing.assert_array_equal(found["output"], expected["output"])


def test_the_artifact_holds_the_graph_and_the_operators_and_opens_elsewhere(onnx_model: Model, tmp_path: Path) -> None:
    artifact = build(onnx_model, tmp_path, format="ort")
    assert [file.path for file in artifact.files] == ["model.ort", "required_operators.config"]
    assert {path.name for path in tmp_path.iterdir()} == {"model.ort", "required_operators.config"}
    assert artifact.settings["format"] == "ort"
    session = onnxruntime.InferenceSession(str(tmp_path / "model.ort"), providers=["CPUExecutionProvider"])
    image = onnx_graph.random_inputs(artifact.inputs, 3, seed=0)
    np.testing.assert_array_equal(session.run(None, image)[0], run(artifact)["output"])


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_the_operators_are_those_that_onnx_runtimes_own_tools_read(
    onnx_model: Model, quantized: Model, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader of `.ort` files says what is in there, and the parser of its build what we wrote."""
    artifact = build({"float": onnx_model, "int8": quantized}[kind], tmp_path, format="ort")
    tools = Path(onnxruntime.__file__).parent / "tools"
    monkeypatch.syspath_prepend(str(tools / "ort_format_model"))
    reader = importlib.import_module("onnxruntime.tools.ort_format_model.ort_model_processor")
    parser = importlib.import_module("onnxruntime.tools.reduced_build_config_parser")
    needed: dict[str, dict[int, set[str]]] = {}
    reader.OrtFormatModelProcessor(str(tmp_path / "model.ort"), needed, None).process()
    written, _, *_ = parser.parse_config(str(tmp_path / ort_format.OPERATORS))
    assert written == needed
    assert ("Conv" if kind == "float" else "QLinearConv") in {
        name for names in operators(artifact).values() for name in names
    }


def test_operators_inside_the_branches_of_others_are_found() -> None:
    branches = {
        f"{name}_branch": onnx.helper.make_graph(
            [onnx.helper.make_node(operator, ["x"], [f"{name}_y"])], name, [],
            [onnx.helper.make_tensor_value_info(f"{name}_y", onnx.TensorProto.FLOAT, [1])],
        )
        for name, operator in (("then", "Relu"), ("else", "Tanh"))
    }  # fmt: skip
    ends = [
        onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1]),
        onnx.helper.make_tensor_value_info("choice", onnx.TensorProto.BOOL, []),
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1]),
    ]
    node = onnx.helper.make_node("If", ["choice"], ["y"], **branches)
    graph = onnx.helper.make_graph([node], "g", ends[:2], ends[2:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    assert ort_format.required_operators(model) == {
        ("ai.onnx", 16): {"If"}, ("ai.onnx", 14): {"Relu"}, ("ai.onnx", 13): {"Tanh"},
    }  # fmt: skip


def test_blocks_of_channels_are_as_wide_as_the_vectors() -> None:
    blocks = [ort_format.channel_block(isa) for isa in (WIDE, NARROW, ("asimd", "asimddp"))]
    assert blocks == [16, 8, None]


@pytest.fixture
def blocked(onnx_model: Model, tmp_path: Path) -> Callable[[tuple[str, ...] | None], Artifact]:
    """Builds the float network, whose convolutions are laid out in blocks, for a CPU."""
    if environment.is_arm():
        pytest.skip("this CPU has no such layout")
    return lambda isa: build(onnx_model, tmp_path / str(isa), isa, format="ort")


def test_a_graph_for_this_cpu_is_laid_out_for_it(
    blocked: Callable[[tuple[str, ...] | None], Artifact],
) -> None:
    artifact = blocked(None)
    assert (ort_format.BLOCKED_DOMAIN, 1) in operators(artifact)
    assert artifact.requires["channel_block"] == str(ort_format.channel_block())


def test_a_graph_for_a_cpu_with_other_vectors_is_not_laid_out_for_this_one(
    blocked: Callable[[tuple[str, ...] | None], Artifact],
) -> None:
    here = blocked(None)
    other = blocked(NARROW if ort_format.channel_block() == 16 else WIDE)
    assert not [domain for domain, _ in operators(other) if domain == ort_format.BLOCKED_DOMAIN]
    assert "channel_block" not in other.requires
    np.testing.assert_allclose(run(other)["output"], run(here)["output"], rtol=1e-4, atol=1e-5)


def test_a_graph_in_blocks_of_another_width_is_refused_and_not_run(
    blocked: Callable[[tuple[str, ...] | None], Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = blocked(None)
    other = NARROW if ort_format.channel_block() == 16 else WIDE
    monkeypatch.setattr(environment, "cpu", lambda: ("another", other))
    with pytest.raises(BackendError, match=r"laid out in blocks of \d+ channels, and this CPU takes \d+") as caught:
        OnnxruntimeCpu().open(artifact)
    assert "isa:" in caught.value.hint
