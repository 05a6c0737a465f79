"""A fake `cuda.bindings.runtime` in host memory: as lazy as the real one, and as unforgiving.

Work put on a stream is done when somebody waits for it, so a result that is read too early is the old one. Memory is
only moved between places that were allocated, in the direction that is named and within their bounds. A captured graph
keeps the work and does it again at each launch. What two events measure is the time that the work between them took.

Every function returns a tuple `(error, *results)`, the results None where there is an error, as the real ones do.
"""

# ruff: noqa: N802, N803, N816

from __future__ import annotations

import ctypes as _ctypes
import threading as _threading
import time as _time
from typing import Any as _Any

from cuda.bindings import _state
from cuda.bindings._state import BAD as _BAD
from cuda.bindings._state import NO_HANDLE as _NO_HANDLE
from cuda.bindings._state import OK as _OK
from cuda.bindings._types import (
    TEXTS as _TEXTS,
)
from cuda.bindings._types import (
    cudaDeviceProp,
    cudaError_t,
    cudaEvent_t,
    cudaGraph_t,
    cudaGraphExec_t,
    cudaMemcpyKind,
    cudaStream_t,
    cudaStreamCaptureMode,
)
from fake_gpu import fake_gpu as _fake_gpu

__version__ = "13.5.0"

cudaHostAllocDefault, cudaHostAllocPortable, cudaHostAllocMapped, cudaHostAllocWriteCombined = 0, 1, 2, 4
cudaStreamDefault, cudaStreamNonBlocking = 0, 1
cudaEventDefault, cudaEventBlockingSync, cudaEventDisableTiming = 0, 1, 2

_Failed = tuple[cudaError_t]


def _one(error: cudaError_t, value: _Any) -> tuple[cudaError_t, _Any]:
    return (error, None) if error else (_OK, value)


def cudaGetDeviceCount() -> tuple[cudaError_t, int | None]:
    return _one(_state.missing(), _fake_gpu().devices)


def cudaGetDevice() -> tuple[cudaError_t, int | None]:
    return _one(_state.missing(), 0)


def cudaSetDevice(device: int) -> _Failed:
    known = _OK if 0 <= device < _fake_gpu().devices else cudaError_t.cudaErrorInvalidDevice
    return (_state.missing() or known,)


def cudaGetDeviceProperties(device: int) -> tuple[cudaError_t, cudaDeviceProp | None]:
    return _one(cudaSetDevice(device)[0], cudaDeviceProp())


def cudaDriverGetVersion() -> tuple[cudaError_t, int]:
    return _OK, _fake_gpu().driver


def cudaRuntimeGetVersion() -> tuple[cudaError_t, int]:
    return _OK, 13050


def cudaMemGetInfo() -> tuple[cudaError_t, int | None, int | None]:
    error, total = _state.missing(), _fake_gpu().memory_bytes
    return (error, None, None) if error else (_OK, total - _state.taken_bytes(), total)


def cudaGetErrorString(error: cudaError_t) -> tuple[cudaError_t, bytes]:
    return _OK, _TEXTS[cudaError_t(error)]


def cudaGetErrorName(error: cudaError_t) -> tuple[cudaError_t, bytes]:
    return _OK, cudaError_t(error).name.encode()


def cudaGetLastError() -> _Failed:
    """What failed since the last call. Nothing here looks for it."""
    return (_OK,)


def cudaDeviceSynchronize() -> _Failed:
    return (_state.break_captures() or _state.wait_for_all(),)


def cudaMalloc(size: int) -> tuple[cudaError_t, int | None]:
    return _state.allocate(size, is_device=True)


def cudaFree(devPtr: _Any) -> _Failed:
    return (_state.release(devPtr, is_device=True),)


def cudaHostAlloc(size: int, flags: int) -> tuple[cudaError_t, int | None]:
    return _state.allocate(size, is_device=False)


def cudaFreeHost(ptr: _Any) -> _Failed:
    return (_state.release(ptr, is_device=False),)


def _wrong_place(address: int, count: int, *, is_device: bool, any_place: bool) -> cudaError_t:
    """Why a copy may not touch these bytes; host memory that CUDA knows nothing of is the caller's own matter."""
    holder = _state.holder(address, count)
    if holder is None:
        return _BAD if is_device or _state.holder(address, 1) is not None else _OK
    if holder.is_device is is_device or any_place:
        return _OK
    return cudaError_t.cudaErrorInvalidMemcpyDirection


