"""`edgeopt schema`: the JSON Schema of recipes."""

from __future__ import annotations

import json

import click


@click.command()
def command() -> None:
    """Print the JSON Schema of recipes.

    It has every pass and backend that is installed, with its options; editors can use it.

    \b
    Example:
      edgeopt schema > recipe.schema.json
    """
    from edgeopt.recipe.schema import make_schema

    click.echo(json.dumps(make_schema(), indent=2, ensure_ascii=False))
