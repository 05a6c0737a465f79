"""`edgeopt ship`: a bundle to a device, a fleet, or a place that devices fetch from."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgeopt.fleet.inventory import FleetDevice, Inventory
    from edgeopt.fleet.ship import Shipment

#: back to the first column, and nothing behind it
CLEAR = "\r\033[K"


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("to")
@click.option("--activate/--no-activate", default=True, show_default=True, help="Use it there, after its smoke test.")
@click.option("--compress", is_flag=True, help="Send it compressed, to devices whose edgeopt unpacks that.")
@click.option("--batch", type=click.IntRange(1, 100), help="Of a fleet: how many devices side by side.")
@click.option("--max-failures", type=click.IntRange(min=0), help="Of a fleet: how many may fail before it stops.")
@click.option("--host-key", metavar="KEY", help="What `ssh` must show, where neither inventory nor known_hosts tells.")
@click.option("--device-key", metavar="KEY", help="What `edgeopt device init` printed there.")
@click.option("--identity", type=click.Path(path_type=Path), help="The private key to log in with.")
@click.option("--bootstrap", is_flag=True, help="First install edgeopt there, from `--wheels`.")
@click.option("--wheels", type=click.Path(path_type=Path), help="A folder of wheels, as `pip download` makes it.")
@click.option("--root", type=click.Path(path_type=Path), help="With --bootstrap: the trust root of a new home.")
@click.option("--python", default="python3", show_default=True, help="With --bootstrap: the Python there.")
@click.option("--verbose", is_flag=True, expose_value=False, help="Show what a device wrote as it failed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(
    context: click.Context, bundle: Path, to: str, activate: bool, compress: bool, batch: int | None,
    max_failures: int | None, host_key: str | None, device_key: str | None, identity: Path | None, bootstrap: bool,
    wheels: Path | None, root: Path | None, python: str, as_json: bool,
) -> None:  # fmt: skip
    """Bring BUNDLE to a device or a fleet, and use it if it passes its smoke test there.

    TO is a device, as ssh://user@host/app, or ssh://name of one in `fleet.yaml`; a fleet, as `fleet.yaml`, or one
    device of it, as `fleet.yaml#name`; or a place that only keeps it, as folder:///mnt/stick.

    In a fleet the canaries are first, then batch after batch. It stops at the first failure, or as `--max-failures`
    says. Each device's SSH key and own key must be those that the inventory pins.

    \b
    Example:
      edgeopt ship digits.edgeopt ssh://ship@10.0.0.17/digits
      edgeopt ship digits.edgeopt fleet.yaml --max-failures 2
    """
    from edgeopt.errors import UsageError

    pins = {"host_key": host_key, "device_key": device_key, "identity": identity}
    found = _find(to, {name: value for name, value in pins.items() if value is not None})
    sent = context.with_resource(_compressed(bundle)) if compress else bundle
    if found is None:
        _send(sent, to, as_json)
    elif isinstance(found, tuple):
        if bootstrap:
            _bootstrap(*found, wheels, root, python)
        _ship_to_device(sent, found, activate, as_json)
    elif bootstrap:
        raise UsageError("`--bootstrap` is for one device at a time", f"name it: `{to}#name`")
    else:
        rules = {"size": batch, "max_failures": max_failures}
        context.exit(_ship_to_fleet(bundle, sent, found, activate, rules, as_json))


@contextmanager
def _compressed(bundle: Path) -> Iterator[Path]:
    """The bundle's file, compressed, for as long as it is sent; the same bytes each time, so that a cut is gone on."""
    from edgeopt.bundle.pack import compress_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{bundle.name}.xz"
        compress_file(bundle, path)
        yield path


