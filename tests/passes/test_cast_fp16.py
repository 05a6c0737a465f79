"""Casting to float16: what stays in float32 and why, that casts are few, and that pairs stay what they are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeopt import onnx_graph
from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import PassError
from edgeopt.model import Model, OnnxValue, TensorSpec, write_model
from edgeopt.passes import PassResult
from edgeopt.passes.cast_fp16 import CastFp16
from edgeopt.passes.export_onnx import ExportOnnx
from edgeopt.passes.quantize_int8 import QuantizeInt8
from edgeopt.quantization.arithmetic import sqnr_db
from edgeopt.quantization.half import choose
from edgeopt.quantization.half_cast import cast_graph
from edgeopt.quantization.lint import lint
from edgeopt.quantization.profiles import TENSORRT
from edgeopt.quantization.wiring import Wiring

NETWORKS = Path(__file__).parents[1] / "networks"
ARCHITECTURES = re.findall(r"^def (make_\w+)", (NETWORKS / "architectures.py").read_text(encoding="utf8"), re.MULTILINE)

#: exporters write its instance normalization with shapes that are computed
ARCHITECTURES.remove("make_slopes")

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
Arrays = dict[str, NDArray[Any]]
MakeSamples = Callable[..., Samples]


def node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """`inputs` separated by spaces, `-` for one that is left out; the node is named like its output."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(operator, names, [output], name=output, **attributes)


