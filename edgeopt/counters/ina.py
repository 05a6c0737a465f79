"""Power monitors on the board (INA3221, INA219, INA226, INA238), as on NVIDIA Jetson modules: sampled and summed up.

They show power and count nothing, so a thread reads them 20 times a second and integrates. The rails are those that
`tegrastats` prints; see the section on power monitors in the NVIDIA Jetson Linux Developer Guide.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from edgeopt.counters import EnergyCounter, Reading, described, read_number
from edgeopt.errors import MissingError

HWMON = Path("/sys/class/hwmon")

MONITOR = re.compile(r"ina\d+")
PERIOD_SECONDS = 0.05

#: rails that together feed a whole module, the first that are all there: rails lie behind one another, and the sum of
#: all would count some twice. Memory of the AGX Orin (`VDDQ_VDD2_1V8AO`) lies behind `VIN_SYS_5V0`.
WHOLE = (
    ("VDD_IN",),  # Orin NX and Nano, Xavier NX, TX2
    ("POM_5V_IN",),  # Nano
    ("VIN",),  # Thor
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)


@dataclass(frozen=True)
class Rail:
    """One supply that a monitor watches: its name, and the files whose product is its power, and in what part of W."""

    name: str
    files: tuple[Path, ...]

    def watts(self) -> float:
        """The power now: one file of microwatts, or one of millivolts and one of milliamperes."""
        product = 1e-6
        for path in self.files:
            product *= read_number(path)
        return product


class Ina(EnergyCounter):
    """The rails that feed the whole board, where they are known by name, or the only one that is watched."""

    covers: ClassVar[frozenset[str]] = frozenset({"cpu", "gpu"})
    what = "the rails that feed the whole board (INA power monitor), memory and peripherals too"

    def __init__(self, root: Path = HWMON) -> None:
        self._root = root
        self._known = [rail for folder in sorted(root.glob("hwmon*")) for rail in _rails(folder)]
        self._rails = _whole(self._known)
        if self._rails:
            self.what = f"{' + '.join(rail.name for rail in self._rails)}, {Ina.what}"
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._joules = 0.0
        self._last: tuple[float, float] | None = None  # watts, when
        self._failed: MissingError | None = None

    def why(self) -> str:
        if not self._known:
            return f"`{self._root}` shows no INA power monitor"
        if not self._rails:
            named = ", ".join(f"`{rail.name}`" for rail in self._known)
            return f"which of {named} feeds the whole board is not known; name it `VDD_IN` in the device tree"
        try:
            for rail in self._rails:
                rail.watts()
        except MissingError as error:
            return described(error)
        return ""

    def read(self) -> Reading:
        if self._failed is not None:
            raise self._failed
        return self._sample()

    def __enter__(self) -> Ina:
        self._sample()
        self._stop.clear()
        self._thread = threading.Thread(target=self._keep_sampling, name="edgeopt-ina", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _keep_sampling(self) -> None:
        while not self._stop.wait(PERIOD_SECONDS):
            try:
                self._sample()
            except MissingError as error:
                self._failed = error  # `read` tells it: nobody hears what a thread raises
                return

    def _sample(self) -> Reading:
        """Read the power and add what the board took since the last sample, by the trapezoidal rule."""
        with self._lock:
            watts, now = sum(rail.watts() for rail in self._rails), time.monotonic()
            if self._last is not None:
                self._joules += (watts + self._last[0]) / 2 * (now - self._last[1])
            self._last = (watts, now)
            return Reading(self._joules, now)


def _rails(folder: Path) -> Iterator[Rail]:
    """The rails of one device, if it is such a monitor; inputs that are not connected are called `NC`."""
    chip = _text(folder / "name")
    if not MONITOR.fullmatch(chip):
        return
    for number in (1, 2, 3):
        power = folder / f"power{number}_input"
        files = (power,) if power.exists() else (folder / f"in{number}_input", folder / f"curr{number}_input")
        labels = [_text(folder / name) for name in (f"in{number}_label", f"power{number}_label", "label")]
        name = next(filter(None, labels), f"{chip} {folder.name}")
        if name != "NC" and all(path.exists() for path in files):
            yield Rail(name, files)


def _whole(rails: list[Rail]) -> list[Rail]:
    by_name = {rail.name: rail for rail in rails}
    for names in WHOLE:
        if by_name.keys() >= set(names):
            return [by_name[name] for name in names]
    return rails if len(rails) == 1 else []


def _text(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):  # most devices have few of these files
        return path.read_text(encoding="ascii").strip()
    return ""
