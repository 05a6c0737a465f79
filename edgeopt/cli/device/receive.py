"""`edgeopt device receive`: take a file in, from what runs this over a connection."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgeopt.cli.device import home_option


@click.command()
@click.argument("name")
@click.option("--bytes", "size_bytes", required=True, type=click.IntRange(min=0), help="How many there will be.")
@click.option("--sha256", required=True, help="The digest of all of them.")
@home_option
def command(name: str, size_bytes: int, sha256: str, folder: Path) -> None:
    """Take a file called NAME in, from the standard input.

    `edgeopt ship` runs this on a device. Each side says a line of JSON first: what is held, and where to go on.

    \b
    Example:
      edgeopt device receive digits.edgeopt --bytes 9 --sha256 15e2b0d3…
    """
    import json

    from edgeopt.device.home import Home
    from edgeopt.device.receive import receive
    from edgeopt.errors import UsageError

    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise UsageError(f"`{sha256}` is no SHA-256", "64 hexadecimal digits")

    def tell(value: object) -> None:
        click.echo(json.dumps(value))
        sys.stdout.flush()

    path = receive(Home(folder), name, size_bytes, sha256, sys.stdin.fileno(), lambda held: tell(held.model_dump()))
    tell({"path": str(path)})
