"""`edgeopt doctor`: what this machine can do, what is missing, and how to get it."""

from __future__ import annotations

import json
import re
from typing import Any

import click

#: wheels that install the same import package over each other: at most one of each row may be installed
CONFLICTS = (("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show what this machine can do.

    Names what is missing and how to get it, and wheels that exclude each other.

    \b
    Example:
      edgeopt doctor
    """
    from edgeopt.errors import MissingError

    found = examine()
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _show(found)
    if found["conflicts"]:
        raise MissingError("; ".join(found["conflicts"]), "uninstall all of them, then install the one that you need")


def examine() -> dict[str, Any]:
    """The machine, the backends, the libraries that compiling needs, and wheels that exclude each other."""
    from edgeopt import environment
    from edgeopt.cli.backends import list_backends
    from edgeopt.store import default_root

    conflicts = [
        f"{' and '.join(here)} are installed over each other"
        for row in CONFLICTS
        if len(here := [name for name in row if environment.library_version(name)]) > 1
    ]
    return {
        "machine": environment.fingerprint(),
        "integer_dot_product": environment.has_integer_dot_product(),
        "backends": list_backends(),
        "compile": {name: environment.library_version(name) for name in _needed("compile")},
        "store": str(default_root()),
        "conflicts": conflicts,
    }


def _needed(extra: str) -> list[str]:
    """The distributions that an extra of edgeopt brings; none where it is run from its sources and not installed."""
    import importlib.metadata

    try:
        requirements = importlib.metadata.requires("edgeopt") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    split = [requirement.partition(";") for requirement in requirements]
    chosen = [name for name, _, marker in split if re.search(rf"extra *== *['\"]{extra}['\"]", marker)]
    return [re.split(r"[^A-Za-z0-9._-]", name.strip())[0] for name in chosen]


def _show(found: dict[str, Any]) -> None:
    machine = found["machine"]
    click.echo(f"machine    {machine['cpu']}, {machine['cores']} cores, {machine['memory_mb'] / 1000:.0f} GB memory")
    int8 = "int8 sums exactly" if found["integer_dot_product"] else "no VNNI: int8 weights are held to 7 bits"
    click.echo(f"           {', '.join(machine['isa']) or 'no vector instructions known'}; {int8}")
    click.echo(f"           {machine['system']}, Python {machine['python']}, power mode {machine['power_mode']}")
    missing = [name for name, version in found["compile"].items() if version is None]
    state = "ready" if not missing else f"missing {', '.join(missing)}: pip install 'edgeopt[compile]'"
    state = state if found["compile"] else "not known: edgeopt is run from its sources and not installed"
    click.echo(f"compile    {state}")
    for row in found["backends"]:
        click.echo(f"backend    {row['name']:18} {'ready' if row['available'] else row['missing']}")
    click.echo(f"store      {found['store']}")