def make_graph(
    nodes: list[onnx.NodeProto],
    constants: Arrays | None = None,
    shape: tuple[int | str, ...] = ("batch", 2, 4, 4),
    outputs: dict[str, int] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    """A graph that reads `x`, and makes `y` unless said otherwise."""
    rank = [f"axis_{axis}" for axis in range(len(shape))]
    made = [helper.make_tensor_value_info(name, kind, rank) for name, kind in (outputs or {"y": FLOAT}).items()]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    given = [helper.make_tensor_value_info("x", FLOAT, shape)]
    graph = helper.make_graph(nodes, "g", given, made, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture
def cast(tmp_path: Path) -> Callable[..., tuple[onnx.ModelProto, PassResult]]:
    """Writes a graph as a model, casts it, and checks that the result is sound and has the ends that it had."""

    def run(
        graph: onnx.ModelProto, images: NDArray[Any] | None = None, **options: Any
    ) -> tuple[onnx.ModelProto, PassResult]:
        folder = tmp_path / "given"
        onnx_graph.save_graph(graph, folder / "model.onnx")
        inputs, outputs = onnx_graph.input_specs(graph), onnx_graph.output_specs(graph)
        model = write_model(Model(value=OnnxValue(), inputs=inputs, outputs=outputs, folder=folder), folder)
        return cast_model(model, tmp_path, images, **options)

    return run


def cast_model(
    model: Model, folder: Path, images: NDArray[Any] | None = None, **options: Any
) -> tuple[onnx.ModelProto, PassResult]:
    calibration = None
    if images is not None:
        np.savez(folder / "images.npz", **{spec.name: images.astype(np.float32) for spec in model.inputs})
        names = tuple(spec.name for spec in model.inputs)
        calibration = Samples("npz", folder / "images.npz", names, Preprocess())
    result = CastFp16(**options)(model, Context(folder=folder / "cast", calibration=calibration))
    made = onnx_graph.load_graph(result.model.path)
    onnx.checker.check_model(made, full_check=True)
    assert (onnx_graph.input_specs(made), onnx_graph.output_specs(made)) == (model.inputs, model.outputs)
    assert not [each.name for each in casts(made) if each.input[0] in {one.output[0] for one in casts(made)}]
    assert len({(each.input[0], each.attribute[0].i) for each in casts(made)}) == len(casts(made))
    return made, result


def casts(graph: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [each for each in graph.graph.node if each.op_type == "Cast"]


def operators(graph: onnx.ModelProto) -> Counter[str]:
    return Counter(each.op_type for each in graph.graph.node)


def type_of(graph: onnx.ModelProto, tensor: str) -> int:
    return Wiring(graph).element_type(tensor)


def run(graph: onnx.ModelProto, x: NDArray[Any]) -> NDArray[Any]:
    return onnx_graph.run_session(onnx_graph.make_session(graph), {"x": x.astype(np.float32)})["y"]


def left(result: PassResult) -> dict[str, str]:
    """Name of a node in float32 → why."""
    return {name.split("`")[1]: str(why) for name, why in result.facts.items() if name.endswith("in float32")}


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def make_weights(*names: str) -> Arrays:
    return {name: normal(2, 2, 1, 1, seed=number) for number, name in enumerate(names)}


# Whole networks


def make_architecture(architecture: Callable[[str], Model], function: str, folder: Path) -> Model:
    model = architecture(function)
    if function == "make_two_inputs":
        energy = TensorSpec(name="energy", shape=("batch",))
        model = model.model_copy(update={"outputs": (TensorSpec(name="logits", shape=model.outputs[0].shape), energy)})
    if function == "make_shuffled":  # its batch is written into the graph
        ends = {end: (getattr(model, end)[0].model_copy(update={"shape": shape}),) for end, shape in FIXED.items()}
        model = model.model_copy(update=ends)
    return ExportOnnx()(model, Context(folder=folder / "float")).model


FIXED = {"inputs": (2, 3, 16, 16), "outputs": (2, 5)}


@pytest.mark.parametrize("function", ARCHITECTURES)
def test_every_network_computes_the_same_within_half_precision(
    architecture: Callable[[str], Model], function: str, tmp_path: Path
) -> None:
    model = make_architecture(architecture, function, tmp_path)
    made, result = cast_model(model, tmp_path, normal(16, 3, 16, 16))
    assert left(result) == {}
    assert 0 < float(result.facts["max_difference"]) < 2e-3
    assert {tensor.data_type for tensor in made.graph.initializer} <= {HALF, onnx.TensorProto.INT64}
    sessions = [onnx_graph.make_session(each) for each in (onnx_graph.load_graph(model.path), made)]
    for batch in (2,) if function == "make_shuffled" else (1, 5):
        inputs = onnx_graph.random_inputs(model.inputs, batch, seed=batch)
        before, after = (onnx_graph.run_session(session, inputs) for session in sessions)
        assert 0 < onnx_graph.max_difference(before, after) < 2e-3


@pytest.mark.parametrize("function", ["make_plain", "make_option_a", "make_mobile", "make_concatenated", "make_tied"])
def test_a_quantized_network_keeps_its_integers_and_the_rest_becomes_float16(
    architecture: Callable[[str], Model], function: str, make_samples: MakeSamples, tmp_path: Path
) -> None:
    exact = make_architecture(architecture, function, tmp_path)
    context = Context(folder=tmp_path / "int8", profile=TENSORRT, calibration=make_samples(exact, "calibration"))
    model = QuantizeInt8()(exact, context).model
    made, result = cast_model(model, tmp_path, normal(16, 3, 16, 16))
    given = onnx_graph.load_graph(model.path)
    assert lint(made, TENSORRT) == ()
    assert left(result) == {}
    assert result.facts["opset"] == "18 → 19"
    for operator in ("QuantizeLinear", "DequantizeLinear"):
        assert operators(made)[operator] == operators(given)[operator]
    assert integers(made) == integers(given)
    assert not beside_pairs(made)
    graphs = (onnx_graph.load_graph(exact.path), given, made)
    inputs = onnx_graph.random_inputs(model.inputs, 64, seed=3)
    truth, int8, half = (
        onnx_graph.run_session(onnx_graph.make_session(each, as_written=True), inputs) for each in graphs
    )
    assert sqnr_db(truth, half) > sqnr_db(truth, int8) - 1


def integers(graph: onnx.ModelProto) -> dict[str, bytes]:
    whole = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    return {each.name: each.raw_data for each in graph.graph.initializer if each.data_type in whole}


def beside_pairs(graph: onnx.ModelProto) -> list[str]:
    """Casts of what a DequantizeLinear made, or for a QuantizeLinear."""
    made = {name for each in graph.graph.node if each.op_type == "DequantizeLinear" for name in each.output}
    read = {each.input[0] for each in graph.graph.node if each.op_type == "QuantizeLinear"}
    return [each.name for each in casts(graph) if each.input[0] in made or each.output[0] in read]


def test_the_linter_finds_in_float16_what_it_finds_in_float32(
    onnx_model: Model, make_samples: MakeSamples, tmp_path: Path
) -> None:
    context = Context(folder=tmp_path / "int8", profile=TENSORRT, calibration=make_samples(onnx_model, "calibration"))
    last = [each.name for each in onnx.load(onnx_model.path).graph.node if each.op_type == "Conv"][-1]
    model = QuantizeInt8(keep_float=(last,))(onnx_model, context).model
    made, _ = cast_model(model, tmp_path, normal(8, 1, 16, 16), keep_float=(last,))
    before = lint(onnx_graph.load_graph(model.path), TENSORRT)
    assert [each.rule for each in before if each.node == last] == ["float_input"]
    assert [(each.rule, each.node) for each in lint(made, TENSORRT)] == [(each.rule, each.node) for each in before]


# Values that do not fit


def test_a_weight_beyond_float16_keeps_its_node_in_float32(cast: Callable[..., Any]) -> None:
    weights = make_weights("v", "w")
    weights["v"][0, 0] = 1e6
    nodes = [node("Conv", "x w", "a"), node("Conv", "a v", "b"), node("Mul", "b c", "y")]
    graph = make_graph(nodes, weights | {"c": np.float32(1e-3)})
    images = normal(4, 2, 4, 4) / 1000
    made, result = cast(graph, images)
    assert left(result) == {"b": "its constant `v` reaches 1e+06"}
    np.testing.assert_allclose(run(made, images), run(graph, images), rtol=1e-2, atol=1e-3)
    assert [type_of(made, name) for name in ("a_half", "b", "v", "w", "y_half")] == [HALF, FLOAT, FLOAT, HALF, HALF]
    assert result.facts["summary"] == "2 of 3 nodes in float16"
    assert (result.facts["float16_nodes"], result.facts["float32_nodes"]) == (2, 1)


@pytest.mark.parametrize("value", [1e-12, 3e-5])
def test_a_constant_that_would_become_zero_or_lose_bits_keeps_its_node_in_float32(
    cast: Callable[..., Any], value: float
) -> None:
    nodes = [node("Abs", "x", "a"), node("Add", "a e", "b"), node("Sqrt", "b", "y")]
    _, result = cast(make_graph(nodes, {"e": np.float32(value)}))
    assert left(result) == {"b": f"its constant `e` holds nothing above {value:.3g}"}


def test_small_weights_beside_larger_ones_are_no_reason(cast: Callable[..., Any]) -> None:
    weights = make_weights("w")
    weights["w"][0, 0] = 1e-9
    _, result = cast(make_graph([node("Conv", "x w", "y")], weights))
    assert left(result) == {}


def test_an_activation_that_overflows_keeps_its_makers_and_readers_in_float32(cast: Callable[..., Any]) -> None:
    nodes = [node("Relu", "x", "a"), node("Mul", "a c", "b"), node("Mul", "b d", "e"), node("Relu", "e", "y")]
    graph = make_graph(nodes, {"c": np.float32(3e4), "d": np.float32(1e-3)})
    images = np.full((4, 2, 4, 4), 5)
    made, result = cast(graph, images)
    assert left(result) == {"b": "`b` reaches 1.5e+05", "e": "`b` reaches 1.5e+05"}
    assert [type_of(made, name) for name in ("a_half", "b", "e", "y_half")] == [HALF, FLOAT, FLOAT, HALF]
    np.testing.assert_allclose(run(made, images), run(graph, images), rtol=1e-3)


def test_what_overflows_without_samples_is_a_named_failure(cast: Callable[..., Any]) -> None:
    nodes = [node("Mul", "x c", "a"), node("Mul", "a c", "b"), node("Mul", "b d", "y")]
    graph = make_graph(nodes, {"c": np.float32(3e4), "d": np.float32(1e-3)})
    with pytest.raises(PassError, match="not finite") as caught:
        cast(graph)
    assert "calibration" in caught.value.hint
    assert left(cast(graph, normal(4, 2, 4, 4))[1]).keys() == {"a", "b", "y"}


def test_headroom_is_for_values_that_samples_do_not_show(cast: Callable[..., Any]) -> None:
    graph = make_graph([node("Mul", "x c", "a"), node("Relu", "a", "y")], {"c": np.float32(100)})
    images = np.full((4, 2, 4, 4), 100)
    assert left(cast(graph, images)[1]) == {}
    assert left(cast(graph, images, headroom=8)[1]) == {"a": "`a` reaches 1e+04", "y": "`a` reaches 1e+04"}


def test_an_activation_that_is_all_tiny_stays_in_float32(cast: Callable[..., Any]) -> None:
    nodes = [node("Mul", "x c", "a"), node("Mul", "a a", "b"), node("Relu", "b", "y")]
    _, result = cast(make_graph(nodes, {"c": np.float32(1e-3)}), normal(4, 2, 4, 4))
    assert left(result).keys() == {"b", "y"}
    assert "holds nothing above" in left(result)["b"]


@pytest.mark.parametrize(("top", "stays"), [(3, False), (11, True)])
def test_what_grows_by_nature_is_decided_by_what_was_measured(
    cast: Callable[..., Any], top: float, stays: bool
) -> None:
    graph = make_graph([node("Exp", "x", "a"), node("Softmax", "x", "b"), node("Add", "a b", "y")])
    _, result = cast(graph, np.linspace(0, top, 4 * 32).reshape(4, 2, 4, 4))
    assert left(result).keys() == ({"a", "y"} if stays else set())
    assert left(cast(graph)[1]) == {"a": "it can overflow, and without calibration samples nobody knows"}


@pytest.mark.parametrize(("size", "stays"), [(1, False), (200, True)])
def test_a_variance_has_to_fit_as_well(cast: Callable[..., Any], size: float, stays: bool) -> None:
    nodes = [node("InstanceNormalization", "x s b", "a"), node("Relu", "a", "y")]
    graph = make_graph(nodes, {"s": np.ones(2, np.float32), "b": np.zeros(2, np.float32)})
    _, result = cast(graph, size * np.clip(normal(8, 2, 4, 4), -1, 1))
    assert left(result) == ({"a": "the square of `x` reaches 4e+04"} if stays else {})


def test_limits_beyond_float16_limit_nothing(cast: Callable[..., Any]) -> None:
    constants = {"low": np.float32(0), "high": np.float32(3.4e38)}
    made, result = cast(make_graph([node("Clip", "x low high", "y")], constants))
    assert left(result) == {}
    assert numpy_helper.to_array(next(each for each in made.graph.initializer if each.name == "high")) == 65504
    tiny = {"low": np.float32(1e-12), "high": np.float32(6)}
    _, result = cast(
        make_graph([node("Clip", "x low high", "a"), node("Reciprocal", "a", "y")], tiny), np.ones((4, 2, 4, 4))
    )
    assert left(result) == {"a": "its constant `low` holds nothing above 1e-12"}


def test_infinite_constants_stay_infinite(cast: Callable[..., Any]) -> None:
    constants = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "low": np.float32(-np.inf)}
    nodes = [node("Pad", "x pads low", "a"), node("MaxPool", "a", "y", kernel_shape=[3, 3])]
    graph = make_graph(nodes, constants)
    made, result = cast(graph)
    assert left(result) == {}
    np.testing.assert_allclose(run(made, normal(1, 2, 4, 4)), run(graph, normal(1, 2, 4, 4)), rtol=1e-3)


# Who keeps what


def test_kept_nodes_and_operators_stay_in_float32(cast: Callable[..., Any]) -> None:
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "b"), node("Conv", "b v", "c"), node("Relu", "c", "y")]
    graph = make_graph(nodes, make_weights("v", "w"))
    made, result = cast(graph, keep_float=("c", "Relu"))
    assert left(result) == dict.fromkeys(("b", "c", "y"), "`keep_float` names it")
    assert [type_of(made, name) for name in ("a_half", "b", "c", "y", "w", "v")] == [
        HALF,
        FLOAT,
        FLOAT,
        FLOAT,
        HALF,
        FLOAT,
    ]
    with pytest.raises(PassError, match="`keep_float` names `Rely`") as caught:
        cast(graph, keep_float=("Rely",))
    assert "Relu" in caught.value.hint


