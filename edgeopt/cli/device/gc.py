"""`edgeopt device gc`: remove what is neither used nor to go back to."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgeopt.cli.device import home_option, json_option


@click.command()
@home_option
@json_option
def command(folder: Path, as_json: bool) -> None:
    """Remove releases that are neither used nor to go back to, and unfinished uploads.

    \b
    Example:
      edgeopt device gc
    """
    from edgeopt.device.collect import collect
    from edgeopt.device.home import Home

    found = collect(Home(folder))
    if as_json:
        click.echo(json.dumps(found.model_dump(mode="json"), indent=2))
        return
    click.echo(f"{len(found.releases)} releases, {found.uploads} uploads: {found.freed_bytes / 1e6:.2f} MB freed")
