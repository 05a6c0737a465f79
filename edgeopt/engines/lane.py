"""One execution context of an engine with its stream, its buffers and its graph: what one run at a time uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.engines.library import call, import_cuda_unchecked
from edgeopt.engines.memory import Buffer
from edgeopt.errors import BackendError

Arrays = dict[str, NDArray[Any]]
Shapes = tuple[tuple[int, ...], ...]


class Lane:
    """Runs an engine. Its buffers, and its CUDA graph, are those of the shapes of the last inputs.

    A CUDA graph holds the copies to the GPU, the network and the copies back, so that a run is one launch: of a small
    network most of the host's time is else spent on launching layers.
    """

    def __init__(self, tensorrt: Any, engine: Any, inputs: Sequence[str], outputs: Sequence[str], graph: bool) -> None:
        self._tensorrt, self._engine, self._runtime = tensorrt, engine, import_cuda_unchecked()
        self._inputs, self._outputs, self._wants_graph = tuple(inputs), tuple(outputs), graph
        self._buffers: dict[str, Buffer] = {}
        self._shapes: Shapes | None = None
        self._launch: Any = None
        self.context = engine.create_execution_context()
        if self.context is None:
            raise BackendError("TensorRT could not make a context: the GPU may be out of memory", "lower `streams`")
        self._stream = call(self._runtime.cudaStreamCreateWithFlags, self._runtime.cudaStreamNonBlocking)

    def run(self, given: Mapping[str, Any]) -> Arrays:
        """Run one batch; the arrays that come back are copies."""
        self._fit(given)
        if self._launch is not None:
            call(self._runtime.cudaGraphLaunch, self._launch, self._stream)
        else:
            self._enqueue()
        call(self._runtime.cudaStreamSynchronize, self._stream)
        return {name: self._buffers[name].host.copy() for name in self._outputs}

    def device_ms(self, given: Mapping[str, Any]) -> float:
        """Milliseconds that the network alone takes by the clock of the GPU: no copies, and no launch of the host's."""
        self._fit(given)
        runtime = self._runtime
        start, stop = call(runtime.cudaEventCreate), call(runtime.cudaEventCreate)
        try:
            for name in self._inputs:
                self._buffers[name].send(self._stream)
            call(runtime.cudaEventRecord, start, self._stream)
            self._execute()
            call(runtime.cudaEventRecord, stop, self._stream)
            call(runtime.cudaEventSynchronize, stop)
            return float(call(runtime.cudaEventElapsedTime, start, stop))
        finally:
            for event in (start, stop):
                call(runtime.cudaEventDestroy, event)

    def close(self) -> None:
        self._drop()
        if self._stream is not None:
            call(self._runtime.cudaStreamDestroy, self._stream)
        self._stream = self.context = None

    def _fit(self, given: Mapping[str, Any]) -> None:
        """Put the inputs into their buffers, which are made anew where shapes changed."""
        shapes = tuple(given[name].shape for name in self._inputs)
        if shapes != self._shapes:
            self._drop()
            self._make(dict(zip(self._inputs, shapes, strict=True)))
            self._shapes = shapes
        for name in self._inputs:
            np.copyto(self._buffers[name].host, given[name])
        if self._launch is None and self._wants_graph:
            self._capture()

    def _make(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        context = self.context
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise BackendError(f"the engine takes no `{name}` of shape {list(shape)}", "see `batches` and `axes`")
        unknown = context.infer_shapes()
        if unknown:
            raise BackendError(f"the engine does not know the shape of `{unknown[0]}` before it runs")
        for name in (*self._inputs, *self._outputs):
            shape = tuple(context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise BackendError(f"the shape of `{name}` depends on values: {list(shape)}", "take that output away")
            dtype = np.dtype(self._tensorrt.nptype(self._engine.get_tensor_dtype(name)))
            self._buffers[name] = Buffer(shape, dtype)
            context.set_tensor_address(name, int(self._buffers[name].device))

    def _enqueue(self) -> None:
        for name in self._inputs:
            self._buffers[name].send(self._stream)
        self._execute()
        for name in self._outputs:
            self._buffers[name].fetch(self._stream)

    def _execute(self) -> None:
        if not self.context.execute_async_v3(int(self._stream)):
            raise BackendError("TensorRT could not run the engine: the GPU may be out of memory")

    def _capture(self) -> None:
        """Record one run as a CUDA graph, after one that was not recorded: the first may still set things up."""
        runtime = self._runtime
        self._enqueue()
        call(runtime.cudaStreamSynchronize, self._stream)
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call(runtime.cudaStreamBeginCapture, self._stream, mode)
        try:
            self._enqueue()
        finally:
            graph = call(runtime.cudaStreamEndCapture, self._stream)
        try:
            self._launch = call(runtime.cudaGraphInstantiate, graph, 0)
        finally:
            call(runtime.cudaGraphDestroy, graph)

    def _drop(self) -> None:
        """Free what was made for the last shapes."""
        if self._launch is not None:
            call(self._runtime.cudaGraphExecDestroy, self._launch)
        for buffer in self._buffers.values():
            buffer.close()
        self._launch, self._shapes, self._buffers = None, None, {}
