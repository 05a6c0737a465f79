"""`edgeopt backends`: what backends there are, and whether they can be used here."""

from __future__ import annotations

import json

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
    from edgeopt.examining.asking import ask

    if name is not None:
        registry.resolve("backends", name)  # which says what is close, if there is none
    rows, _ = ask(registry.names("backends") if name is None else [name])
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        state = "ready" if row["available"] else f"missing: {row['missing']}"
        start = f"{row['name']:20} takes {row['accepts']:6} "
        click.echo(click.wrap_text(f"{state}; {row['about']}", 100, start, " " * len(start)))
    for line in describe_options(registry.resolve("backends", name)) if name else ():
        click.echo(line)