def test_a_constant_with_readers_of_both_types_is_stored_in_both(cast: Callable[..., Any]) -> None:
    nodes = [node("Conv", "x w", "a"), node("Conv", "a w", "b"), node("Conv", "b w", "y")]
    graph = make_graph(nodes, make_weights("w"))
    made, _ = cast(graph, keep_float=("b",))
    assert {each.name: each.data_type for each in made.graph.initializer} == {"w": FLOAT, "w_half": HALF}
    made, _ = cast(graph)
    assert {each.name: each.data_type for each in made.graph.initializer} == {"w": HALF}


def test_a_tensor_is_cast_once_for_all_of_its_readers(cast: Callable[..., Any]) -> None:
    """And an output that is read inside, too, is one tensor in float16 and one in float32."""
    nodes = [node("Relu", "x", "a"), node("Abs", "x", "b"), node("Add", "a b", "y"), node("Sum", "y y a", "z")]
    made, _ = cast(make_graph(nodes, outputs={"y": FLOAT, "z": FLOAT}), keep_float=("Sum",))
    assert [(list(each.input), list(each.output)) for each in casts(made)] == [
        (["x"], ["x_half"]), (["y_half"], ["y"]), (["a_half"], ["a"]),
    ]  # fmt: skip


def test_an_input_that_is_an_output_passes_untouched(cast: Callable[..., Any]) -> None:
    made, _ = cast(make_graph([node("Identity", "x", "y"), node("Relu", "x", "z")], outputs={"y": FLOAT, "z": FLOAT}))
    x = np.full((1, 2, 4, 4), 1 / 3)
    np.testing.assert_array_equal(run(made, x), x.astype(np.float32))


