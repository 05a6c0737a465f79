"""The execution context: runs the plan's graph by ONNX Runtime, on the memory that the addresses point to."""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numpy as np
from cuda.bindings import _state
from cuda.bindings._types import cudaError_t
from fake_gpu import fake_gpu

from tensorrt._base import Dims, Setting, Strict
from tensorrt._enums import DataType, ProfilingVerbosity, Severity

NUMPY = {
    DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.INT8: np.int8, DataType.INT32: np.int32,
    DataType.INT64: np.int64, DataType.BOOL: np.bool_, DataType.UINT8: np.uint8,
}  # fmt: skip

#: where a tensor's bytes are: name → address, shape, type
Places = dict[str, tuple[int, tuple[int, ...], Any]]


class IExecutionContext(Strict):
    debug_sync = Setting(False)
    enqueue_emits_profile = Setting(True)
    error_recorder = Setting()
    name = Setting("")
    nvtx_verbosity = Setting(ProfilingVerbosity.LAYER_NAMES_ONLY)
    persistent_cache_limit = Setting(0)
    profiler = Setting()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("tensorrt.IExecutionContext: No constructor defined!")

    @classmethod
    def _of(cls, engine: Any) -> IExecutionContext:
        made = cls.__new__(cls)
        made._engine, made._profile, made._addresses, made._runner = engine, 0, {}, None
        made._given = {one.name: one.shape for one in engine._graph.inputs if -1 not in one.shape}
        made._has_news = True
        return made

    @property
    def engine(self) -> Any:
        return self._engine

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    @property
    def all_binding_shapes_specified(self) -> bool:
        return not self.infer_shapes()

    def set_optimization_profile_async(self, profile_index: int, stream_handle: Any) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return self._fail(f"profile {profile_index} does not exist")
        self._profile, self._has_news = profile_index, True
        self._given = {one.name: one.shape for one in self._engine._graph.inputs if -1 not in one.shape}
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        wanted = tuple(Dims(shape))
        bounds = [tuple(dims) for dims in self._engine.get_tensor_profile_shape(name, self._profile)]
        low, _, high = bounds
        inside = [first <= one <= last for first, one, last in zip(low, wanted, high, strict=False)]
        if len(wanted) != len(low) or not all(inside):
            return self._fail(f"set_input_shape: {wanted} of {name} is not within {low} … {high} of the profile")
        self._has_news = self._has_news or self._given.get(name) != wanted
        self._given[name] = wanted
        return True

    def infer_shapes(self) -> list[str]:
        return [one.name for one in self._engine._graph.inputs if one.name not in self._given]

    def get_tensor_shape(self, name: str) -> Dims:
        if name in self._given:
            return Dims(self._given[name])
        tensor = self._engine._tensors[name]
        if -1 not in tensor.shape or self.infer_shapes():
            return Dims(tensor.shape)
        return Dims(self._engine._graph.at(self._given)[name].shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._tensors:
            return self._fail(f"set_tensor_address: there is no tensor {name}")
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def get_max_output_size(self, name: str) -> int:
        return _size_bytes(tuple(self.get_tensor_shape(name)), self._engine._tensors[name].dtype)

    def execute_async_v3(self, stream_handle: int) -> bool:
        missing = self.infer_shapes() or [name for name in self._engine._tensors if not self._addresses.get(name)]
        if missing:
            return self._fail(f"enqueueV3: neither shape nor address may be missing: {', '.join(missing)}")
        stream = int(stream_handle)
        if _state.is_capturing(stream) and self._has_news:
            _state.break_captures()
            return self._fail("enqueueV3: call it once without a capture after shapes or the profile changed")
        if _state.is_capturing(stream) and fake_gpu().capture:
            if fake_gpu().capture == "invalidated":
                _state.break_captures()
            return self._fail("enqueueV3: operation not permitted when stream is capturing")
        self._has_news = False
        places: Places = {
            name: (self._addresses[name], tuple(self.get_tensor_shape(name)), tensor.dtype)
            for name, tensor in self._engine._tensors.items()
        }
        return not _state.enqueue(stream, lambda: self._execute(places))

    def _execute(self, places: Places) -> cudaError_t:
        for address, shape, dtype in places.values():
            if _state.holder(address, _size_bytes(shape, dtype)) is None:
                return cudaError_t.cudaErrorIllegalAddress
        arrays = {name: _array(*place) for name, place in places.items()}
        inputs = [one.name for one in self._engine._graph.inputs]
        outputs = [one.name for one in self._engine._graph.outputs]
        before = time.perf_counter()
        results = self._opened().run(outputs, {name: arrays[name] for name in inputs})
        self._report((time.perf_counter() - before) * 1000)
        for name, result in zip(outputs, results, strict=True):
            arrays[name][...] = result
            if fake_gpu().nan and np.issubdtype(result.dtype, np.floating):
                arrays[name][...] = np.nan
        return cudaError_t.cudaSuccess

    def _report(self, milliseconds: float) -> None:
        """Tell the profiler, if there is one, that all kernels took the same time."""
        kernels = self._engine._graph.fused() if self.profiler is not None else []
        for kernel in kernels:
            self.profiler.report_layer_time(kernel.name, milliseconds / len(kernels))

    def _opened(self) -> Any:
        """The graph as it is: nothing that ONNX Runtime would make of the pairs."""
        if self._runner is None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.intra_op_num_threads, options.log_severity_level = 1, 4
            model, providers = self._engine._plan.model, ["CPUExecutionProvider"]
            self._runner = onnxruntime.InferenceSession(model, options, providers=providers)
        return self._runner

    def _fail(self, text: str) -> bool:
        self._engine._logger.log(Severity.ERROR, f"IExecutionContext::{text}")
        return False


def _size_bytes(shape: tuple[int, ...], dtype: Any) -> int:
    return int(np.prod(shape, dtype=np.int64)) * int(dtype.itemsize)


def _array(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    content = (ctypes.c_ubyte * _size_bytes(shape, dtype)).from_address(address)
    return np.frombuffer(content, NUMPY[dtype]).reshape(shape)
