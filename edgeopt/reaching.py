"""Open the way to the devices that targets are built and measured on, for as long as a run takes."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

from edgeopt.fleet.inventory import find_device
from edgeopt.recipe import Recipe
from edgeopt.remote import RemoteDevice
from edgeopt.transports import device_transport


@contextlib.contextmanager
def reach_devices(recipe: Recipe, targets: Collection[str] = ()) -> Iterator[dict[str, RemoteDevice]]:
    """The device of each target that has one, by the target's name; of all targets, or of the named ones.

    Raises:
        UsageError: a device is not in the inventory, or its key is not pinned there.
        DeviceError: it cannot be reached, or speaks another protocol.
        TrustError: it has another key than is pinned.
    """
    with contextlib.ExitStack() as stack:
        found, known = dict[str, RemoteDevice](), dict[str, RemoteDevice]()
        for target in recipe.targets:
            if target.device is not None and (not targets or target.name in targets):
                if target.device not in known:
                    name, device = find_device(target.device, recipe.inventory)
                    transport = stack.enter_context(device_transport(device.url, device.pins()))
                    known[target.device] = RemoteDevice(name, transport)
                found[target.name] = known[target.device]
        yield found


def machines_of(devices: dict[str, RemoteDevice]) -> dict[str, dict[str, object]]:
    """The fingerprint of each target's device, as a plan takes it."""
    return {target: device.environment for target, device in devices.items()}
