"""The energy counters of x86 processors (RAPL), as the powercap interface of Linux shows them; Intel and AMD alike.

Since 2020 the kernel lets only root read them, as they can betray secret keys of other processes (CVE-2020-8694): open
them on machines whose users trust each other.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

from edgeopt.counters import EnergyCounter, Reading, described, read_number
from edgeopt.errors import MissingError

POWERCAP = Path("/sys/class/powercap")


class Rapl(EnergyCounter):
    """The packages of the CPU, summed. Their parts (`core`, `dram`) and the platform (`psys`) are left alone: parts are
    counted already or not on every machine, and few platforms are wired to be counted."""

    covers: ClassVar[frozenset[str]] = frozenset({"cpu"})
    what = "the CPU packages (RAPL): cores, caches and all else on the chip, without the memory modules"

    def __init__(self, root: Path = POWERCAP) -> None:
        self._root = root
        # `intel-rapl-mmio:0` would show a package a second time.
        zones = sorted(root.glob("intel-rapl:*"))
        self._packages = [_Package(zone) for zone in zones if _name(zone).startswith("package")]

    def why(self) -> str:
        if not self._packages:
            return f"`{self._root}` shows no CPU package: no RAPL, or a virtual machine that hides it"
        try:
            for package in self._packages:
                package.read_uj()
        except MissingError as error:
            return described(error)
        return ""

    def read(self) -> Reading:
        return Reading(sum(package.read_uj() for package in self._packages) / 1e6, time.monotonic())


class _Package:
    """One package, counted on where its counter starts anew: after some minutes of full work on a large machine."""

    def __init__(self, zone: Path) -> None:
        self._zone = zone
        self._last_uj: int | None = None
        self._total_uj = 0

    def read_uj(self) -> int:
        """Microjoules since the first reading; right if the counter started anew at most once since the last one."""
        now = read_number(self._zone / "energy_uj")
        gained = 0 if self._last_uj is None else now - self._last_uj
        if gained < 0:
            gained += read_number(self._zone / "max_energy_range_uj")
        self._last_uj = now
        self._total_uj += gained
        return self._total_uj


def _name(zone: Path) -> str:
    try:
        return (zone / "name").read_text(encoding="ascii").strip()
    except (OSError, ValueError):  # a zone that does not tell what it counts counts for nothing
        return ""
