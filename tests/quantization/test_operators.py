"""Each operator in torch computes what ONNX Runtime computes, in all the ways in which exporters use it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeopt.errors import PassError
from edgeopt.onnx_graph import make_session
from edgeopt.quantization.operators import OPERATORS
from edgeopt.quantization.twin import Twin

IMAGES = (2, 4, 7, 6)
ROWS = (3, 6)


def floats(*shape: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> NDArray[np.float32]:
    return np.abs(floats(*shape)) + np.float32(0.2)


def integers(*values: int) -> NDArray[np.int64]:
    return np.asarray(values, np.int64)


def scalar(value: float) -> NDArray[np.float32]:
    return np.asarray(value, np.float32)


#: operator, attributes, the array that flows in, constant inputs (None: left out), opset
Case = tuple[str, dict[str, Any], NDArray[Any], tuple[NDArray[Any] | None, ...], int]


def case(operator: str, x: NDArray[Any], *constants: NDArray[Any] | None, opset: int = 17, **attributes: Any) -> Case:
    return operator, attributes, x, constants, opset


WINDOW: dict[str, Any] = {"kernel_shape": [3, 2]}
CONVOLUTIONS = [
    case("Conv", floats(*IMAGES), floats(5, 4, 3, 3), floats(5)),
    case("Conv", floats(*IMAGES), floats(5, 4, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]),
    case("Conv", floats(*IMAGES), floats(5, 4, 3, 3), pads=[0, 2, 1, 0]),
    case("Conv", floats(*IMAGES), floats(8, 1, 3, 3), floats(8), group=4, pads=[1, 1, 1, 1]),
    case("Conv", floats(*IMAGES), floats(6, 2, 3, 3), group=2, dilations=[2, 1], pads=[2, 0, 2, 0]),
    case("Conv", floats(*IMAGES), floats(5, 4, 3, 2), auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", floats(*IMAGES), floats(5, 4, 2, 3), auto_pad="SAME_LOWER", strides=[2, 1]),
    case("Conv", floats(*IMAGES), floats(5, 4, 3, 3), auto_pad="VALID"),
    case("Conv", floats(2, 3, 9), floats(4, 3, 3), floats(4), pads=[1, 0]),
    case("Conv", floats(1, 2, 4, 5, 6), floats(3, 2, 2, 2, 2)),
    case("ConvTranspose", floats(*IMAGES), floats(4, 5, 2, 2), floats(5), strides=[2, 2]),
    case(
        "ConvTranspose", floats(*IMAGES), floats(4, 5, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2], output_padding=[1, 1]
    ),
    case("ConvTranspose", floats(*IMAGES), floats(4, 3, 3, 3), group=2, pads=[0, 1, 1, 0]),
    case("ConvTranspose", floats(*IMAGES), floats(4, 5, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", floats(*IMAGES), floats(4, 5, 3, 3), strides=[2, 2], output_shape=[14, 13]),
    case("ConvTranspose", floats(*IMAGES), floats(4, 5, 3, 3), dilations=[2, 1]),
]

POOLS = [
    case("MaxPool", floats(*IMAGES), **WINDOW),
    case("MaxPool", floats(*IMAGES), **WINDOW, strides=[2, 2], pads=[1, 0, 0, 1]),
    case("MaxPool", floats(*IMAGES), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    case("MaxPool", floats(*IMAGES), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    case("MaxPool", floats(*IMAGES), kernel_shape=[2, 2], strides=[3, 3], dilations=[2, 2]),
    case("MaxPool", floats(*IMAGES), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("MaxPool", floats(*IMAGES), kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER"),
    case("MaxPool", floats(2, 3, 9), kernel_shape=[3], strides=[2]),
    case("AveragePool", floats(*IMAGES), **WINDOW, strides=[2, 2]),
    case("AveragePool", floats(*IMAGES), **WINDOW, pads=[1, 0, 1, 1]),
    case("AveragePool", floats(*IMAGES), **WINDOW, pads=[1, 0, 1, 1], count_include_pad=1),
    case("AveragePool", floats(*IMAGES), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, opset=19),
    case("AveragePool", floats(*IMAGES), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=1, opset=19),
    case("AveragePool", floats(*IMAGES), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("AveragePool", floats(2, 3, 9), kernel_shape=[3], strides=[2], pads=[1, 1], count_include_pad=1),
    case("GlobalAveragePool", floats(*IMAGES)),
    case("GlobalMaxPool", floats(*IMAGES)),
]

ARITHMETIC = [
    *(case(name, floats(*ROWS), floats(6, seed=2)) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    *(
        case(name, floats(*ROWS))
        for name in ("Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf")
    ),
    *(case(name, floats(*ROWS)) for name in ("Exp", "Neg", "Abs", "Elu", "Softplus", "Identity", "Dropout")),
    *(case(name, positive(*ROWS)) for name in ("Sqrt", "Log", "Reciprocal")),
    case("Div", integers(7, -7, 9), integers(2, 2, 3)),
    case("Equal", integers(1, 2, 3), integers(1, 0, 3)),
    case("LeakyRelu", floats(*ROWS), alpha=0.3),
    case("HardSigmoid", floats(*ROWS), alpha=1 / 6, beta=0.4),
    case("PRelu", floats(*IMAGES), floats(4, 1, 1)),
    case("Clip", floats(*ROWS), scalar(-0.5), scalar(0.7)),
    case("Clip", floats(*ROWS), None, scalar(0.1)),
    case("Clip", floats(*ROWS)),
    case("Pow", positive(*ROWS), scalar(1.7)),
    case("Pow", floats(*ROWS), np.asarray(2, np.int64)),
    case("Softmax", floats(*IMAGES)),
    case("Softmax", floats(*IMAGES), axis=1),
    case("Gelu", floats(*ROWS), opset=20),
    case("Gelu", floats(*ROWS), opset=20, approximate="tanh"),
    case("Gemm", floats(*ROWS), floats(6, 5), floats(5)),
    case("Gemm", floats(*ROWS), floats(5, 6), floats(1, 5), transB=1, alpha=0.5, beta=2.0),
    case("Gemm", floats(*ROWS), floats(3, 4), transA=1),
    case("MatMul", floats(2, 3, 6), floats(6, 5)),
    case("BatchNormalization", floats(*IMAGES), floats(4), floats(4, seed=2), floats(4, seed=3), positive(4)),
    case("BatchNormalization", floats(3, 4), floats(4), floats(4), floats(4), positive(4), epsilon=0.1),
    case("InstanceNormalization", floats(*IMAGES), floats(4), floats(4, seed=2)),
    case("LayerNormalization", floats(*IMAGES), floats(6), floats(6, seed=2)),
    case("ReduceMean", floats(*IMAGES), axes=[2, 3], keepdims=0),
    case("ReduceMean", floats(*IMAGES), integers(-1), opset=18),
    case("ReduceMean", floats(*IMAGES)),
    case("ReduceSum", floats(*IMAGES), integers(1, 2), keepdims=0),
    case("ReduceSum", floats(*IMAGES), None, noop_with_empty_axes=1),
    case("ReduceMax", floats(*IMAGES), axes=[1]),
    case("ReduceMin", floats(*IMAGES), axes=[1]),
    case("Where", floats(*ROWS) > 0, floats(*ROWS), scalar(3.0)),
    case("Cast", floats(*ROWS), to=TensorProto.INT64),
    case("Cast", integers(1, 0, 3), to=TensorProto.FLOAT),
]

MOVES = [
    case("Concat", floats(*IMAGES), floats(2, 3, 7, 6), floats(2, 1, 7, 6), axis=1),
    case("Slice", floats(*IMAGES), integers(1, 0), integers(6, 2**62), integers(2, 3), integers(2, 2)),
    case("Slice", floats(*IMAGES), integers(-1), integers(-(2**62)), integers(3), integers(-1)),
    case("Slice", floats(*IMAGES), integers(5), integers(1), integers(-2), integers(-2)),
    case("Slice", floats(*IMAGES), integers(0, -3), integers(1, -1)),
    case("Reshape", floats(*IMAGES), integers(0, -1, 14)),
    case("Reshape", floats(0, 6), integers(0, 3), allowzero=1),
    case("Flatten", floats(*IMAGES)),
    case("Flatten", floats(*IMAGES), axis=-2),
    case("Flatten", floats(*IMAGES), axis=0),
    case("Transpose", floats(*IMAGES), perm=[0, 2, 3, 1]),
    case("Transpose", floats(*ROWS)),
    case("Squeeze", floats(1, 3, 1, 2), integers(0, -2)),
    case("Squeeze", floats(1, 3, 1, 2)),
    case("Unsqueeze", floats(*ROWS), integers(-1, 0)),
    case("Pad", floats(*IMAGES), integers(0, 1, 2, 0, 0, 0, 1, 3), scalar(1.5)),
    case("Pad", floats(*IMAGES), integers(0, 0, -1, 0, 0, 0, 0, -2)),
    case("Pad", floats(*IMAGES), integers(0, 0, 2, 1, 0, 0, 3, 1), mode="reflect"),
    case("Pad", floats(*IMAGES), integers(0, 0, 2, 1, 0, 0, 3, 1), mode="edge"),
    case("Pad", floats(*IMAGES), integers(2, 1, 0, 1), None, integers(-1, 1), opset=18),
    case("DepthToSpace", floats(2, 8, 3, 4), blocksize=2),
    case("DepthToSpace", floats(2, 8, 3, 4), blocksize=2, mode="CRD"),
    case("SpaceToDepth", floats(2, 3, 4, 6), blocksize=2),
    case("Shape", floats(*IMAGES)),
    case("Shape", floats(*IMAGES), start=1, end=-1),
    case("Gather", integers(4, 5, 6), np.asarray(1, np.int64)),
    case("Gather", floats(*IMAGES), np.asarray([[0, -1], [2, 1]]), axis=1),
    case("Expand", floats(3, 1), integers(2, 1, 4)),
    case("ConstantOfShape", integers(2, 3), value=numpy_helper.from_array(np.asarray([7], np.int64))),
]  # fmt: skip

PLACES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
RESIZES = [
    *(
        case("Resize", floats(2, 3, 5, 4), None, scales, mode=mode, coordinate_transformation_mode=places)
        for mode in ("nearest", "linear")
        for places in PLACES
        for scales in (np.asarray([1, 1, 2, 3], np.float32), np.asarray([1, 1, 0.6, 1.7], np.float32))
    ),
    *(
        case("Resize", floats(2, 3, 5, 4), None, None, integers(2, 3, 10, 8), mode="nearest", nearest_mode=rounding,
             coordinate_transformation_mode="asymmetric")
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    ),
    case("Resize", floats(2, 3, 5, 4), None, None, integers(9, 7), axes=[2, 3], mode="linear", opset=18),
]  # fmt: skip


def make_graph(case: Case, outputs: int = 1) -> onnx.ModelProto:
    operator, attributes, x, constants, opset = case
    names = [f"constant_{index}" if array is not None else "" for index, array in enumerate(constants)]
    made = [f"y{index}" for index in range(outputs)]
    node = helper.make_node(operator, ["x", *names], made, name="it", **attributes)
    value = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
    results = [helper.make_empty_tensor_value_info(name) for name in made]
    arrays = zip(names, constants, strict=True)
    known = [numpy_helper.from_array(array, name) for name, array in arrays if array is not None]
    graph = helper.make_graph([node], "g", [value], results, known)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def check(case: Case, outputs: int = 1) -> None:
    graph, x = make_graph(case, outputs), case[2]
    wanted = make_session(graph).run(None, {"x": x})
    found = Twin(graph)({"x": torch.from_numpy(x)})
    assert list(found) == [f"y{index}" for index in range(outputs)]
    for one, other in zip(wanted, found.values(), strict=True):
        array = other.detach().numpy()
        assert array.dtype == one.dtype
        np.testing.assert_allclose(array, one, rtol=1e-5, atol=1e-5, strict=True)


def name_of(case: Case) -> str:
    return f"{case[0]}-{'-'.join(f'{key}={value}' for key, value in case[1].items())}"[:70]


@pytest.mark.parametrize("case", [*CONVOLUTIONS, *POOLS, *ARITHMETIC, *MOVES, *RESIZES], ids=name_of)
def test_it_computes_what_onnx_runtime_computes(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    "case",
    [
        case("Split", floats(*IMAGES), axis=1),
        case("Split", floats(2, 7), integers(3, 4), axis=1),
        case("Split", floats(2, 7), axis=-1, num_outputs=2, opset=18),
    ],
    ids=name_of,
)
def test_all_parts_of_a_split_are_there(case: Case) -> None:
    check(case, 2)


def test_every_operator_of_the_table_is_tested() -> None:
    tested = {each[0] for each in [*CONVOLUTIONS, *POOLS, *ARITHMETIC, *MOVES, *RESIZES]}
    assert tested | {"Split"} >= set(OPERATORS)


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        (case("Resize", floats(1, 1, 4, 4), None, np.asarray([1, 1, 2, 2], np.float32), mode="cubic"), "`cubic`"),
        (case("Resize", floats(1, 1, 4, 4), None, np.asarray([1, 1, 2, 2], np.float32), antialias=1, opset=18,
              mode="linear"), "`antialias`"),
        (case("AveragePool", floats(*IMAGES), kernel_shape=[2, 2], dilations=[2, 2], opset=19), "dilated"),
    ],
)  # fmt: skip
def test_what_torch_cannot_do_alike_is_refused_by_name(refused: Case, why: str) -> None:
    with pytest.raises(PassError, match=rf"{refused[0]} `it`.*{why}"):
        Twin(make_graph(refused))({"x": torch.from_numpy(refused[2])})


def test_an_output_that_torch_does_not_make_is_refused() -> None:
    with pytest.raises(PassError, match="MaxPool `it` has 2 outputs"):
        Twin(make_graph(case("MaxPool", floats(*IMAGES), **WINDOW), 2))({"x": torch.from_numpy(floats(*IMAGES))})


def test_an_unknown_operator_is_refused_by_name() -> None:
    with pytest.raises(PassError, match="the operator Det of `it`"):
        Twin(make_graph(case("Det", floats(3, 3))))
