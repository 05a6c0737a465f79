"""Memory of the GPU, and memory of the host that it reaches by itself: each freed when it is closed."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt.engines.library import call, import_cuda_unchecked


class Buffer:
    """One tensor in both memories: `host` is the array that copies come from and go to.

    The host's side is pinned: from other memory the GPU copies by way of a buffer of the driver's, and not while the
    host goes on.
    """

    def __init__(self, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        self._runtime = runtime = import_cuda_unchecked()
        self.size_bytes = max(1, math.prod(shape) * dtype.itemsize)
        self._host = call(runtime.cudaHostAlloc, self.size_bytes, 0)
        self.device = 0
        try:
            self.device = call(runtime.cudaMalloc, self.size_bytes)
        except BaseException:
            self.close()
            raise
        whole: Any = (ctypes.c_char * self.size_bytes).from_address(int(self._host))
        self.host: NDArray[Any] = np.frombuffer(whole, dtype, math.prod(shape)).reshape(shape)

    def send(self, stream: Any) -> None:
        """Begin to copy from the host to the GPU."""
        self._copy(self.device, self._host, self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)

    def fetch(self, stream: Any) -> None:
        """Begin to copy from the GPU to the host."""
        self._copy(self._host, self.device, self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream)

    def _copy(self, to: Any, origin: Any, kind: Any, stream: Any) -> None:
        call(self._runtime.cudaMemcpyAsync, to, origin, self.size_bytes, kind, stream)

    def close(self) -> None:
        if self.device:
            call(self._runtime.cudaFree, self.device)
        if self._host:
            call(self._runtime.cudaFreeHost, self._host)
        self.device = self._host = 0
