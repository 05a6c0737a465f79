"""`edgeopt device status`: what runs here, and what else is installed."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgeopt.cli.device import home_option, json_option


@click.command()
@home_option
@json_option
def command(folder: Path, as_json: bool) -> None:
    """Show what runs here, what is installed, and how the board is.

    \b
    Example:
      edgeopt device status
    """
    from edgeopt.device.home import Home
    from edgeopt.device.status import read_status

    found = read_status(Home(folder))
    if as_json:
        click.echo(json.dumps(found.model_dump(mode="json"), indent=2))
        return
    state, health = found.state, found.health
    click.echo(f"{found.app or 'nothing yet'} on {found.board or 'a board without a name'}, channel {found.channel}")
    marks = {state.current: "▸", state.previous: "·"}
    for digest, one in sorted(state.releases.items(), key=lambda item: -item[1].counter):
        bad = f"  bad: {one.bad}" if one.bad else ""
        click.echo(f"{marks.get(digest, ' ')} {digest[:12]}  counter {one.counter}{bad}")
    warmth = "" if health.temperature_c is None else f", {health.temperature_c:.0f} °C"
    click.echo(f"load {health.load:g} per core, {health.free_mb} MB free, power mode {health.power_mode}{warmth}")
