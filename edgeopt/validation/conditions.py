"""The conditions under which something is timed: throttling, heat, frequency, and whether a thread was moved.

Every machine lacks some of it, most virtual ones all but quotas and moves. What is absent counts nothing, and a figure
that is absent is not a number.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

OWN_GROUPS = Path("/proc/self/cgroup")
OWN_THREAD = Path("/proc/thread-self")
CONTROL_GROUPS = Path("/sys/fs/cgroup")
CORES = Path("/sys/devices/system/cpu")
ZONES = Path("/sys/class/thermal")

#: kinds of cooling that make a CPU slower: `cpufreq-cpu0`, `thermal-cpufreq-0`, `Processor`
SLOWING = ("cpufreq", "Processor")

#: where the core that a thread is on stands in its `stat`, counted after the name, which may hold spaces
CORE_FIELD = 36


class Slowdowns(NamedTuple):
    """How often the machine has slowed this process down: the kernel held its control groups back for their CPU quota,
    or the CPU went slower for its heat."""

    quota: int
    heat: int

    def until(self, later: Slowdowns) -> Slowdowns:
        """What came on until `later`."""
        return Slowdowns(later.quota - self.quota, later.heat - self.heat)


class SlowedSeconds(NamedTuple):
    """For how long the machine has slowed this process down, by the same two causes, where it keeps that."""

    quota: float
    heat: float

    def until(self, later: SlowedSeconds) -> SlowedSeconds:
        """What came on until `later`."""
        return SlowedSeconds(later.quota - self.quota, later.heat - self.heat)


class Place(NamedTuple):
    """How often a thread has been moved to another core, where the kernel counts that, and the core that it is on."""

    moves: int
    core: int

    def moves_until(self, later: Place) -> int:
        """How often it was moved until `later`; where the kernel does not count, whether it is elsewhere."""
        return max(later.moves - self.moves, int(later.core != self.core))


def slowdowns(cores: Sequence[int]) -> Slowdowns:
    """What was counted up to now for this process and those of `cores`, all that it may use where none is named."""
    return Slowdowns(_times_held_back(), _times_too_hot(cores or usable_cores()))


def seconds_slowed(cores: Sequence[int] = ()) -> SlowedSeconds:
    """What has passed slowed down up to now. Groups lie in one another, and cores share their heat: the most counts."""
    folders = {folder for line in _read(OWN_GROUPS).splitlines() for folder in _folders(line)}
    held = [_seconds_held_back(folder) for folder in folders]
    packages = (CORES / f"cpu{core}" / "thermal_throttle" for core in cores or usable_cores())
    hot = [ms / 1e3 for ms in _figures(path for folder in packages for path in folder.glob("*_total_time_ms"))]
    return SlowedSeconds(max(held, default=0.0), max([*hot, *_seconds_cooled()], default=0.0))


def place() -> Place:
    """Where the calling thread is."""
    counted = (line.partition(":") for line in _read(OWN_THREAD / "sched").splitlines())
    moves = next((int(count) for name, _, count in counted if name.strip() == "se.nr_migrations"), 0)
    fields = _read(OWN_THREAD / "stat").rpartition(")")[2].split()
    return Place(moves, int(fields[CORE_FIELD]) if len(fields) > CORE_FIELD else 0)


def usable_cores() -> tuple[int, ...]:
    """The cores that this process may use; none where the system does not tell."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def strength(core: int) -> int:
    """What the kernel knows of a core's speed, to tell the large ones from the small; 0 where it knows nothing."""
    paths = [CORES / f"cpu{core}" / name for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq")]
    return int(next(_figures(paths), 0))


def frequency_mhz(cores: Sequence[int]) -> float:
    """The frequency of the fastest of `cores`, of all that may be used where none is named: idle ones are slow."""
    paths = (CORES / f"cpu{core}" / "cpufreq/scaling_cur_freq" for core in cores or usable_cores())
    return max(_figures(paths), default=math.nan) / 1e3


def hottest_c() -> float:
    """The temperature of the machine's hottest zone, in degrees Celsius."""
    return max(_figures(sorted(ZONES.glob("thermal_zone*/temp"))), default=math.nan) / 1e3


def _times_too_hot(cores: Iterable[int]) -> int:
    """Of one core the counter of its whole package is among these, where there is one."""
    folders = (CORES / f"cpu{core}" / "thermal_throttle" for core in cores)
    return int(sum(_figures(path for folder in folders for path in sorted(folder.glob("*_throttle_count")))))


def _times_held_back() -> int:
    folders = {folder for line in _read(OWN_GROUPS).splitlines() for folder in _folders(line)}
    held = 0
    for folder in folders:
        held += int(_pairs(folder / "cpu.stat").get("nr_throttled", 0))
    return held


def _seconds_held_back(group: Path) -> float:
    """Version 2 of control groups says it in microseconds, version 1 in nanoseconds."""
    found = _pairs(group / "cpu.stat")
    return int(found.get("throttled_usec", 0)) / 1e6 + int(found.get("throttled_time", 0)) / 1e9


def _seconds_cooled() -> Iterator[float]:
    """By means of cooling that slow a CPU down: for how long they were in any state but `state0`, which is off."""
    for folder in sorted(ZONES.glob("cooling_device*")):
        if any(kind in _read(folder / "type") for kind in SLOWING):
            states = _pairs(folder / "stats/time_in_state_ms")
            yield sum(int(ms) for state, ms in states.items() if state != "state0") / 1e3


def _pairs(path: Path) -> dict[str, str]:
    """The lines `name value` of a file."""
    words = _read(path).split()
    return dict(zip(words[::2], words[1::2], strict=False))


def _folders(line: str) -> list[Path]:
    """The folders of one line `number:controllers:path`, if it limits the CPU: the group and all that it lies in,
    since a quota holds for everything below it. Version 2 of control groups names no controllers."""
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
        return []
    top = CONTROL_GROUPS / "cpu" if controllers else CONTROL_GROUPS
    group = top / path.lstrip("/")
    return [folder for folder in (group, *group.parents) if folder.is_relative_to(top)]


def _figures(paths: Iterable[Path]) -> Iterator[float]:
    """The numbers in those of the files that can be read: a sensor may be asleep, and then it gives none."""
    for path in paths:
        text = _read(path).strip()
        if text.removeprefix("-").isdigit():
            yield float(text)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
