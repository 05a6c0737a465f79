"""The enums that a builder needs, with the numbers of both major versions: they are not the same."""

from __future__ import annotations

import enum
from typing import Any

from tensorrt._base import MAJOR

#: a member that only one major version has, or with another number in each: of 10, of 11
Both = tuple[int | None, int | None]


class Compiled(enum.Enum):
    """Equal to itself and to no number, as pybind11 makes them; `int()` and `<<` work."""

    def __int__(self) -> int:
        return int(self.value)

    __index__ = __int__


def _enum(name: str, **members: int | Both) -> Any:
    chosen = {member: one if isinstance(one, int) else one[MAJOR - 10] for member, one in members.items()}
    return Compiled(name, {member: one for member, one in chosen.items() if one is not None}, module="tensorrt")


BuilderFlag = _enum(
    "BuilderFlag",
    FP16=(0, None), INT8=(1, None), DEBUG=2, GPU_FALLBACK=3, REFIT=4, DISABLE_TIMING_CACHE=5, TF32=6, SPARSE_WEIGHTS=7,
    SAFETY_SCOPE=8, OBEY_PRECISION_CONSTRAINTS=(9, None), PREFER_PRECISION_CONSTRAINTS=(10, None), DIRECT_IO=11,
    VERSION_COMPATIBLE=(13, 12), EXCLUDE_LEAN_RUNTIME=(14, 13), FP8=(15, None), ERROR_ON_TIMING_CACHE_MISS=(16, 15),
    BF16=(17, None), DISABLE_COMPILATION_CACHE=(18, 17), STRIP_PLAN=(19, 18), REFIT_IDENTICAL=(20, 19),
    WEIGHT_STREAMING=(21, 20), INT4=(22, None), REFIT_INDIVIDUAL=(23, 22), STRICT_NANS=(24, 23),
    MONITOR_MEMORY=(25, 24), FP4=(26, None), EDITABLE_TIMING_CACHE=(27, 26), DISTRIBUTIVE_INDEPENDENCE=(28, 27),
)  # fmt: skip

NetworkDefinitionCreationFlag = _enum(
    "NetworkDefinitionCreationFlag",
    EXPLICIT_BATCH=(0, None), STRONGLY_TYPED=(1, 0), PREFER_JIT_PYTHON_PLUGINS=(2, 1), PREFER_AOT_PYTHON_PLUGINS=(3, 2),
)  # fmt: skip

OnnxParserFlag = _enum(
    "OnnxParserFlag",
    NATIVE_INSTANCENORM=0, ENABLE_UINT8_AND_ASYMMETRIC_QUANTIZATION_DLA=1, REPORT_CAPABILITY_DLA=2,
    ENABLE_PLUGIN_OVERRIDE=3, ADJUST_FOR_DLA=4,
)  # fmt: skip

PreviewFeature = _enum(
    "PreviewFeature",
    PROFILE_SHARING_0806=(0, None), ALIASED_PLUGIN_IO_10_03=(1, 0), RUNTIME_ACTIVATION_RESIZE_10_10=(2, 1),
    MULTIDEVICE_RUNTIME_10_16=(3, None),
)  # fmt: skip

TacticSource = _enum(
    "TacticSource",
    CUBLAS=(0, None), CUBLAS_LT=(1, None), CUDNN=(2, None), EDGE_MASK_CONVOLUTIONS=(3, 0), JIT_CONVOLUTIONS=(4, 1),
)  # fmt: skip

ErrorCode = _enum(
    "ErrorCode",
    SUCCESS=0, INTERNAL_ERROR=1, MEM_ALLOC_FAILED=2, MODEL_DESERIALIZE_FAILED=3, INVALID_VALUE=4, INVALID_GRAPH=5,
    INVALID_NODE=6, UNSUPPORTED_GRAPH=7, UNSUPPORTED_NODE=8, UNSUPPORTED_NODE_ATTR=9, UNSUPPORTED_NODE_INPUT=10,
    UNSUPPORTED_NODE_DATATYPE=11, UNSUPPORTED_NODE_DYNAMIC=12, UNSUPPORTED_NODE_SHAPE=13, REFIT_FAILED=14,
)  # fmt: skip

LayerType = _enum(
    "LayerType",
    CONVOLUTION=0, CAST=1, ACTIVATION=2, POOLING=3, SOFTMAX=6, DECONVOLUTION=7, CONCATENATION=8, ELEMENTWISE=9,
    PLUGIN=10, UNARY=11, SHUFFLE=13, REDUCE=14, GATHER=16, MATRIX_MULTIPLY=17, CONSTANT=19, IDENTITY=20, SLICE=22,
    SHAPE=23, RESIZE=25, QUANTIZE=32, DEQUANTIZE=33, NORMALIZATION=45,
)  # fmt: skip

MemoryPoolType = _enum(
    "MemoryPoolType",
    WORKSPACE=0, DLA_MANAGED_SRAM=1, DLA_LOCAL_DRAM=2, DLA_GLOBAL_DRAM=3, TACTIC_DRAM=4, TACTIC_SHARED_MEMORY=5,
)  # fmt: skip

TensorFormat = _enum(
    "TensorFormat",
    LINEAR=0, CHW2=1, HWC8=2, CHW4=3, CHW16=4, CHW32=5, DHWC8=6, CDHW32=7, HWC=8, DLA_LINEAR=9, DLA_HWC4=10, HWC16=11,
    DHWC=12,
)  # fmt: skip

DeviceType = _enum("DeviceType", GPU=0, DLA=1)
EngineCapability = _enum("EngineCapability", STANDARD=0, SAFETY=1, DLA_STANDALONE=2)
ExecutionContextAllocationStrategy = _enum(
    "ExecutionContextAllocationStrategy", STATIC=0, ON_PROFILE_CHANGE=1, USER_MANAGED=2
)
HardwareCompatibilityLevel = _enum("HardwareCompatibilityLevel", NONE=0, AMPERE_PLUS=1, SAME_COMPUTE_CAPABILITY=2)
LayerInformationFormat = _enum("LayerInformationFormat", ONELINE=0, JSON=1)
ProfilingVerbosity = _enum("ProfilingVerbosity", LAYER_NAMES_ONLY=0, NONE=1, DETAILED=2)
#: of 10 alone
QuantizationFlag = _enum("QuantizationFlag", CALIBRATE_BEFORE_FUSION=0)
RuntimePlatform = _enum("RuntimePlatform", SAME_AS_BUILD=0, WINDOWS_AMD64=1)
Severity = _enum("Severity", INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)
TensorIOMode = _enum("TensorIOMode", NONE=0, INPUT=1, OUTPUT=2)
TensorLocation = _enum("TensorLocation", DEVICE=0, HOST=1)
TilingOptimizationLevel = _enum("TilingOptimizationLevel", NONE=0, FAST=1, MODERATE=2, FULL=3)


class DataType(Compiled):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    FP8 = 6
    BF16 = 7
    INT64 = 8
    INT4 = 9
    FP4 = 10
    E8M0 = 11

    @property
    def itemsize(self) -> float | None:
        return {
            DataType.FLOAT: 4, DataType.HALF: 2, DataType.BF16: 2, DataType.INT8: 1, DataType.INT32: 4,
            DataType.INT64: 8, DataType.BOOL: 1, DataType.UINT8: 1, DataType.FP8: 1, DataType.INT4: 0.5,
            DataType.FP4: 0.5,
        }.get(self)  # fmt: skip
