"""`edgeopt passes`: what passes there are, and their options."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any

import click


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str | None, as_json: bool) -> None:
    """List the passes, or the options of one.

    \b
    Example:
      edgeopt passes prune_channels
    """
    from edgeopt import registry

    found = {each: registry.resolve("passes", each) for each in ([name] if name else registry.names("passes"))}
    if as_json:
        click.echo(json.dumps({each: cls.model_json_schema() for each, cls in found.items()}, indent=2))
        return
    for each, cls in found.items():
        about = (inspect.getdoc(cls) or "").splitlines()[0]
        start = f"{each:15} {f'{cls.accepts} → {cls.produces}':15} "
        click.echo(click.wrap_text(about, 100, start, " " * len(start)))
    for line in describe_options(found[name]) if name else ():
        click.echo(line)


def describe_options(cls: Any) -> Iterator[str]:
    """The options of a pass or backend with their defaults, at most 100 columns wide."""
    width = max((len(option) for option in cls.model_fields), default=0) + 2
    for option, field in cls.model_fields.items():
        default = "required" if field.is_required() else f"default {json.dumps(field.get_default(), default=str)}"
        start = f"  {option:{width}}"
        yield click.wrap_text(f"{default}: {field.description or ''}", 100, start, " " * len(start))
