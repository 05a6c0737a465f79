"""One execution context of an engine with its stream, its buffers and its graph: what one run at a time uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.engines.library import VERBOSE, Told, call, import_cuda_unchecked
from edgeopt.engines.memory import Buffer
from edgeopt.errors import BackendError
from edgeopt.model import Artifact

Arrays = dict[str, NDArray[Any]]
Shapes = tuple[tuple[int, ...], ...]

#: TensorRT's name of a type → numpy's
NAMES = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "UINT8": "uint8", "INT32": "int32", "INT64": "int64",
    "BOOL": "bool",
}  # fmt: skip


class Lane:
    """Runs an engine. Its buffers, and its CUDA graphs, are those of the shapes of the last inputs.

    A CUDA graph holds the copies to the GPU, the network and the copies back, so that a run is one launch: of a small
    network most of the host's time is else spent on launching layers. Another one holds the network alone, for the
    clock of the GPU.
    """

    def __init__(self, tensorrt: Any, engine: Any, artifact: Artifact, told: Told) -> None:
        self._tensorrt, self._engine, self._runtime = tensorrt, engine, import_cuda_unchecked()
        self._told, self._wants_graph = told, bool(artifact.settings.get("cuda_graph", True))
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in (*artifact.inputs, *artifact.outputs)}
        self._inputs = tuple(spec.name for spec in artifact.inputs)
        self._outputs = tuple(spec.name for spec in artifact.outputs)
        self._check_tensors()
        self._buffers: dict[str, Buffer] = {}
        self._shapes: Shapes | None = None
        self._graphs: dict[Callable[[], None], Any] = {}
        self.context = engine.create_execution_context()
        if self.context is None:
            raise told.error("TensorRT could not make a context: the GPU may be out of memory", "lower `streams`")
        self._stream = call(self._runtime.cudaStreamCreateWithFlags, self._runtime.cudaStreamNonBlocking)

    def run(self, given: Mapping[str, Any]) -> Arrays:
        """Run one batch; the arrays that come back are copies."""
        self._fit(given)
        self._launch(self._enqueue)
        call(self._runtime.cudaStreamSynchronize, self._stream)
        return {name: self._buffers[name].host.copy() for name in self._outputs}

    def device_ms(self, given: Mapping[str, Any]) -> float:
        """Milliseconds that the network alone takes by the clock of the GPU: no copies.

        Without a CUDA graph, the GPU's waiting for the host to launch a layer is in it.
        """
        self._fit(given)
        self._prepare(self._execute)
        runtime = self._runtime
        start, stop = call(runtime.cudaEventCreate), call(runtime.cudaEventCreate)
        try:
            for name in self._inputs:
                self._buffers[name].send(self._stream)
            call(runtime.cudaEventRecord, start, self._stream)
            self._launch(self._execute)
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
        self._prepare(self._enqueue)

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
            self._buffers[name] = Buffer(shape, self._dtypes[name])
            if not context.set_tensor_address(name, int(self._buffers[name].device)):
                raise self._told.error(f"the engine has no `{name}`", "build it anew")

    def _enqueue(self) -> None:
        for name in self._inputs:
            self._buffers[name].send(self._stream)
        self._execute()
        for name in self._outputs:
            self._buffers[name].fetch(self._stream)

    def _execute(self) -> None:
        if not self.context.execute_async_v3(int(self._stream)):
            raise self._told.error("TensorRT could not run the engine", VERBOSE)

    def _launch(self, work: Callable[[], None]) -> None:
        """Put work on the stream: as one CUDA graph where it was prepared."""
        if work in self._graphs:
            call(self._runtime.cudaGraphLaunch, self._graphs[work], self._stream)
        else:
            work()

    def _prepare(self, work: Callable[[], None]) -> None:
        """Record work as a CUDA graph, after one run that is not recorded: the first may still set things up."""
        if not self._wants_graph or work in self._graphs:
            return
        runtime = self._runtime
        work()
        call(runtime.cudaStreamSynchronize, self._stream)
        graph = self._capture(work)
        try:
            self._graphs[work] = call(runtime.cudaGraphInstantiate, graph, 0)
        finally:
            call(runtime.cudaGraphDestroy, graph)

    def _capture(self, work: Callable[[], None]) -> Any:
        """What work puts on the stream, and is not done now. Other threads may go on using the GPU meanwhile.

        Raises:
            BackendError: some of it may be in no CUDA graph.
        """
        runtime = self._runtime
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call(runtime.cudaStreamBeginCapture, self._stream, mode)
        failure: BackendError | None = None
        try:
            work()
        except BackendError as error:
            failure = error
        status, graph = runtime.cudaStreamEndCapture(self._stream)
        if failure is None and status == runtime.cudaError_t.cudaSuccess:
            return graph
        if status == runtime.cudaError_t.cudaSuccess:
            call(runtime.cudaGraphDestroy, graph)
        runtime.cudaGetLastError()  # else the next call that looks for one finds this one
        what = "the engine does something that a CUDA graph cannot hold"
        raise self._told.error(what, "add `cuda_graph: false` to the backend") from failure

    def _check_tensors(self) -> None:
        """The engine takes and gives what its artifact says, in the memory of the GPU."""
        for name, expected in self._dtypes.items():
            found = self._engine.get_tensor_dtype(name).name
            if NAMES.get(found) != expected.name:
                raise BackendError(f"the engine has `{name}` as {found}, and not as {expected.name}")
            if self._engine.get_tensor_location(name) != self._tensorrt.TensorLocation.DEVICE:
                raise BackendError(f"the engine reads `{name}` on the host, as it does shapes", "make it a constant")

    def _drop(self) -> None:
        """Free what was made for the last shapes."""
        for launchable in self._graphs.values():
            call(self._runtime.cudaGraphExecDestroy, launchable)
        for buffer in self._buffers.values():
            buffer.close()
        self._graphs, self._shapes, self._buffers = {}, None, {}
