"""`edgeopt device pull`: fetch a bundle from a registry."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from edgeopt.cli.device import home_option, json_option
from edgeopt.cli.ship import CLEAR


@click.command()
@click.argument("reference")
@home_option
@click.option("--install", "and_install", is_flag=True, help="Install it, unless it is installed, and keep no copy.")
@json_option
def command(reference: str, folder: Path, and_install: bool, as_json: bool) -> None:
    """Fetch the bundle that REFERENCE names in a registry, and print where it lies.

    REFERENCE is registry://host/repository, with :tag or @sha256:… behind it if it is not to be the newest of the
    device's channel. A fetch that was cut off goes on where it was.

    \b
    Example:
      edgeopt device pull registry://registry.example.com/team/digits --install
    """
    from edgeopt.device.home import Home
    from edgeopt.device.pull import pull

    is_live = sys.stderr.isatty()
    found = pull(Home(folder), reference, _tell if is_live else None, and_install=and_install)
    if is_live:
        click.echo(CLEAR, nl=False, err=True)
    if as_json:
        click.echo(json.dumps(found.model_dump(mode="json"), indent=2))
        return
    if found.installation is None:
        click.echo(found.path or "the newest is installed already")
        return
    made = found.installation
    click.echo(f"{made.release.name} {made.digest[:12]}: counter {made.release.counter}")
    if made.note:
        click.echo(f"note: {made.note}", err=True)


def _tell(have_bytes: int, size_bytes: int) -> None:
    click.echo(f"{CLEAR}  {have_bytes / 1e6:.1f} of {size_bytes / 1e6:.1f} MB", nl=False, err=True)
