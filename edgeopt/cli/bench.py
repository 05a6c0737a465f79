"""`edgeopt bench`: two artifacts side by side."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@click.option("--backend", default="onnxruntime_cpu", show_default=True, help="What ONNX files are run by.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--sets", type=click.IntRange(6, 200), default=10, show_default=True, help="Fresh sets of processes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(first: Path, second: Path, backend: str, threads: int, batch: int, sets: int, as_json: bool) -> None:
    """Time A and B side by side.

    They run in turns, in fresh processes. A and B are ONNX files or bundles.

    \b
    Example:
      edgeopt bench float.onnx build/digits/x86/digits.edgeopt
    """
    from edgeopt.bench import compare_files

    found = compare_files(first, second, backend=backend, threads=threads, batch=batch, sets=sets)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for side in ("a", "b"):
        row = found[side]
        p50, p90 = (_figure(row[key], 9) for key in ("p50_ms", "p90_ms"))
        click.echo(f"{side.upper()}  {p50} ms p50  {p90} ms p90  {row['path']}")
    ratio, low, high = (found["ratio"][key] for key in ("value", "low", "high"))
    sure = f" [{low:.3f}, {high:.3f}] at 95 % confidence" if low is not None else ""
    click.echo(f"B ÷ A = {_figure(ratio)}{sure}: {found['sentence']}")
    if found["note"]:
        click.echo(found["note"])


def _figure(value: float | None, width: int = 0) -> str:
    return "-".rjust(width) if value is None else f"{value:{width}.3f}"
