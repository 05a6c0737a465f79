"""`edgeopt device install`: take a bundle in."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgeopt.cli.device import home_option, json_option


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@home_option
@json_option
def command(bundle: Path, folder: Path, as_json: bool) -> None:
    """Verify BUNDLE and install it, without using it yet.

    It must be signed by the device's trust root, be made for this board, be of its channel, not have expired, and be no
    older than any that was installed before.

    \b
    Example:
      edgeopt device install digits.edgeopt
    """
    from edgeopt.device.home import Home
    from edgeopt.device.install import install

    found = install(Home(folder), bundle)
    if as_json:
        click.echo(json.dumps(found.model_dump(mode="json"), indent=2))
        return
    known = "" if found.is_new else ", which was installed already"
    click.echo(f"{found.release.name} {found.digest[:12]}: counter {found.release.counter}{known}")
    if found.note:
        click.echo(f"note: {found.note}", err=True)
