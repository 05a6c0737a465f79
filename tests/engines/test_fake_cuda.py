"""The fake CUDA runtime is as lazy and unforgiving as the real one, so that mistakes show where there is no GPU."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
import time
from typing import Any

import pytest


@pytest.fixture
def cuda(fake_gpu: Any) -> Any:
    from cuda.bindings import runtime

    return runtime


def ok(answer: tuple[Any, ...]) -> Any:
    """The result of a call that must not fail."""
    assert answer[0] == 0, answer[0]
    return answer[1] if len(answer) == 2 else None


@pytest.fixture
def lane(cuda: Any) -> Any:
    """A stream with 16 bytes of pinned memory on either side of 16 bytes on the device."""
    stream = ok(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking))
    return stream, ok(cuda.cudaHostAlloc(16, 0)), ok(cuda.cudaMalloc(16)), ok(cuda.cudaHostAlloc(16, 0))


def copy_through(cuda: Any, lane: Any) -> None:
    stream, there, device, back = lane
    kinds = cuda.cudaMemcpyKind
    ok(cuda.cudaMemcpyAsync(device, there, 16, kinds.cudaMemcpyHostToDevice, stream))
    ok(cuda.cudaMemcpyAsync(back, device, 16, kinds.cudaMemcpyDeviceToHost, stream))


def test_a_copy_is_made_when_somebody_waits_for_it(cuda: Any, lane: Any) -> None:
    stream, there, _, back = lane
    ctypes.memmove(there, b"sixteen bytes :)", 16)
    copy_through(cuda, lane)
    assert ctypes.string_at(back, 16) == b"\xcd" * 16
    ok(cuda.cudaStreamSynchronize(stream))
    assert ctypes.string_at(back, 16) == b"sixteen bytes :)"


def test_memory_that_is_not_pinned_is_copied_at_once(cuda: Any, lane: Any) -> None:
    stream, _, device, back = lane
    pageable = ctypes.create_string_buffer(b"sixteen bytes :)", 16)
    place = ctypes.addressof(pageable)
    ok(cuda.cudaMemcpyAsync(device, place, 16, cuda.cudaMemcpyKind.cudaMemcpyHostToDevice, stream))
    ok(cuda.cudaMemcpyAsync(back, device, 16, cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream))
    assert ctypes.string_at(back, 16) == b"\xcd" * 16
    ok(cuda.cudaStreamSynchronize(stream))
    assert ctypes.string_at(back, 16) == b"sixteen bytes :)"


def test_a_copy_past_the_end_or_in_the_wrong_direction_is_refused(cuda: Any, lane: Any) -> None:
    stream, there, device, _ = lane
    kinds, errors = cuda.cudaMemcpyKind, cuda.cudaError_t
    past = cuda.cudaMemcpyAsync(device, there, 17, kinds.cudaMemcpyHostToDevice, stream)
    turned = cuda.cudaMemcpyAsync(device, there, 16, kinds.cudaMemcpyDeviceToHost, stream)
    nowhere = cuda.cudaMemcpyAsync(0, there, 16, kinds.cudaMemcpyHostToDevice, stream)
    assert (past, turned) == ((errors.cudaErrorInvalidValue,), (errors.cudaErrorInvalidMemcpyDirection,))
    assert nowhere == (errors.cudaErrorInvalidValue,)


def test_a_captured_graph_does_nothing_until_it_is_launched_and_then_does_it_each_time(cuda: Any, lane: Any) -> None:
    stream, there, _, back = lane
    ok(cuda.cudaStreamBeginCapture(stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal))
    copy_through(cuda, lane)
    graph = ok(cuda.cudaStreamEndCapture(stream))
    launchable = ok(cuda.cudaGraphInstantiate(graph, 0))
    ok(cuda.cudaGraphDestroy(graph))
    ok(cuda.cudaStreamSynchronize(stream))
    assert ctypes.string_at(back, 16) == b"\xcd" * 16
    for text in (b"first of launch.", b"second launch..."):
        ctypes.memmove(there, text, 16)
        ok(cuda.cudaGraphLaunch(launchable, stream))
        ok(cuda.cudaStreamSynchronize(stream))
        assert ctypes.string_at(back, 16) == text


@pytest.mark.parametrize("forbidden", ["cudaStreamSynchronize", "cudaMalloc", "cudaDeviceSynchronize"])
def test_what_must_not_be_called_during_a_capture_breaks_it(forbidden: str, cuda: Any, lane: Any) -> None:
    stream = lane[0]
    arguments = {"cudaStreamSynchronize": (stream,), "cudaMalloc": (8,)}.get(forbidden, ())
    ok(cuda.cudaStreamBeginCapture(stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeGlobal))
    assert getattr(cuda, forbidden)(*arguments)[0] == cuda.cudaError_t.cudaErrorStreamCaptureUnsupported
    assert cuda.cudaStreamEndCapture(stream) == (cuda.cudaError_t.cudaErrorStreamCaptureInvalidated, None)


def test_events_measure_the_work_between_them_once_it_is_done(cuda: Any, lane: Any) -> None:
    from cuda.bindings import _state

    stream = lane[0]
    start, end = ok(cuda.cudaEventCreate()), ok(cuda.cudaEventCreateWithFlags(0))
    assert cuda.cudaEventElapsedTime(start, end) == (cuda.cudaError_t.cudaErrorInvalidResourceHandle, None)
    ok(cuda.cudaEventRecord(start, stream))
    _state.enqueue(stream, lambda: time.sleep(0.02) or _state.OK)
    ok(cuda.cudaEventRecord(end, stream))
    assert cuda.cudaEventElapsedTime(start, end) == (cuda.cudaError_t.cudaErrorNotReady, None)
    ok(cuda.cudaEventSynchronize(end))
    assert 20 <= ok(cuda.cudaEventElapsedTime(start, end)) < 2000


def test_what_is_not_freed_is_counted(cuda: Any, lane: Any, fake_gpu: Any) -> None:
    stream, there, device, back = lane
    assert fake_gpu.alive() == {"device": 1, "pinned": 2, "streams": 1, "events": 0, "graphs": 0}
    assert cuda.cudaFree(there) == (cuda.cudaError_t.cudaErrorInvalidValue,)
    for free, place in ((cuda.cudaFree, device), (cuda.cudaFreeHost, there), (cuda.cudaFreeHost, back)):
        ok(free(place))
        assert free(place) == (cuda.cudaError_t.cudaErrorInvalidValue,)
    ok(cuda.cudaStreamDestroy(stream))
    assert not any(fake_gpu.alive().values())


def test_memory_ends(cuda: Any, fake_gpu: Any) -> None:
    fake_gpu.set(memory_bytes=1 << 20)
    ok(cuda.cudaMalloc(1 << 19))
    assert cuda.cudaMalloc(1 << 20) == (cuda.cudaError_t.cudaErrorMemoryAllocation, None)
    assert cuda.cudaGetErrorString(cuda.cudaError_t(2)) == (0, b"out of memory")


@pytest.mark.parametrize(("lacking", "error"), [({"driver": 0}, 35), ({"devices": 0}, 100)])
def test_without_a_gpu_each_call_says_so(lacking: dict[str, int], error: int, cuda: Any, fake_gpu: Any) -> None:
    fake_gpu.set(**lacking)
    assert cuda.cudaGetDeviceCount() == (error, None)
    assert cuda.cudaMalloc(8) == cuda.cudaStreamCreate() == (error, None)
    assert cuda.cudaGetDeviceProperties(0) == (error, None)


def test_the_real_runtime_answers_a_machine_without_a_gpu_in_the_same_form(cuda: Any, fake_gpu: Any) -> None:
    program = """if True:
        from cuda.bindings import runtime
        error, count = runtime.cudaGetDeviceCount()
        text = runtime.cudaGetErrorString(error)[1]
        print(int(error), count, runtime.cudaMalloc(8)[1], len(runtime.cudaFree(0)), text)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    real, _, rest = done.stdout.partition(" ")
    if real == "0":
        pytest.skip("this machine has a GPU")
    fake_gpu.set(driver=0)
    error, count = cuda.cudaGetDeviceCount()
    text = cuda.cudaGetErrorString(error)[1]
    assert int(error) == int(real)
    assert rest.strip() == f"{count} {cuda.cudaMalloc(8)[1]} {len(cuda.cudaFree(0))} {text}"


@pytest.mark.parametrize(("mode", "is_spoiled"), [("Global", True), ("ThreadLocal", False)])
def test_another_thread_spoils_a_capture_only_where_that_minds_all_threads(
    mode: str, is_spoiled: bool, cuda: Any, lane: Any
) -> None:
    stream = lane[0]
    ok(cuda.cudaStreamBeginCapture(stream, cuda.cudaStreamCaptureMode[f"cudaStreamCaptureMode{mode}"]))
    copy_through(cuda, lane)
    other = threading.Thread(target=lambda: cuda.cudaFree(cuda.cudaMalloc(16)[1] or 0))
    other.start()
    other.join()
    error, graph = cuda.cudaStreamEndCapture(stream)
    assert (error != 0, graph is None) == (is_spoiled, is_spoiled)
