"""What the fake CUDA runtime holds: memory, streams with the work that waits on them, events, graphs."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cuda.bindings._types import cudaError_t
from fake_gpu import OLDEST_DRIVER, fake_gpu

#: what memory holds before anybody writes to it
GARBAGE = 0xCD

OK, BAD = cudaError_t.cudaSuccess, cudaError_t.cudaErrorInvalidValue
NO_HANDLE = cudaError_t.cudaErrorInvalidResourceHandle
UNSUPPORTED = cudaError_t.cudaErrorStreamCaptureUnsupported

Work = Callable[[], cudaError_t]


@dataclass
class Stream:
    work: list[Work] = field(default_factory=list)
    captured: list[Work] | None = None
    #: the thread whose calls may spoil the capture; None: every thread's
    capturer: int | None = None
    invalidated: bool = False


@dataclass
class Event:
    stream: Stream | None = None
    done_at: float | None = None


@dataclass(frozen=True)
class Memory:
    buffer: Any
    is_device: bool


memory: dict[int, Memory] = {}
streams: dict[int, Stream] = {0: Stream()}
events: dict[int, Event] = {}
graphs: dict[int, list[Work]] = {}
launchable: dict[int, list[Work]] = {}

#: one thread at a time does what waits on streams: freeing waits for all of them
working = threading.RLock()

#: the error that broke the context, for good
failed: list[cudaError_t] = []


def alive() -> dict[str, int]:
    """How many of each thing have been made and not been freed."""
    return {
        "device": sum(one.is_device for one in list(memory.values())),
        "pinned": sum(not one.is_device for one in list(memory.values())),
        "streams": len(streams) - 1,
        "events": len(events),
        "graphs": len(graphs) + len(launchable),
    }


def new(table: dict[int, Any], thing: Any) -> int:
    table[id(thing)] = thing
    return id(thing)


def missing() -> cudaError_t:
    """Why there is no GPU, or success."""
    gpu = fake_gpu()
    if gpu.driver < OLDEST_DRIVER:
        return cudaError_t.cudaErrorInsufficientDriver
    return OK if gpu.devices else cudaError_t.cudaErrorNoDevice


def taken_bytes() -> int:
    return sum(ctypes.sizeof(one.buffer) for one in list(memory.values()))


def holder(address: int, count: int) -> Memory | None:
    """The allocation that holds all of these bytes."""
    for start, one in list(memory.items()):
        if start <= address and address + count <= start + ctypes.sizeof(one.buffer):
            return one
    return None


def allocate(size: int, *, is_device: bool) -> tuple[cudaError_t, int | None]:
    error = missing() or break_captures()
    if not error and taken_bytes() + size > fake_gpu().memory_bytes:
        error = cudaError_t.cudaErrorMemoryAllocation
    if error:
        return error, None
    buffer = (ctypes.c_ubyte * max(size, 1))()
    ctypes.memset(buffer, GARBAGE, ctypes.sizeof(buffer))
    address = ctypes.addressof(buffer)
    memory[address] = Memory(buffer, is_device)
    return OK, address


def release(address: Any, *, is_device: bool) -> cudaError_t:
    if int(address) == 0:
        return OK
    one = memory.get(int(address))
    if one is None or one.is_device is not is_device:
        return BAD
    error = break_captures() or wait_for_all()
    del memory[int(address)]
    return error


def enqueue(stream: Any, work: Work) -> cudaError_t:
    """Put work on a stream: for later, or for the graph that is being captured."""
    held = streams.get(int(stream or 0))
    if held is None:
        return NO_HANDLE
    (held.work if held.captured is None else held.captured).append(work)
    return OK


def is_capturing(stream: Any) -> bool:
    held = streams.get(int(stream or 0))
    return held is not None and held.captured is not None


def wait(stream: Stream | None) -> cudaError_t:
    """Do what waits on a stream; after an error nothing is done any more, as on a GPU whose context is broken."""
    if stream is None:
        return NO_HANDLE
    if stream.captured is not None:
        stream.invalidated = True
        return UNSUPPORTED
    with working:
        while stream.work and not failed:
            error = stream.work.pop(0)()
            if error:
                failed.append(error)
    return failed[0] if failed else OK


def wait_for_all() -> cudaError_t:
    return max((wait(one) for one in list(streams.values()) if one.captured is None), default=OK)


def break_captures() -> cudaError_t:
    """What no stream may capture was called: what is being captured, and minds this thread, is void."""
    here = (None, threading.get_ident())
    capturing = [one for one in list(streams.values()) if one.captured is not None and one.capturer in here]
    for stream in capturing:
        stream.invalidated = True
    return UNSUPPORTED if capturing else OK
