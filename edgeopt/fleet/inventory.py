"""The inventory: one YAML file that names devices, and pins the keys by which each is known.

    edgeopt_fleet: 1
    devices:
      orin-7:
        url: ssh://ship@10.0.0.17/digits
        host_key: ssh-ed25519 AAAA…            # else `~/.ssh/known_hosts`
        device_key: 3f7a…                      # what `edgeopt device init` printed there
        identity: keys/ship                    # else the agent; relative to this file
        edgeopt: /opt/edgeopt/bin/edgeopt      # else on its PATH
        board: orin-nano
        canary: true
    batches: {size: 10, max_failures: 0}

It is read as strictly as a recipe: every fault at once, with line and column.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from edgeopt.errors import RecipeError, UsageError, did_you_mean
from edgeopt.model import Value
from edgeopt.recipe.describe import describe_errors
from edgeopt.recipe.document import MAX_BYTES, Document, parse
from edgeopt.transports import Pins

#: where a name is looked up when no file is named
INVENTORY_FILE = "fleet.yaml"

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
HOST_KEY = r"^(ssh|ecdsa|sk-ssh|sk-ecdsa)-[A-Za-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}$"

_HINT = "an inventory is a YAML file that begins with `edgeopt_fleet: 1`"


class FleetDevice(Value):
    """One device: where it is, and how it is known."""

    url: str = Field(description="its home, such as ssh://user@host/app")
    host_key: str | None = Field(
        default=None, pattern=HOST_KEY, description="`ssh-ed25519 AAAA…`, without a host's name"
    )
    device_key: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="64 hexadecimal digits: `edgeopt device init` prints them"
    )
    identity: Path | None = None
    edgeopt: str | None = None
    board: str | None = None
    canary: bool = False

    def pins(self) -> Pins:
        return Pins(
            host_key=self.host_key, device_key=self.device_key, identity=self.identity, edgeopt=self.edgeopt
        )  # fmt: skip


class Batches(Value):
    """How a release spreads: so many devices side by side, and how many may fail before it stops."""

    size: int = Field(default=10, ge=1, le=100)
    max_failures: int = Field(default=0, ge=0)


class Inventory(Value):
    """The devices of a fleet by name."""

    edgeopt_fleet: Literal[1] = 1
    devices: dict[str, FleetDevice]
    batches: Batches = Batches()

    def find(self, name: str) -> FleetDevice:
        """The device of that name.

        Raises:
            UsageError: there is none; names the closest one.
        """
        if name not in self.devices:
            raise UsageError(f"the inventory has no device `{name}`", did_you_mean(name, self.devices))
        return self.devices[name]


def load_inventory(path: Path) -> Inventory:
    """Read an inventory.

    Raises:
        UsageError: there is no such file.
        RecipeError: it is not sound; the message has a line for each fault.
    """
    document = parse(_read(path))
    inventory = _validate(document)
    if document.faults or inventory is None:
        faults = sorted(document.faults, key=lambda fault: fault.order)
        raise RecipeError("\n".join(dict.fromkeys(f"{path}:{fault}" for fault in faults)), _HINT)
    devices = {
        name: device.model_copy(update={"identity": _place(path, device.identity)})
        for name, device in inventory.devices.items()
    }
    return inventory.model_copy(update={"devices": devices})


def find_device(address: str, inventory: Path | None = None) -> tuple[str, FleetDevice]:
    """What an address of a device means: its name and what is known of it.

    Args:
        address: `ssh://name` of a device in the inventory, or `ssh://user@host/app` as it stands, with nothing pinned.
        inventory: the file; None: `fleet.yaml` in the current folder.

    Raises:
        UsageError: there is no inventory to look the name up in, or it has no such device.
    """
    parts = urlsplit(address)
    if parts.path.strip("/") or parts.scheme != "ssh":
        return parts.netloc.rpartition("@")[2] or address, FleetDevice(url=address)
    path = inventory or Path(INVENTORY_FILE)
    if not path.is_file():
        hint = f"write ssh://user@host/app, or name an inventory: there is no `{path}` to look it up in"
        raise UsageError(f"`{address}` is only the name of a device", hint)
    return parts.netloc, load_inventory(path).find(parts.netloc)


def _validate(document: Document) -> Inventory | None:
    if not isinstance(document.data, dict):
        if not document.faults:
            document.fault((), _HINT)
        return None
    if "edgeopt_fleet" not in document.data:
        document.fault((), "missing key `edgeopt_fleet`", "begin with `edgeopt_fleet: 1`")
    try:  # not as canonical JSON: the order of the devices counts
        inventory = Inventory.model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        describe_errors(document, error, (), Inventory)
        return None
    _check_devices(document, inventory)
    return inventory


def _check_devices(document: Document, inventory: Inventory) -> None:
    if not inventory.devices:
        document.fault(("devices",), "no device is named")
    homes: dict[str, str] = {}
    for name, device in inventory.devices.items():
        if not re.match(NAME, name):
            document.fault(("devices", name), f"`{name}` is no name", "letters, digits, `.`, `_`, `-`", at_key=True)
        place = ("devices", name, "url")
        parts = urlsplit(device.url)
        if parts.scheme != "ssh" or not parts.hostname or not parts.path.strip("/"):
            document.fault(place, f"`{device.url}` is no home of a device", "write it as ssh://user@host/app")
        elif (other := homes.setdefault(device.url, name)) != name:
            document.fault(place, f"`{other}` is at `{device.url}`, too")


def _place(path: Path, identity: Path | None) -> Path | None:
    return None if identity is None else path.parent / identity.expanduser()


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the inventory `{path}`: {(error.strerror or '').lower()}", _HINT) from error
    try:
        return data.decode("utf8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}:1:1: not UTF-8 text: {error.reason} at byte {error.start}", _HINT) from error
