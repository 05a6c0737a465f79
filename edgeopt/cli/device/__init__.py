"""`edgeopt device`: what runs on the device, one file per command. Needs neither torch nor onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeopt.cli import LazyGroup

#: names the device's folder where `--home` does not
HOME = "EDGEOPT_DEVICE"


class DeviceGroup(LazyGroup):
    package = __name__


@click.group(cls=DeviceGroup)
def command() -> None:
    """Install, check, run and watch bundles on this device.

    \b
    Example:
      edgeopt device init --root root.json
      edgeopt device install digits.edgeopt
      edgeopt device activate
    """


def home_option(function: Any) -> Any:
    """`--home`, the same for all commands."""
    shown = "The device's folder."
    option = click.option(
        "--home", "folder", envvar=HOME, default="edgeopt-device", show_default=True, show_envvar=True,
        type=click.Path(path_type=Path), help=shown,
    )  # fmt: skip
    return option(function)


def json_option(function: Any) -> Any:
    """`--json`, the same for all commands."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
