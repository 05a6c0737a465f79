"""`edgeopt device trust`: follow a change of keys."""

from __future__ import annotations

from pathlib import Path

import click

from edgeopt.cli.device import home_option


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@home_option
def command(root: Path, folder: Path) -> None:
    """Trust the next ROOT, which the keys of the one before have signed.

    \b
    Example:
      edgeopt device trust root.2.json
    """
    from edgeopt.device.home import Home
    from edgeopt.errors import UsageError

    if not root.is_file():
        raise UsageError(f"there is no root `{root}`", "make one with `edgeopt keys root`")
    found = Home(folder).replace_root(root.read_bytes())
    click.echo(f"{folder}: root version {found.version}")
