"""`edgeopt fleet`: many devices at once."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def command() -> None:
    """See how a release fares on many devices.

    \b
    Example:
      edgeopt fleet check fleet.yaml
    """


@command.command()
@click.argument("inventory", required=False, type=click.Path(path_type=Path))
@click.option(
    "--metrics", "paths", multiple=True, type=click.Path(path_type=Path),
    help="A file that was scraped from `/metrics`, or that `edgeopt device spool --json` printed; may be repeated.",
)  # fmt: skip
@click.option("--release", type=click.Path(path_type=Path), help="The signed bundle that all of them should run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(inventory: Path | None, paths: tuple[Path, ...], release: Path | None, as_json: bool) -> None:
    """Compare what devices in the field take with what their release was proven to.

    Nine of ten answers are to keep to its latency budget, or to a quarter more than its p90 was where it has none. Old
    releases, drift, rollbacks and throttling are told beside.

    The exit code is 0 if all devices keep to it, 1 if one does not, 6 if one cannot be reached, 3 if one has given too
    few answers to tell.

    \b
    Example:
      edgeopt fleet check fleet.yaml
      edgeopt fleet check --metrics orin-7.prom --metrics orin-8.json --release digits.edgeopt
    """
    from edgeopt.errors import UsageError
    from edgeopt.fleet.check import check_fleet, newest_counter, render_table
    from edgeopt.fleet.field import ask_fields, read_field
    from edgeopt.fleet.inventory import load_inventory

    if inventory is None and not paths:
        raise UsageError("no device is named", "name an inventory, or files by `--metrics`")
    newest = None if release is None else newest_counter(release)
    fields = {} if inventory is None else ask_fields(load_inventory(inventory))
    found = check_fleet(fields | {path.stem: read_field(path) for path in paths}, newest)
    click.echo(json.dumps(found.model_dump(mode="json"), indent=2) if as_json else render_table(found))
    if found.exit_code:
        raise click.exceptions.Exit(found.exit_code)