def test_casts_that_are_there_already_are_not_doubled(cast: Callable[..., Any]) -> None:
    nodes = [
        node("Cast", "x", "a", to=HALF), node("Relu", "a", "b"), node("Cast", "b", "c", to=FLOAT),
        node("Abs", "c", "d"), node("Cast", "d", "e", to=HALF), node("Neg", "e", "f"), node("Cast", "f", "y", to=FLOAT),
    ]  # fmt: skip
    made, _ = cast(make_graph(nodes))
    assert [each.op_type for each in made.graph.node] == ["Cast", "Relu", "Abs", "Neg", "Cast"]


def test_the_second_time_nothing_changes(cast: Callable[..., Any], tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "a"), node("Exp", "a", "b"), node("Conv", "b v", "y")]
    _, once = cast(make_graph(nodes, make_weights("v", "w")))
    twice = CastFp16()(once.model, Context(folder=tmp_path / "twice"))
    assert once.changed
    assert not twice.changed


def test_places_in_images_stay_float32(cast: Callable[..., Any]) -> None:
    constants = {"scales": np.array([1, 1, 2, 2], np.float32), "roi": np.zeros(0, np.float32)}
    nodes = [node("Relu", "x", "a"), node("Resize", "a roi scales", "b", mode="linear"), node("Relu", "b", "y")]
    made, result = cast(make_graph(nodes, constants))
    assert left(result) == {}
    assert [type_of(made, name) for name in ("scales", "roi", "b")] == [FLOAT, FLOAT, HALF]


