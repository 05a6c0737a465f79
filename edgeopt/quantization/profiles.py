"""What compilers want to see that take a quantized graph on from here, as plain data.

Backends declare their own profiles; these are of targets that are built elsewhere, from the graph that edgeopt leaves.

- TensorRT, 10 and 11: symmetric s8; scales per channel for weights only; pairs before the operators that compute in
  integers and none behind them, one on the skip branch of a sum; no pair on a bias; convolutions of few channels in
  float. What is pointwise is fused, and the subtraction that shifts a zero with it (not measured). A concatenation
  needs nothing: the pair behind it holds one scale for all of its inputs, and TensorRT moves it.
- LiteRT's full-integer networks: s8 activations, s8 weights around zero, s32 bias, everything in integers to the
  outputs; what only moves or joins values keeps one scale, and a sigmoid or softmax has a fixed one.
"""

from __future__ import annotations

from edgeopt.model import QuantizationProfile

#: 256 steps of 1/256 from 0
UNIT = (0.0, 255 / 256)

TENSORRT = QuantizationProfile(
    name="tensorrt",
    activation_dtype="int8",
    activation_symmetric=True,
    weight_dtype="int8",
    weight_axes={"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1},
    quantized_ops=("Conv", "ConvTranspose", "Gemm", "MatMul", "Add"),
    fused_activations=("Relu", "Clip"),
    quantize_bias=False,
    quantize_residual=False,
    quantize_outputs=False,
    zero_shift=True,
    least_channels=16,
    channel_multiple=8,
)

LITERT = QuantizationProfile(
    name="litert",
    activation_dtype="int8",
    weight_dtype="int8",
    weight_axes={"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1},
    quantized_ops=(
        "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "AveragePool", "GlobalAveragePool",
        "ReduceMean", "LeakyRelu", "HardSwish", "Sigmoid", "Softmax", "Tanh",
    ),
    passthrough_ops=(
        "Concat", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Resize",
        "DepthToSpace", "Pad",
    ),
    fused_activations=("Relu", "Clip"),
    integer_outputs=True,
    fixed_ranges={"Sigmoid": UNIT, "Softmax": UNIT, "Tanh": (-1.0, 127 / 128)},
)  # fmt: skip

#: by the name that a command takes
PROFILES = {profile.name: profile for profile in (TENSORRT, LITERT)}
