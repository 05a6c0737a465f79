"""`edgeopt device status`: what runs here, and what else is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeopt.cli.device import home_option, json_option

if TYPE_CHECKING:
    from edgeopt.device.state import State


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
    name, board = found.app or "no application yet", found.board or "a board without a name"
    click.echo(
        f"{name} on {board}, channel {found.channel}, counter {state.counter}, root version {found.root_version}"
    )
    for digest, one in sorted(state.releases.items(), key=lambda item: -item[1].counter):
        mark, said = _describe(state, digest)
        click.echo(f"{mark} {digest[:12]}  counter {one.counter}{said}")
    warmth = "" if health.temperature_c is None else f", {health.temperature_c:.0f} °C"
    click.echo(f"load {health.load:g} per core, {health.free_mb} MB free, power mode {health.power_mode}{warmth}")


def _describe(state: State, digest: str) -> tuple[str, str]:
    """A release's mark, and what is to be said of it."""
    if digest == state.current:
        return "▸", f"  in use, {state.starts} starts without an answer" if state.starts else "  in use"
    if digest == state.previous:
        return "·", "  the one before"
    bad = state.releases[digest].bad
    return " ", f"  bad: {bad}" if bad else ""
