"""Ship a bundle: to one device, or to a fleet, where it spreads only as long as it works.

On a device: see that it is the right one, bring the bundle, install it, activate it; what is done already is not done
again. In a fleet: the canaries first, and the first device where none is marked; then batch after batch, the devices of
one side by side. A canary that fails ends it, and so do more failures than are allowed; the devices left are skipped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from edgeopt.bundle.manifest import Manifest
from edgeopt.bundle.verify import verify_bundle
from edgeopt.device.smoke import SmokeResult
from edgeopt.errors import DeviceError, EdgeoptError
from edgeopt.fleet.inventory import Batches, FleetDevice, Inventory
from edgeopt.fleet.reach import ask_status
from edgeopt.model import Value
from edgeopt.transports import DeviceTransport, Progress, device_transport, shipped_name

#: a smoke test may take two minutes in each of its two processes, and wait for whoever measures there
ACTIVATE_SECONDS = 600.0

#: of failures of several kinds: a device or a transfer failed
MIXED = DeviceError.exit_code


class Shipment(Value):
    """What came of one device. `smoke` is what its smoke test saw, where it had one now; `error` says what failed."""

    device: str
    outcome: Literal["active", "installed", "failed", "skipped"]
    note: str = ""
    smoke: SmokeResult | None = None
    seconds: float = 0.0
    error: str = ""
    hint: str = ""
    exit_code: int = 0


class ShipReport(Value):
    """What came of a fleet, in the order in which it was shipped to."""

    bundle: str
    digest: str
    shipments: tuple[Shipment, ...]

    def count(self, outcome: str) -> int:
        return sum(shipment.outcome == outcome for shipment in self.shipments)

    @property
    def exit_code(self) -> int:
        """0, or what the failures have in common."""
        codes = {shipment.exit_code for shipment in self.shipments if shipment.outcome == "failed"}
        return 0 if not codes else codes.pop() if len(codes) == 1 else MIXED


def ship_to_device(
    bundle: Path, name: str, device: FleetDevice, *, activate: bool = True, progress: Progress | None = None
) -> Shipment:  # fmt: skip
    """Ship to one device.

    Raises:
        EdgeoptError: the bundle is not signed or not sound, the device is not the one that is pinned, cannot be
            reached, or refuses it.
    """
    shipped_name(bundle)  # before anything is asked of anybody
    manifest, begun = verify_bundle(bundle).manifest, time.monotonic()
    with device_transport(device.url, device.pins()) as transport:
        status = ask_status(transport, name)
        if device.board is not None and status.board != device.board:
            what = f"`{name}` is the board `{status.board or 'without a name'}`, and `{device.board}` in the inventory"
            raise DeviceError(what, "mend the one that is wrong: `device.json` there, or the inventory")
        if status.state.current == manifest.digest():
            return Shipment(device=name, outcome="active", note="in use already", seconds=_since(begun))
        shipment = _bring(transport, bundle, manifest, activate, progress)
    return shipment.model_copy(update={"device": name, "seconds": _since(begun)})


def _bring(
    transport: DeviceTransport, bundle: Path, manifest: Manifest, activate: bool, progress: Progress | None
) -> Shipment:  # fmt: skip
    path = transport.send(bundle, progress)
    installed = transport.run("install", path)
    transport.discard(path)
    note = str(installed.get("note", ""))
    if not activate:
        return Shipment(device="", outcome="installed", note=note)
    found = transport.run("activate", manifest.digest(), seconds=ACTIVATE_SECONDS)
    smoke = found.get("smoke")
    return Shipment(device="", outcome="active", note=note, smoke=smoke and SmokeResult.model_validate(smoke))


def ship_to_fleet(
    bundle: Path, inventory: Inventory, *, batches: Batches | None = None, activate: bool = True,
    tell: Callable[[Shipment], object] = lambda shipment: None,
) -> ShipReport:  # fmt: skip
    """Ship to all devices of an inventory; a device that fails is in the report, with its error.

    Args:
        batches: in place of the inventory's.
        tell: hears of each device once it is done.

    Raises:
        EdgeoptError: the bundle is not signed or not sound: no device was asked.
    """
    shipped_name(bundle)
    manifest, rules = verify_bundle(bundle).manifest, batches or inventory.batches
    shipments: list[Shipment] = []

    def ship(item: tuple[str, FleetDevice]) -> Shipment:
        begun = time.monotonic()
        try:
            return ship_to_device(bundle, *item, activate=activate)
        except EdgeoptError as error:
            return Shipment(
                device=item[0], outcome="failed", seconds=_since(begun), error=error.message, hint=error.hint,
                exit_code=error.exit_code,
            )  # fmt: skip

    is_over = False
    for is_canary, wave in _waves(inventory, rules.size):
        if is_over:
            made: Sequence[Shipment] = [Shipment(device=name, outcome="skipped") for name, _ in wave]
        else:
            with ThreadPoolExecutor(len(wave)) as pool:
                made = list(pool.map(ship, wave))
        for shipment in made:
            tell(shipment)
        shipments += made
        failures = sum(shipment.outcome == "failed" for shipment in shipments)
        is_over = failures > (0 if is_canary else rules.max_failures)
    return ShipReport(bundle=str(bundle), digest=manifest.digest(), shipments=tuple(shipments))


def _waves(inventory: Inventory, size: int) -> Iterator[tuple[bool, list[tuple[str, FleetDevice]]]]:
    """The devices that are shipped to side by side, one such group after the other, and whether they are canaries."""
    devices = list(inventory.devices.items())
    canaries = [item for item in devices if item[1].canary] or devices[:1]
    for group in (canaries, [item for item in devices if item not in canaries]):
        for start in range(0, len(group), size):
            yield group is canaries, group[start : start + size]


def _since(begun: float) -> float:
    return round(time.monotonic() - begun, 1)