def cudaMemcpyAsync(dst: _Any, src: _Any, count: int, kind: cudaMemcpyKind, stream: _Any) -> _Failed:
    """Pinned memory waits for its turn; from and to any other the copy is made at once, as the driver does."""
    to, start, any_place = int(dst), int(src), kind is cudaMemcpyKind.cudaMemcpyDefault
    error = _wrong_place(to, count, is_device=kind.name.endswith("ToDevice"), any_place=any_place)
    error = error or _wrong_place(start, count, is_device="DeviceTo" in kind.name, any_place=any_place)

    def copy() -> cudaError_t:
        _ctypes.memmove(to, start, count)
        return _OK

    error = error or _state.enqueue(stream, copy)
    is_pinned = _state.holder(to, count) is not None and _state.holder(start, count) is not None
    if not error and not is_pinned and not _state.is_capturing(stream):
        error = _state.wait(_state.streams[int(stream or 0)])
    return (error,)


def cudaStreamCreate() -> tuple[cudaError_t, cudaStream_t | None]:
    return cudaStreamCreateWithFlags(cudaStreamDefault)


def cudaStreamCreateWithFlags(flags: int) -> tuple[cudaError_t, cudaStream_t | None]:
    error = _state.missing()
    return (error, None) if error else (_OK, cudaStream_t(_state.new(_state.streams, _state.Stream())))


def cudaStreamSynchronize(stream: _Any) -> _Failed:
    return (_state.wait(_state.streams.get(int(stream or 0))),)


def cudaStreamDestroy(stream: _Any) -> _Failed:
    return (_state.wait(_state.streams.pop(int(stream), None) if int(stream) else None),)


def cudaEventCreate() -> tuple[cudaError_t, cudaEvent_t | None]:
    return cudaEventCreateWithFlags(cudaEventDefault)


def cudaEventCreateWithFlags(flags: int) -> tuple[cudaError_t, cudaEvent_t | None]:
    error = _state.missing()
    return (error, None) if error else (_OK, cudaEvent_t(_state.new(_state.events, _state.Event())))


def cudaEventRecord(event: _Any, stream: _Any) -> _Failed:
    held, line = _state.events.get(int(event)), _state.streams.get(int(stream or 0))
    if held is None or line is None:
        return (_NO_HANDLE,)

    def mark() -> cudaError_t:
        held.done_at = _time.perf_counter()
        return _OK

    held.stream, held.done_at = line, None
    return (_state.enqueue(stream, mark),)


def cudaEventSynchronize(event: _Any) -> _Failed:
    held = _state.events.get(int(event))
    if held is None:
        return (_NO_HANDLE,)
    return (_OK if held.stream is None or held.done_at is not None else _state.wait(held.stream),)


def cudaEventElapsedTime(start: _Any, end: _Any) -> tuple[cudaError_t, float | None]:
    first, last = _state.events.get(int(start)), _state.events.get(int(end))
    if first is None or last is None or first.stream is None or last.stream is None:
        return _NO_HANDLE, None
    if first.done_at is None or last.done_at is None:
        return cudaError_t.cudaErrorNotReady, None
    return _OK, (last.done_at - first.done_at) * 1000


def cudaEventDestroy(event: _Any) -> _Failed:
    return (_NO_HANDLE if _state.events.pop(int(event), None) is None else _OK,)


def cudaStreamBeginCapture(stream: _Any, mode: cudaStreamCaptureMode) -> _Failed:
    held = _state.streams.get(int(stream)) if int(stream) else None
    if held is None or held.captured is not None:
        return (cudaError_t.cudaErrorIllegalState if held else cudaError_t.cudaErrorStreamCaptureUnsupported,)
    minds_all = mode is cudaStreamCaptureMode.cudaStreamCaptureModeGlobal
    held.capturer = None if minds_all else _threading.get_ident()
    held.captured, held.invalidated = [], False
    return (_OK,)


def cudaStreamEndCapture(stream: _Any) -> tuple[cudaError_t, cudaGraph_t | None]:
    held = _state.streams.get(int(stream))
    if held is None or held.captured is None:
        return cudaError_t.cudaErrorIllegalState, None
    captured, held.captured = held.captured, None
    if held.invalidated:
        return cudaError_t.cudaErrorStreamCaptureInvalidated, None
    return _OK, cudaGraph_t(_state.new(_state.graphs, captured))


def cudaGraphInstantiate(graph: _Any, flags: int) -> tuple[cudaError_t, cudaGraphExec_t | None]:
    work = _state.graphs.get(int(graph))
    return (_BAD, None) if work is None else (_OK, cudaGraphExec_t(_state.new(_state.launchable, list(work))))


def cudaGraphLaunch(graphExec: _Any, stream: _Any) -> _Failed:
    work = _state.launchable.get(int(graphExec))
    if work is None:
        return (_BAD,)
    return (max((_state.enqueue(stream, one) for one in work), default=_OK),)


def cudaGraphExecDestroy(graphExec: _Any) -> _Failed:
    return (_BAD if _state.launchable.pop(int(graphExec), None) is None else _OK,)


def cudaGraphDestroy(graph: _Any) -> _Failed:
    return (_BAD if _state.graphs.pop(int(graph), None) is None else _OK,)
