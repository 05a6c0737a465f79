"""The runtime: an engine from its plan, and what can be asked of it."""

from __future__ import annotations

from typing import Any

import onnx
from fake_gpu import fake_gpu

from tensorrt import _plan
from tensorrt._base import VERSION, Dims, Setting, Strict, only
from tensorrt._context import IExecutionContext
from tensorrt._enums import (
    EngineCapability,
    ExecutionContextAllocationStrategy,
    HardwareCompatibilityLevel,
    ProfilingVerbosity,
    Severity,
    TensorFormat,
    TensorIOMode,
    TensorLocation,
)
from tensorrt._graph import Graph
from tensorrt._inspect import EngineInspector

STATIC = ExecutionContextAllocationStrategy.STATIC


class Runtime(Strict):
    DLA_core = Setting(-1)
    engine_host_code_allowed = Setting(False)
    error_recorder = Setting()
    max_threads = Setting(1)

    def __init__(self, logger: Any) -> None:
        if not (fake_gpu().devices and fake_gpu().driver):
            logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    @property
    def logger(self) -> Any:
        return self._logger

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        return fake_gpu().dla_cores

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        plan = _plan.read(bytes(serialized_engine))
        fault = "the plan is torn or of something else" if plan is None else self._misfit(plan)
        if plan is None or fault:
            self._logger.log(Severity.ERROR, f"IRuntime::deserializeCudaEngine: Error Code 1: Serialization ({fault})")
            return None
        return ICudaEngine._of(plan, self._logger)

    def _misfit(self, plan: _plan.Plan) -> str:
        """Why this library or this GPU does not run a plan."""
        if plan.version != VERSION:
            newer = [int(part) for part in VERSION.split(".")] > [int(part) for part in plan.version.split(".")]
            if not (plan.version_compatible and newer):
                return f"Version tag does not match: {plan.version} was built, {VERSION} runs"
            if not self.engine_host_code_allowed:
                return "a version compatible plan needs engine_host_code_allowed"
        built, here = tuple(plan.capability), fake_gpu().capability
        fits = {"NONE": here == built, "SAME_COMPUTE_CAPABILITY": here == built, "AMPERE_PLUS": here >= (8, 0)}
        return "" if fits[plan.hardware] else f"The engine was built for {built} and is incompatible with {here}"


class ICudaEngine(Strict):
    error_recorder = Setting()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("tensorrt.ICudaEngine: No constructor defined!")

    @classmethod
    def _of(cls, plan: _plan.Plan, logger: Any) -> ICudaEngine:
        made = cls.__new__(cls)
        made._plan, made._logger, made._graph = plan, logger, Graph(onnx.load_from_string(plan.model))
        made._tensors = {one.name: one for one in [*made._graph.inputs, *made._graph.outputs]}
        return made

    @property
    def name(self) -> str:
        return self._plan.name

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def num_layers(self) -> int:
        return len(self._graph.fused())

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self._plan.profiles))

    @property
    def num_aux_streams(self) -> int:
        return 0

    @property
    def refittable(self) -> bool:
        return self._plan.refittable

    @property
    def engine_capability(self) -> Any:
        return EngineCapability[self._plan.capability_of_engine]

    @property
    def hardware_compatibility_level(self) -> Any:
        return HardwareCompatibilityLevel[self._plan.hardware]

    @property
    def profiling_verbosity(self) -> Any:
        return ProfilingVerbosity[self._plan.verbosity]

    @property
    def device_memory_size_v2(self) -> int:
        return 1 << 20

    @only(10)
    @property
    def device_memory_size(self) -> int:
        return 1 << 20

    @only(10)
    @property
    def has_implicit_batch_dimension(self) -> bool:
        return False

    @property
    def streamable_weights_size(self) -> int:
        return 0

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return 1 << 20

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        if name not in self._tensors:
            return TensorIOMode.NONE
        return TensorIOMode.INPUT if self._tensors[name] in self._graph.inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._tensors[name].shape)

    def get_tensor_dtype(self, name: str) -> Any:
        return self._tensors[name].dtype

    def get_tensor_location(self, name: str) -> Any:
        return TensorLocation.DEVICE

    def get_tensor_format(self, name: str) -> Any:
        return TensorFormat.LINEAR

    def get_tensor_format_desc(self, name: str) -> str:
        return "Row major linear FP32 format (kLINEAR)"

    def get_tensor_bytes_per_component(self, name: str) -> int:
        return int(self._tensors[name].dtype.itemsize)

    def get_tensor_components_per_element(self, name: str) -> int:
        return 1

    def get_tensor_vectorized_dim(self, name: str) -> int:
        return -1

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        shapes = self._plan.profiles[profile_index].get(name) if self._plan.profiles else None
        return [Dims(shape) for shape in shapes or [self._tensors[name].shape] * 3]

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector._of(self)

    def create_execution_context(self, strategy: Any = STATIC) -> IExecutionContext | None:
        if fake_gpu().no_context:
            self._logger.log(Severity.ERROR, "Error Code 2: OutOfMemory (Requested size was 1048576 bytes.)")
            return None
        return IExecutionContext._of(self)

    def serialize(self) -> _plan.IHostMemory:
        return _plan.IHostMemory._of(self._plan.written())
