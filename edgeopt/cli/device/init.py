"""`edgeopt device init`: make the folder that a device keeps an application in."""

from __future__ import annotations

from pathlib import Path

import click

from edgeopt.cli.device import home_option


@click.command()
@home_option
@click.option("--root", required=True, type=click.Path(path_type=Path), help="The trust root: whose signatures count.")
@click.option("--board", help="What this board is called in recipes; a bundle for another one is refused.")
@click.option("--channel", default="stable", show_default=True, help="The only channel that it takes bundles of.")
@click.option("--app", help="The only application that it takes; without it, that of the first bundle.")
def command(folder: Path, root: Path, board: str | None, channel: str, app: str | None) -> None:
    """Make a device's folder, and a key of its own.

    Prints the public key: the inventory of the fleet pins it, and believes measurements of no other.

    \b
    Example:
      edgeopt device init --root root.json --board rpi5
    """
    from pydantic import ValidationError

    from edgeopt.device.home import Device, make_home
    from edgeopt.errors import UsageError

    try:
        device = Device(board=board, channel=channel, app=app)
    except ValidationError as error:
        raise UsageError(f"`--channel {channel}` is no name of a channel", "letters, digits, `.`, `_`, `-`") from error
    if not root.is_file():
        raise UsageError(f"there is no root `{root}`", "make one with `edgeopt keys root`")
    click.echo(f"{folder}: key {make_home(folder, root.read_bytes(), device)}")
