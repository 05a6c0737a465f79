"""The energy counters of NVIDIA GPUs of the Volta generation and later, by way of the driver's management library."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, ClassVar

from edgeopt.counters import EnergyCounter, Reading, described
from edgeopt.errors import MissingError

#: the driver brings the counter up to date 10 to 50 times a second; one that rests for longer is taken as it is
TICK_SECONDS = 0.15


class Nvml(EnergyCounter):
    """All GPUs, summed: those that idle are subtracted with the rest of what idles."""

    covers: ClassVar[frozenset[str]] = frozenset({"gpu"})
    what = "the boards of the NVIDIA GPUs (NVML): chip, memory and regulators, without the machine around them"

    def __init__(self) -> None:
        self._library: Any = None
        self._devices: list[Any] = []

    def why(self) -> str:
        try:
            with self:
                self._millijoules()
        except MissingError as error:
            return described(error)
        return ""

    def read(self) -> Reading:
        """The state of the counter just after it moved, so that no window gains or loses a part of a step."""
        before, deadline = self._millijoules(), time.monotonic() + TICK_SECONDS
        while (now := self._millijoules()) == before and time.monotonic() < deadline:
            time.sleep(0.001)
        return Reading(now / 1e3, time.monotonic())

    def __enter__(self) -> Nvml:
        try:
            self._library = importlib.import_module("pynvml")
        except ModuleNotFoundError as error:
            raise MissingError("`pynvml` is not installed", "pip install nvidia-ml-py") from error
        with self._errors_named():
            self._library.nvmlInit()
            count = self._library.nvmlDeviceGetCount()
            self._devices = [self._library.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        if not self._devices:
            raise MissingError("the NVIDIA driver shows no GPU")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._errors_named():
            self._library.nvmlShutdown()

    def _millijoules(self) -> int:
        with self._errors_named():
            return sum(self._library.nvmlDeviceGetTotalEnergyConsumption(device) for device in self._devices)

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except self._library.NVMLError as error:
            raise MissingError(f"the NVIDIA driver counts no energy here: {error}") from error
