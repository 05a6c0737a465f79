"""`edgeopt backends`: what backends there are, and whether they can be used here."""

from __future__ import annotations

import inspect
import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List the backends, and what is missing to use them here.

    \b
    Example:
      edgeopt backends
    """
    rows = list_backends()
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        state = "ready" if row["available"] else f"missing: {row['missing']}"
        start = f"{row['name']:18} takes {row['accepts']:6} "
        click.echo(click.wrap_text(f"{state}; {row['about']}", 100, start, " " * len(start)))


def list_backends() -> list[dict[str, str | bool]]:
    """Name, form, availability and first line of each backend."""
    from edgeopt import registry
    from edgeopt.errors import MissingError

    rows: list[dict[str, str | bool]] = []
    for name in registry.names("backends"):
        backend = registry.resolve("backends", name)
        try:
            backend().available()
            missing = ""
        except MissingError as error:
            missing = f"{error.message}; {error.hint}" if error.hint else error.message
        about = (inspect.getdoc(backend) or "").splitlines()[0]
        rows.append(
            {"name": name, "accepts": backend.accepts, "available": not missing, "missing": missing, "about": about}
        )
    return rows
