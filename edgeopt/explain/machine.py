"""What of this machine decides how fast a graph may be: its vectors, its integer products, and the cores allowed."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeopt import environment

OWN_GROUPS = Path("/proc/self/cgroup")
CONTROL_GROUPS = Path("/sys/fs/cgroup")

X86 = ("x86_64", "amd64", "i686")


@dataclass(frozen=True)
class Machine:
    """Attributes: architecture; isa, of `environment.INTERESTING_ISA`; cores that this process may use at once."""

    architecture: str
    isa: tuple[str, ...]
    cores: int

    @property
    def is_x86(self) -> bool:
        return self.architecture.lower() in X86

    @property
    def sums_exactly(self) -> bool:
        """Whether it has an instruction that sums products of int8 in 32 bits."""
        return bool(environment.INTEGER_DOT_PRODUCT.intersection(self.isa))

    @property
    def vector_channels(self) -> int:
        """Channels that ONNX Runtime's blocked layout computes at once: those of one float vector."""
        return 16 if "avx512f" in self.isa else 8


def this_machine() -> Machine:
    """The machine as this process sees it: affinity and quotas of its control groups limit the cores."""
    cores = min([environment.cpu_cores(), *map(int, _quotas())])
    return Machine(platform.machine(), environment.cpu()[1], max(1, cores))


def _quotas() -> Iterator[float]:
    """CPU time per second that the control groups of this process allow it, one for each that has a limit."""
    for line in _read(OWN_GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        top = CONTROL_GROUPS / "cpu" if controllers else CONTROL_GROUPS
        group = top / path.lstrip("/")
        for folder in (each for each in (group, *group.parents) if each.is_relative_to(top)):
            limit = _read(folder / "cpu.max").split()  # version 2; version 1 has two files
            limit = limit or [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
            if all(map(str.isdigit, limit)):  # `max` and -1 mean that there is none
                yield int(limit[0]) / int(limit[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
