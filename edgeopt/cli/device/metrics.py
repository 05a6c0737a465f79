"""`edgeopt device metrics`: what a process that answers has counted."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgeopt.cli.device import home_option, json_option


@click.command()
@home_option
@json_option
def command(folder: Path, as_json: bool) -> None:
    """Print the metrics as they were kept last, and the rollbacks as they are.

    `edgeopt device serve` keeps them once a minute; at its `/metrics` they are of now.

    \b
    Example:
      edgeopt device metrics
    """
    from edgeopt.device.home import Home
    from edgeopt.device.recording import last_metrics

    found = last_metrics(Home(folder))
    click.echo(json.dumps(found.model_dump(mode="json"), indent=2) if as_json else found.text, nl=as_json)
