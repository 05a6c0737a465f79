"""`edgeopt device`: what runs on the device. Needs neither torch nor onnx."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def command() -> None:
    """Build what only the device itself can build.

    \b
    Example:
      edgeopt device build orin/tensorrt/int8/build --out engine
    """


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Where the engine goes: a new folder.")
@click.option("--time-limit", type=click.FloatRange(min=1), default=7200, show_default=True, help="Seconds.")
def build(folder: Path, out: Path, time_limit: float) -> None:
    """Build the engine that `compile` planned in FOLDER.

    FOLDER is `<target>/<candidate>/build` of what `compile` left where it had no GPU. The engine is compared with what
    ONNX Runtime gave there, and its layers are inspected. It is another artifact than any that was judged before.

    \b
    Example:
      edgeopt device build orin/tensorrt/int8/build --out engine
    """
    from edgeopt.device.build import build_planned
    from edgeopt.workers import Limits

    artifact = build_planned(folder, out, Limits(seconds=time_limit))
    click.echo(f"{out}: {artifact.backend}, {artifact.size_bytes / 1e6:.2f} MB")
    for name, value in {**artifact.requires, **artifact.facts}.items():
        click.echo(f"  {name:20} {value}")