def test_shapes_are_computed_exactly(cast: Callable[..., Any]) -> None:
    """5001 is 5000 in float16, and a third of it 1667 or 1666."""
    nodes = [
        node("Relu", "x", "a"), node("Shape", "a", "s", start=1), node("Cast", "s", "f", to=FLOAT),
        node("Div", "f", "t"), node("Cast", "t", "i", to=onnx.TensorProto.INT64), node("Slice", "a zero i one", "y"),
    ]  # fmt: skip
    nodes[3].input.append("three")
    constants = {"three": np.float32(3), "zero": np.array([0]), "one": np.array([1])}
    made, result = cast(make_graph(nodes, constants, shape=("batch", 5001)))
    assert left(result).keys() == {"f", "t", "i"}
    assert run(made, normal(1, 5001)).shape == (1, 1667)


def test_control_flow_finds_the_tensors_that_it_captures(cast: Callable[..., Any]) -> None:
    inner = [helper.make_tensor_value_info("inner", FLOAT, None)]
    branches = {
        name: helper.make_graph([helper.make_node(operator, ["a"], ["inner"])], name, [], inner)
        for name, operator in (("then_branch", "Abs"), ("else_branch", "Neg"))
    }
    nodes = [
        node("Relu", "x", "a"),
        node("Conv", "a w", "b"),
        node("If", "yes", "c", **branches),
        node("Add", "b c", "y"),
    ]
    graph = make_graph(nodes, {"yes": np.array(True), **make_weights("w")})
    made, result = cast(graph)
    assert left(result) == {"c": "it is control flow"}
    assert type_of(made, "a") == FLOAT
    np.testing.assert_allclose(run(made, normal(2, 2, 4, 4)), run(graph, normal(2, 2, 4, 4)), atol=1e-2)


def test_operators_without_float16_get_float32(cast: Callable[..., Any]) -> None:
    nodes = [node("Relu", "x", "a"), node("Det", "a", "b"), node("Relu", "b", "c"), node("Unsqueeze", "c axes", "y")]
    made, result = cast(
        make_graph([*nodes, node("RandomNormalLike", "c", "r", dtype=FLOAT)], {"axes": np.array([2, 3])})
    )
    assert left(result) == {"r": "the type of its output is not free"}
    assert type_of(made, "a") == HALF


# Pairs


