"""`edgeopt device rollback`: use the release before again."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgeopt.cli.device import home_option, json_option


@click.command()
@home_option
@click.option("--reason", default="", help="What is wrong with it: it is then not activated unless it is named.")
@json_option
def command(folder: Path, reason: str, as_json: bool) -> None:
    """Use the release before again.

    \b
    Example:
      edgeopt device rollback --reason "wrong labels"
    """
    from edgeopt.device.activate import roll_back
    from edgeopt.device.home import Home

    digest = roll_back(Home(folder), reason)
    click.echo(json.dumps({"digest": digest}) if as_json else f"{digest[:12]}: in use again")
