"""`edgeopt backends`: what backends there are, and whether they can be used here."""

from __future__ import annotations

import inspect
import json
from typing import Any

import click

from edgeopt.cli.passes import describe_options


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str | None, as_json: bool) -> None:
    """List the backends, what is missing to use them here, or the options of one.

    \b
    Example:
      edgeopt backends onnxruntime_cpu
    """
    from edgeopt import registry

    if name is not None:
        registry.resolve("backends", name)  # which says what is close, if there is none
    rows = [row for row in list_backends() if name in (None, row["name"])]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        state = "ready" if row["available"] else f"missing: {row['missing']}"
        start = f"{row['name']:20} takes {row['accepts']:6} "
        click.echo(click.wrap_text(f"{state}; {row['about']}", 100, start, " " * len(start)))
    for line in describe_options(registry.resolve("backends", name)) if name else ():
        click.echo(line)


def list_backends() -> list[dict[str, Any]]:
    """Name, form, availability, first line and options of each backend."""
    from edgeopt import registry
    from edgeopt.errors import MissingError

    rows: list[dict[str, Any]] = []
    for name in registry.names("backends"):
        backend = registry.resolve("backends", name)
        try:
            backend().available()
            missing = ""
        except MissingError as error:
            missing = f"{error.message}; {error.hint}" if error.hint else error.message
        about = (inspect.getdoc(backend) or "").splitlines()[0]
        rows.append(
            {"name": name, "accepts": backend.accepts, "available": not missing, "missing": missing, "about": about,
             "options": backend.model_json_schema().get("properties", {})}
        )  # fmt: skip
    return rows
