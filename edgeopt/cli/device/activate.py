"""`edgeopt device activate`: use a release after its smoke test."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgeopt.cli.device import home_option, json_option


@click.command()
@click.argument("release", required=False)
@home_option
@click.option("--max-ms", type=click.FloatRange(min=0, min_open=True), help="The p90 allowed, not the bundle's own.")
@json_option
def command(release: str | None, folder: Path, max_ms: float | None, as_json: bool) -> None:
    """Use RELEASE, or the newest, if it passes its smoke test.

    The golden samples of the bundle must give what they gave where it was made, all of it finite, and within the
    budget of the target, where that has one in milliseconds. If it fails, what was used stays in use.

    \b
    Example:
      edgeopt device activate
    """
    from edgeopt.device.activate import activate
    from edgeopt.device.home import Home

    found = activate(Home(folder), release, max_ms)
    if as_json:
        click.echo(json.dumps(found.model_dump(mode="json"), indent=2))
        return
    smoke = found.smoke
    if smoke is None:
        click.echo(f"{found.digest[:12]}: counter {found.counter}, in use already")
        return
    seen = f"{smoke.samples} golden samples within {100 * smoke.difference:.2g} %, p90 {smoke.p90_ms:.3g} ms"
    click.echo(f"{found.digest[:12]}: counter {found.counter}, {seen}")