def make_quantized(
    scale: float | list[float] = 0.02, weight: NDArray[Any] | None = None, opset: int = 18
) -> onnx.ModelProto:
    """Relu → pair → convolution, whose weight is of integers, → Relu."""
    integers = np.full((2, 2, 1, 1), 100, np.int8) if weight is None else weight.astype(np.int8)
    scales = np.asarray(scale, np.float32)
    constants: Arrays = {
        "s": np.float32(0.03), "z": np.int8(0), "w": integers, "ws": scales, "wz": np.zeros(scales.shape, np.int8),
    }  # fmt: skip
    nodes = [
        node("Relu", "x", "a"), node("QuantizeLinear", "a s z", "q"), node("DequantizeLinear", "q s z", "d"),
        node("DequantizeLinear", "w ws wz", "v", axis=0), node("Conv", "d v", "c"), node("Relu", "c", "y"),
    ]  # fmt: skip
    return make_graph(nodes, constants, opset=opset)


def test_pairs_take_float16_in_an_opset_that_has_it(cast: Callable[..., Any]) -> None:
    made, result = cast(make_quantized())
    assert result.facts["opset"] == "18 → 19"
    assert operators(made) == {"Cast": 2, "Relu": 2, "QuantizeLinear": 1, "DequantizeLinear": 2, "Conv": 1}
    assert [type_of(made, name) for name in ("s", "d", "v", "ws")] == [HALF] * 4
    assert "opset" not in cast(make_quantized(opset=21))[1].facts


def test_what_quantizes_an_input_reads_it_as_it_is(cast: Callable[..., Any]) -> None:
    """And both of the pair say the same, each in its type."""
    graph = make_quantized()
    graph.graph.node.remove(graph.graph.node[0])
    graph.graph.node[0].input[0] = "x"
    made, _ = cast(graph)
    assert len(casts(made)) == 1
    scales = {each.name: numpy_helper.to_array(each) for each in made.graph.initializer if each.name in ("s", "s_half")}
    assert {name: array.dtype for name, array in scales.items()} == {"s": np.float32, "s_half": np.float16}
    assert scales["s"] == scales["s_half"]


def test_a_node_kept_in_float32_reads_its_integers_without_a_cast(cast: Callable[..., Any]) -> None:
    graph = make_quantized()
    graph.graph.node.append(node("Neg", "d", "n"))
    graph.graph.output.append(helper.make_tensor_value_info("n", FLOAT, ["batch", 2, 4, 4]))
    made, _ = cast(graph, keep_float=("c",))
    assert not beside_pairs(made)
    assert [type_of(made, name) for name in ("v", "d", "d_half", "c")] == [FLOAT, FLOAT, HALF, FLOAT]
    assert lint_rules(made) == lint_rules(graph)


def lint_rules(graph: onnx.ModelProto) -> list[str]:
    return [each.rule for each in lint(graph, TENSORRT)]


def test_a_scale_that_float16_does_not_hold_keeps_its_node_in_float32(cast: Callable[..., Any]) -> None:
    graph = make_quantized([0.02, 1e-7])
    made, result = cast(graph)
    assert left(result) == {"c": "float16 does not hold the scale `ws` of `v`"}
    assert not beside_pairs(made)
    assert type_of(made, "ws") == FLOAT


def test_the_scale_of_a_channel_of_zeros_is_made_to_fit(cast: Callable[..., Any]) -> None:
    graph = make_quantized([0.02, 1e-9], np.array([[100, -7], [0, 0]]).reshape(2, 2, 1, 1))
    made, result = cast(graph)
    assert left(result) == {}
    assert "scale_positive" not in lint_rules(made)
    np.testing.assert_allclose(run(made, normal(1, 2, 4, 4)), run(graph, normal(1, 2, 4, 4)), atol=1e-2)


def test_in_an_opset_without_float16_pairs_a_cast_stands_beside_them() -> None:
    graph = make_quantized()
    wiring = Wiring(graph)
    made = cast_graph(graph, choose(wiring, 18, (), None, 1.0))
    onnx.checker.check_model(made, full_check=True)
    assert len(beside_pairs(made)) == 3
    assert [type_of(made, name) for name in ("a", "d", "v", "c")] == [FLOAT, FLOAT, FLOAT, HALF]
    assert lint_rules(made) == lint_rules(graph)
    np.testing.assert_allclose(run(made, normal(1, 2, 4, 4)), run(graph, normal(1, 2, 4, 4)), rtol=2e-3, atol=1e-3)
