"""`edgeopt device build`: build what only the device itself can build."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

#: back to the first column, and nothing behind it
CLEAR = "\r\033[K"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Where the engine goes: a new folder.")
@click.option("--time-limit", type=click.FloatRange(min=1), default=7200, show_default=True, help="Seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(folder: Path, out: Path, time_limit: float, as_json: bool) -> None:
    """Build the engine that `compile` planned in FOLDER.

    FOLDER is `<target>/<candidate>/build` of what `compile` left where it had no GPU. The engine is compared with what
    ONNX Runtime gave there, and its layers are inspected. It is another artifact than any that was judged before.

    \b
    Example:
      edgeopt device build orin/tensorrt/int8/build --out engine
    """
    from edgeopt.device.build import build_planned
    from edgeopt.workers import Limits, ignore_progress

    is_live = sys.stderr.isatty()
    artifact = build_planned(folder, out, Limits(seconds=time_limit), _tell if is_live else ignore_progress)
    if is_live:
        click.echo(CLEAR, nl=False, err=True)
    if as_json:
        found = artifact.model_dump(mode="json", include={"backend", "target", "files", "requires", "facts"})
        click.echo(json.dumps({"path": str(out), **found}, indent=2))
        return
    click.echo(f"{out}: {artifact.backend}, {artifact.size_bytes / 1e6:.2f} MB")
    for name, value in {**artifact.requires, **artifact.facts}.items():
        click.echo(f"  {name:20} {value}")


def _tell(text: str, fraction: float | None) -> None:
    """The one line of a terminal that tells how far it is."""
    share = "" if fraction is None else f" {fraction:.0%}"
    click.echo(f"{CLEAR}  {text}{share}", nl=False, err=True)
