"""`edgeopt device spool`: metrics that a device without a network has kept."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from edgeopt.cli.device import home_option, json_option


@click.command()
@click.option("--forget", "number", type=click.IntRange(min=0), help="Remove all up to this number: a host has them.")
@home_option
@json_option
def command(number: int | None, folder: Path, as_json: bool) -> None:
    """Show the metrics that were kept for a host, or forget those that it has.

    A host stores what `--json` prints, gives it to `edgeopt fleet check`, and then has the device forget it.

    \b
    Example:
      edgeopt device spool --json > digits-7.json
      edgeopt device spool --forget 41
    """
    from edgeopt.device.home import Home
    from edgeopt.device.spool import Spool

    spool = Spool(Home(folder))
    if number is not None:
        gone = spool.forget(number)
        click.echo(json.dumps({"removed": gone}) if as_json else f"{gone} snapshots removed")
        return
    found = spool.read()
    if as_json:
        click.echo(json.dumps(found.model_dump(mode="json"), indent=2))
        return
    for one in found.snapshots:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.at))
        click.echo(f"{one.number:6}  {when}  {len(one.text)} bytes")
    click.echo(f"{len(found.snapshots)} snapshots; {found.dropped} dropped for the limit, {found.damaged} damaged")
