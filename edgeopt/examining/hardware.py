"""The machine: its instruction sets and what they mean for int8, its GPUs, and what sets their pace."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

from edgeopt import environment

#: instruction set → what it does with 8 bits, the least first
X86 = {
    "avx2": "adds pairs of 8-bit products in 16 bits, where those of 8-bit weights saturate",
    "avx512f": "does the same in registers twice as wide",
    "avx_vnni": "adds four 8-bit products in 32 bits: exact, with weights of all 8 bits",
    "avx512_vnni": "adds four 8-bit products in 32 bits: exact, with weights of all 8 bits",
    "amx_int8": "multiplies whole tiles of 8 bits and adds in 32 bits: exact",
}
ARM = {
    "asimd": "widens 8-bit products before it adds them: exact, in more steps",
    "asimddp": "adds four 8-bit products in 32 bits (dot product): exact, in one step",
    "i8mm": "multiplies small matrices of 8 bits and adds in 32 bits: exact",
    "sve": "has registers as wide as the CPU wants them",
}

#: Jetson's: the command, what it keeps, and what its modes are called
NVPMODEL, STATUS, MODES = "nvpmodel", Path("/var/lib/nvpmodel/status"), Path("/etc/nvpmodel.conf")
NVPMODEL_SECONDS = 2


def describe_isa(isa: Collection[str] | None = None) -> list[dict[str, str | bool]]:
    """Each instruction set that a CPU of this kind may have, whether it has it, and what it does with 8 bits.

    Args:
        isa: what the CPU has of `environment.INTERESTING_ISA`; None: what this one has.
    """
    here = environment.cpu()[1] if isa is None else isa
    known = ARM if environment.is_arm(isa) else X86
    return [{"name": name, "here": name in here, "does": does} for name, does in known.items()]


def list_gpus(seen: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The NVIDIA GPUs as NVML tells of them, or, where it does not, as on many a Jetson, as the CUDA runtime does."""
    unknown = {"driver": "unknown", "power": "unknown"}
    return [dict(gpu) for gpu in environment.gpus()] or [unknown | gpu for gpu in seen]


def describe_power() -> dict[str, str]:
    """The frequency governor of the CPU, and the power mode of a Jetson; `unknown`, or empty, where there is none."""
    return {"governor": environment.power_mode(), "nvpmodel": jetson_mode()}


def jetson_mode() -> str:
    """The power mode of a Jetson, as `nvpmodel` tells or, where only root may ask it, as its files do."""
    told = ""
    if shutil.which(NVPMODEL):
        try:
            asked = subprocess.run(
                [NVPMODEL, "-q"], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=NVPMODEL_SECONDS, check=False,
            )  # fmt: skip
            told = asked.stdout
        except (OSError, subprocess.TimeoutExpired):  # its files are left to be asked
            told = ""
    found = re.search(r"Power Mode\s*:\s*(\S+)", told)
    return found[1] if found else _mode_in_files()


def _mode_in_files() -> str:
    status = re.search(r"pmode\s*:\s*(\d+)", _read(STATUS))
    if status is None:
        return ""
    names = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", _read(MODES))
    number = int(status[1])
    return next((name for one, name in names if int(one) == number), f"mode {number}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf8", errors="replace")
    except OSError:
        return ""
