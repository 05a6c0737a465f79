"""Whether who answers is the device that it should be, speaks as this host does, and is fit to be measured on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from edgeopt.device.status import PROTOCOL, Health, Status
from edgeopt.errors import DeviceError, TrustError
from edgeopt.transports import DeviceTransport

#: where a board begins to slow down, or another job takes time from what is measured
HOTTEST_C, BUSIEST_LOAD, LEAST_FREE_MB = 85.0, 0.5, 200
#: governors that hold the clock down
SLOW_MODES = ("powersave", "conservative")


def ask_status(device: DeviceTransport, name: str) -> Status:
    """What a device says of itself, once it is known to be the one that is pinned.

    Raises:
        DeviceError: it speaks another protocol; says which side to update.
        TrustError: it has another key than is pinned.
    """
    said: Any = device.run("status")
    check_protocol(name, said.get("protocol") if isinstance(said, dict) else None)
    try:  # a newer edgeopt of the same protocol may say more
        status = Status.model_validate({key: value for key, value in said.items() if key in Status.model_fields})
    except ValidationError as error:
        raise DeviceError(f"the status of `{name}` cannot be read", f"update edgeopt on `{name}`") from error
    pinned = device.pins.device_key
    if pinned is not None and status.key != pinned:
        what = f"`{name}` has the key {status.key[:12]}…, and {pinned[:12]}… is pinned"
        raise TrustError(what, "if it was set up anew, pin what `edgeopt device status --json` shows there")
    return status


def check_protocol(name: str, found: object) -> None:
    """See that a device speaks as this host does.

    Raises:
        DeviceError: it does not; says which side to update.
    """
    if found != PROTOCOL:
        newer = isinstance(found, int) and found > PROTOCOL
        what = f"`{name}` speaks protocol {found}, and this host {PROTOCOL}"
        raise DeviceError(what, f"update edgeopt on {'this host' if newer else f'`{name}`'}")


def find_unfit(health: Health) -> Iterator[str]:
    """Why figures that are taken on a board now would not be those of a quiet, cool one; a few words each."""
    if health.temperature_c is not None and health.temperature_c > HOTTEST_C:
        yield f"it is at {health.temperature_c:.0f} °C, at most {HOTTEST_C:.0f} °C are fit to measure at"
    if health.load > BUSIEST_LOAD:
        yield f"something else runs on it: load {health.load:g} per core, at most {BUSIEST_LOAD:g} is fit to measure at"
    if health.power_mode.split(",")[0] in SLOW_MODES:
        yield f"its power mode is `{health.power_mode}`, which holds its clock down"
    if health.free_mb < LEAST_FREE_MB:
        yield f"{health.free_mb} MB are free on its disk, at least {LEAST_FREE_MB} MB should be"