def _find(to: str, pins: dict[str, Any]) -> tuple[str, FleetDevice] | Inventory | None:
    """The one device that TO means, or the fleet; None where it is an address that only keeps files."""
    from pydantic import ValidationError

    from edgeopt.errors import UsageError
    from edgeopt.fleet.inventory import FleetDevice, find_device, load_inventory

    path, _, name = to.partition("#")
    if "://" in to and not to.startswith("ssh://"):
        return None
    if "://" in to:
        name, device = find_device(to)
    elif name:
        device = load_inventory(Path(path)).find(name)
    else:
        return load_inventory(Path(path))
    try:
        return name, FleetDevice.model_validate(device.model_dump() | pins)
    except ValidationError as error:
        wrong = str(error.errors()[0]["loc"][0])
        raise UsageError(f"`--{wrong.replace('_', '-')}` is no key", "as in an inventory") from error


def _send(bundle: Path, to: str, as_json: bool) -> None:
    from edgeopt.transports import open_transport

    with open_transport(to) as transport:
        place = transport.send(bundle)
    click.echo(json.dumps({"place": place}) if as_json else place)


def _bootstrap(name: str, device: FleetDevice, wheels: Path | None, root: Path | None, python: str) -> None:
    from edgeopt.errors import UsageError
    from edgeopt.fleet.bootstrap import bootstrap
    from edgeopt.transports.ssh import Ssh

    if wheels is None:
        raise UsageError("`--bootstrap` installs wheels, and none are named", "give their folder: `--wheels FOLDER`")
    with Ssh(device.url, device.pins()) as transport:
        key = bootstrap(transport, name, wheels, root=root, board=device.board, python=python)
    click.echo(f"{name}: edgeopt is installed; device_key: {key}", err=True)


def _ship_to_device(bundle: Path, found: tuple[str, FleetDevice], activate: bool, as_json: bool) -> None:
    from edgeopt.fleet.ship import ship_to_device

    is_live = sys.stderr.isatty()
    shipment = ship_to_device(bundle, *found, activate=activate, progress=_tell if is_live else None)
    if is_live:
        click.echo(CLEAR, nl=False, err=True)
    click.echo(json.dumps(shipment.model_dump(mode="json"), indent=2) if as_json else _line(shipment))


def _ship_to_fleet(
    bundle: Path, sent: Path, fleet: Inventory, activate: bool, rules: dict[str, Any], as_json: bool
) -> int:  # fmt: skip
    """Send the file `sent`, which holds the bundle; returns the exit code."""
    from edgeopt.fleet.ship import ship_to_fleet

    batches = fleet.batches.model_copy(update={name: value for name, value in rules.items() if value is not None})
    width = max(map(len, fleet.devices))
    report = ship_to_fleet(
        sent, fleet, batches=batches, activate=activate,
        tell=lambda shipment: None if as_json else click.echo(_line(shipment, width)),
    )  # fmt: skip
    if as_json:
        told = report.model_dump(mode="json") | {"bundle": str(bundle), "exit_code": report.exit_code}
        click.echo(json.dumps(told, indent=2))
    else:
        counts = {outcome: report.count(outcome) for outcome in ("active", "installed", "failed", "skipped")}
        click.echo(f"\n{len(fleet.devices)} devices: {', '.join(f'{n} {what}' for what, n in counts.items() if n)}")
    return report.exit_code


def _line(shipment: Shipment, width: int = 0) -> str:
    """One line of a device: what came of it, and what was seen."""
    smoke = shipment.smoke
    seen = smoke and f"{smoke.samples} golden samples within {100 * smoke.difference:.2g} %, p90 {smoke.p90_ms:.3g} ms"
    parts = [shipment.error, seen, shipment.note, shipment.hint and f"({shipment.hint})"]
    told = "; ".join(part for part in parts[:3] if part) + (f" {parts[3]}" if parts[3] else "")
    time = f"{shipment.seconds:6.1f} s  " if shipment.outcome != "skipped" else " " * 10
    return f"{shipment.device:{width}}  {shipment.outcome:9}  {time}{told}".rstrip()


def _tell(done_bytes: int, size_bytes: int) -> None:
    click.echo(f"{CLEAR}  {done_bytes / 1e6:.1f} of {size_bytes / 1e6:.1f} MB", nl=False, err=True)
