"""The arithmetic of quantization, over values that Hypothesis finds and against ONNX Runtime's own operators."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import TensorProto, helper

from edgeopt.onnx_graph import make_session
from edgeopt.quantization.arithmetic import (
    BIAS_LIMIT,
    SQNR_LIMIT_DB,
    IntegerType,
    Quantizer,
    Range,
    WeightMethod,
    activation_quantizer,
    bias_quantizer,
    make_room_for_bias,
    sqnr_db,
    weight_quantizer,
)

bounds = st.floats(-1e4, 1e4, width=32)
ranges = st.tuples(bounds, bounds).map(lambda pair: Range(min(pair), max(pair)))
dtypes = st.sampled_from(("uint8", "int8"))
matrices = npst.arrays(np.float32, npst.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=bounds)


@given(ranges, dtypes, st.booleans(), st.floats(0, 1))
def test_a_value_in_the_range_comes_back_within_one_step(
    values: Range, dtype: IntegerType, symmetric: bool, part: float
) -> None:
    quantizer = activation_quantizer(values, dtype, symmetric)
    value = np.float32(values.low + part * (values.high - values.low))
    back = quantizer.dequantize(quantizer.quantize(np.asarray([value])))[0]
    # Half a step of rounding, and another half at the ends, where the zero point was rounded as well.
    assert abs(float(back) - float(value)) <= float(quantizer.scale) * 1.001 + 1e-30


@given(ranges, dtypes, st.booleans())
def test_zero_is_exact_in_every_range(values: Range, dtype: IntegerType, symmetric: bool) -> None:
    quantizer = activation_quantizer(values, dtype, symmetric)
    assert quantizer.dequantize(quantizer.quantize(np.zeros(1, np.float32)))[0] == 0.0


@given(ranges, dtypes, st.booleans())
def test_what_was_quantized_once_stays_as_it_is(values: Range, dtype: IntegerType, symmetric: bool) -> None:
    quantizer = activation_quantizer(values, dtype, symmetric)
    integers = np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1).astype(dtype)
    assert np.array_equal(quantizer.quantize(quantizer.dequantize(integers)), integers)


@given(ranges, dtypes, st.booleans())
def test_the_scale_is_positive_and_finite(values: Range, dtype: IntegerType, symmetric: bool) -> None:
    scale = activation_quantizer(values, dtype, symmetric).scale
    assert scale.dtype == np.float32
    assert scale.shape == ()
    assert 0 < scale < np.inf


@pytest.mark.parametrize(
    ("values", "scale", "zero_point"),
    [
        (Range(0.0, 25.5), 0.1, 0),  # behind a ReLU
        (Range(-25.5, 0.0), 0.1, 255),
        (Range(-25.5, -10.0), 0.1, 255),  # zero belongs to every range
        (Range(5.1, 5.1), 0.02, 0),  # a constant
        (Range(0.0, 0.0), 1.0, 0),
        (Range(1e-42, 1e-42), 1.0, 0),  # too small for a scale that float32 can hold
        (Range(-12.8, 12.7), 0.1, 128),
    ],
)
def test_ranges_become_the_scales_and_zero_points_that_one_expects(
    values: Range, scale: float, zero_point: int
) -> None:
    quantizer = activation_quantizer(values, "uint8", symmetric=False)
    assert quantizer.scale == pytest.approx(scale)
    assert quantizer.zero_point == zero_point


def test_a_symmetric_range_has_its_zero_in_the_middle() -> None:
    quantizer = activation_quantizer(Range(-1.0, 12.7), "int8", symmetric=True)
    assert (quantizer.scale, quantizer.zero_point) == (pytest.approx(0.1), 0)


def test_integers_are_those_of_the_runtime() -> None:
    quantizer = activation_quantizer(Range(-3.0, 7.0), "uint8", symmetric=False)
    values = np.random.default_rng(0).uniform(-5, 9, 1000).astype(np.float32)
    node = helper.make_node("QuantizeLinear", ["x", "scale", "zero_point"], ["y"])
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [None]),
        helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
        helper.make_tensor_value_info("zero_point", TensorProto.UINT8, []),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.UINT8, [None])
    graph = helper.make_graph([node], "g", inputs, [output])
    session = make_session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    feeds = {"x": values, "scale": quantizer.scale, "zero_point": quantizer.zero_point}
    assert np.array_equal(session.run(None, feeds)[0], quantizer.quantize(values))


@given(matrices, st.sampled_from((7, 8)), st.sampled_from((None, 0, 1)))
def test_a_weight_comes_back_within_half_a_step(weight: np.ndarray, bits: int, axis: int | None) -> None:
    quantizer = weight_quantizer(weight, "int8", bits, axis)
    integers = quantizer.quantize(weight)
    error = np.abs(quantizer.dequantize(integers).astype(np.float64) - weight)
    shape = [-1 if each == axis else 1 for each in range(weight.ndim)]
    assert (error <= quantizer.scale.reshape(shape if axis is not None else ()) * 0.5001 + 1e-30).all()
    assert np.abs(integers.astype(int)).max() <= (127 if bits == 8 else 64)


def test_two_products_of_7_bit_weights_fit_into_16_bits() -> None:
    quantizer = weight_quantizer(np.asarray([[-3.0, 3.0]], np.float32), "int8", 7, None)
    largest = np.abs(quantizer.quantize(np.asarray([[-3.0, 3.0]], np.float32)).astype(int)).max()
    assert 2 * 255 * largest <= np.iinfo(np.int16).max


def test_a_scale_per_channel_beats_one_for_all_where_channels_differ() -> None:
    spread = np.asarray([0.01, 0.1, 1.0, 10.0], np.float32).reshape(4, 1)
    weight = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32) * spread
    worst = {}
    for axis in (None, 0):
        quantizer = weight_quantizer(weight, "int8", 8, axis)
        back = quantizer.dequantize(quantizer.quantize(weight))
        worst[axis] = sqnr_db({"0": weight[0]}, {"0": back[0]})
    assert worst[None] < 1 < 30 < worst[0]


@pytest.mark.parametrize("axis", [None, 0])
def test_a_dead_channel_has_a_positive_scale_and_stays_zero(axis: int | None) -> None:
    weight = np.asarray([[1.0, -2.0], [0.0, 0.0], [1e-30, 0.0]], np.float32)
    quantizer = weight_quantizer(weight, "int8", 8, axis)
    assert (quantizer.scale > 1e-12).all()
    assert not quantizer.quantize(weight)[1:].any()
    assert (weight_quantizer(weight * 0, "int8", 8, axis).scale == 1.0).all()


def test_unsigned_weights_have_their_zero_in_the_middle() -> None:
    quantizer = weight_quantizer(np.asarray([[-1.0, 0.0, 1.0]], np.float32), "uint8", 8, None)
    assert quantizer.quantize(np.asarray([[-1.0, 0.0, 1.0]], np.float32)).tolist() == [[1, 128, 255]]


@given(
    npst.arrays(np.float32, (3, 4), elements=st.floats(-1, 1, width=32)),
    npst.arrays(np.float32, 3, elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(1e-6, 1e2),
    st.sampled_from((None, 0)),
)
def test_a_bias_never_overflows(
    weight: np.ndarray, bias: np.ndarray, activation_scale: float, axis: int | None
) -> None:
    weights = make_room_for_bias(weight_quantizer(weight, "int8", 8, axis), bias, activation_scale)
    quantizer = bias_quantizer(weights, activation_scale, 3)
    integers = quantizer.quantize(bias)
    assert integers.dtype == np.int32
    assert np.abs(integers.astype(np.int64)).max() <= BIAS_LIMIT * 1.001
    back = quantizer.dequantize(integers)
    assert (np.abs(back - bias) <= quantizer.scale * 0.51 + np.abs(bias) * 1e-6).all()


def test_scales_that_leave_room_for_the_bias_are_left_alone() -> None:
    given = weight_quantizer(np.asarray([[1.0], [1e-9]], np.float32), "int8", 8, 0)
    raised = make_room_for_bias(given, np.asarray([5.0, 500.0], np.float32), 1e-3)
    assert raised.scale[0] == given.scale[0]
    assert raised.scale[1] > given.scale[1]


def test_sqnr_is_that_of_the_worst_tensor() -> None:
    signal = np.asarray([10.0, 0.0], np.float32)
    noisy = {"fine": signal + 0.01, "coarse": signal + np.asarray([1.0, 0.0], np.float32)}
    assert sqnr_db({"fine": signal, "coarse": signal}, noisy) == pytest.approx(20.0)
    assert sqnr_db({"same": signal}, {"same": signal}) == SQNR_LIMIT_DB
    assert sqnr_db({"gone": signal * 0}, {"gone": signal}) == -SQNR_LIMIT_DB


def test_a_quantizer_along_an_axis_scales_each_of_its_channels() -> None:
    quantizer = Quantizer(np.asarray([1.0, 10.0], np.float32), np.zeros(2, np.int8), axis=1)
    assert quantizer.quantize(np.full((1, 2, 1), 20.0, np.float32)).ravel().tolist() == [20, 2]


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("axis", [0, None])
def test_mse_cuts_outliers_off_where_that_makes_the_whole_error_smaller(bits: int, axis: int | None) -> None:
    weight = np.random.default_rng(0).normal(0, 0.1, (4, 20_000)).astype(np.float32)
    weight[1, 0] = 1.0

    def error(method: WeightMethod) -> float:
        quantizer = weight_quantizer(weight, "int8", bits, axis, method)
        integers = quantizer.quantize(weight)
        assert np.abs(integers.astype(int)).max() <= min(127, 2 ** (bits - 1))
        return float(np.square(quantizer.dequantize(integers) - weight).sum())

    assert error("mse") < 0.95 * error("minmax")
    even = np.linspace(-1, 1, 255, dtype=np.float32)[None]
    kept = weight_quantizer(even, "int8", 8, axis, "mse").scale
    np.testing.assert_array_equal(kept, weight_quantizer(even, "int8", 8, axis).scale)
