"""`edgeopt device measure`: the gate's measurements on the device itself."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgeopt.cli.device import home_option, json_option


@click.command()
@click.argument("job", type=click.Path(path_type=Path))
@home_option
@json_option
def command(job: Path, folder: Path, as_json: bool) -> None:
    """Do the JOB that a host has sent: build, predict or time, and sign what was found.

    `edgeopt compile` sends such jobs to the `device:` of a target, and judges what comes back.

    \b
    Example:
      edgeopt device measure edgeopt-device/incoming/job.json
    """
    from edgeopt.device.home import Home
    from edgeopt.device.job import load_job
    from edgeopt.device.measure import run_job

    answer = run_job(Home(folder), load_job(job))
    click.echo(json.dumps(answer.model_dump(mode="json"), indent=2) if as_json else answer.folder)
