"""`edgeopt explain`: why a candidate is not faster, and why it is less accurate."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("report", type=click.Path(path_type=Path))
@click.option("--candidate", metavar="ID", help="Only this one, as `onnxruntime_cpu/int8`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(report: Path, candidate: str | None, as_json: bool) -> None:
    """Say why a candidate is not faster or less accurate.

    REPORT is a report.json, or the folder that holds it. The built networks are run here, once more, with the
    runtime's own profile, and layer by layer beside the float network. Each cause comes with what was measured of it,
    and with the edit of the recipe that would help.

    \b
    Example:
      edgeopt explain build/digits/report.json
    """
    from edgeopt.explain.candidates import explain_report
    from edgeopt.explain.text import show_explanations
    from edgeopt.report.json import load_report

    loaded = load_report(report)
    folder = report if report.is_dir() else report.parent
    explained = explain_report(loaded, folder, candidate, say=lambda text: click.echo(text, err=True))
    if as_json:
        told = [one.model_dump(mode="json") for one in explained]
        click.echo(json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        click.echo(show_explanations(explained, loaded), nl=False)
