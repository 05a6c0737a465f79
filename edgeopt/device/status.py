"""What a device says of itself: what runs, what is installed, and how the board is."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Final

from edgeopt import environment
from edgeopt.device.home import Home, device_key
from edgeopt.device.state import State
from edgeopt.model import Value
from edgeopt.validation import conditions

#: of what a host and a device say to one another; a new one where one side would misunderstand the other
PROTOCOL: Final = 1


class Health(Value):
    """How the board is, as far as it tells: degrees, load of one minute per core, the governor of its clock."""

    power_mode: str
    temperature_c: float | None
    load: float
    free_mb: int


class Status(Value):
    """What a device says of itself."""

    protocol: int = PROTOCOL
    edgeopt: str
    key: str
    board: str | None
    channel: str
    app: str | None
    root_version: int
    state: State
    health: Health
    environment: dict[str, Any]


def read_status(home: Home) -> Status:
    """What this device says of itself now.

    Raises:
        TrustError: its state cannot be read.
    """
    device, state = home.device(), home.state()
    return Status(
        edgeopt=environment.library_version("edgeopt") or environment.UNKNOWN, key=device_key(home.folder),
        board=device.board, channel=device.channel, app=device.app or state.app, root_version=home.root().version,
        state=state, health=read_health(home.folder), environment=environment.fingerprint(),
    )  # fmt: skip


def read_health(folder: Path) -> Health:
    """How the board is now; `free_mb` is of the disk that `folder` lies on."""
    disk = os.statvfs(folder)
    return Health(
        power_mode=environment.power_mode(), temperature_c=_hottest(),
        load=round(os.getloadavg()[0] / environment.cpu_cores(), 2),
        free_mb=disk.f_bavail * disk.f_frsize // 1_000_000,
    )  # fmt: skip


def _hottest() -> float | None:
    """The warmest of the board's sensors; None where it has none."""
    found = conditions.hottest_c()
    return None if math.isnan(found) else found
