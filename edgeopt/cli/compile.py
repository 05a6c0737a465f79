"""`edgeopt compile`: the main job, from a recipe to bundles and a verdict."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgeopt.pipeline import Watcher
    from edgeopt.recipe import Recipe
    from edgeopt.report import Report


@click.command()
@click.argument("recipe", type=click.Path())
@click.option("--target", "targets", multiple=True, help="Only this target; may be given again.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value of the recipe.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the result goes; default build/<name>.")
@click.option("--fresh", is_flag=True, help="Use nothing that is stored: do and measure all again.")
@click.option("--keep-going", is_flag=True, help="Go on with other targets where no candidate of one can be built.")
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    metavar="[TARGET=]BUNDLE",
    help="The bundle of an earlier release, to be measured in the same run.",
)
@click.option("--sign", "key", type=click.Path(path_type=Path), metavar="KEY", help="Sign the report with this key.")
@click.option("--time-limit", type=click.FloatRange(min=1), metavar="SECONDS", help="Of one step; default a day.")
@click.option(
    "--memory-limit", type=click.FloatRange(min=100), metavar="MB", help="Of one step; default the machine's."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of the tables.")
@click.option("--verbose", is_flag=True, help="Show the whole log of a step that failed.")
@click.pass_context
def command(
    context: click.Context,
    recipe: str,
    targets: tuple[str, ...],
    overrides: tuple[str, ...],
    out: Path | None,
    fresh: bool,
    keep_going: bool,
    baselines: tuple[str, ...],
    key: Path | None,
    time_limit: float | None,
    memory_limit: float | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Compile RECIPE into bundles, and judge them.

    Prunes, quantizes, builds, measures, judges, chooses, packs and reports.
    Exits with 0 when every budget is met, 1 when one is missed and 3 when one could not be decided.

    \b
    Example:
      edgeopt compile recipes/digits.yaml --set seed=1
    """
    from edgeopt.cli.keys import open_signer
    from edgeopt.execute import LIMITS
    from edgeopt.pipeline import output_folder, run_plan
    from edgeopt.plan import make_plan
    from edgeopt.reaching import machines_of, reach_devices
    from edgeopt.recipe import load_recipe
    from edgeopt.report import REPORT_FILE
    from edgeopt.store import Store
    from edgeopt.workers import Limits

    limits = Limits(time_limit or LIMITS.seconds, None if memory_limit is None else round(memory_limit * 1e6))
    store = Store()
    loaded = load_recipe(recipe, overrides)
    signer = None if key is None else open_signer(key)
    with reach_devices(loaded, targets) as devices:
        plan = make_plan(loaded, store, targets, _by_target(baselines, loaded), machines_of(devices))
        with _live(quiet=as_json, verbose=verbose) as watcher:
            report = run_plan(
                plan, store, out=out, watcher=watcher, fresh=fresh, keep_going=keep_going, limits=limits,
                signer=signer, devices=devices,
            )  # fmt: skip
    folder = output_folder(plan, out)
    if as_json:
        click.echo((folder / REPORT_FILE).read_text(encoding="utf8"), nl=False)
    else:
        _show(report, folder)
    context.exit(report.exit_code)


def _by_target(baselines: tuple[str, ...], recipe: Recipe) -> dict[str, Path]:
    """`TARGET=BUNDLE`, or the bundle alone where the recipe has one target."""
    from edgeopt.errors import UsageError

    found: dict[str, Path] = {}
    for text in baselines:
        target, equals, path = text.partition("=")
        if not equals and len(recipe.targets) > 1:
            raise UsageError(f"`--baseline {text}` names no target", f"write `{recipe.targets[0].name}={text}`")
        name = target if equals else recipe.targets[0].name
        if name in found:
            raise UsageError(f"target `{name}` has two baselines", "give it one")
        found[name] = Path(path if equals else text)
    return found


def _show(report: Report, folder: Path) -> None:
    from edgeopt.report import console
    from edgeopt.report.markdown import Markdown

    for target in report.targets:
        click.echo()
        click.echo(console.show_target(target), nl=False)
    click.echo()
    click.echo(console.show_verdict(report, folder / Markdown.file_name, folder))


@contextlib.contextmanager
def _live(*, quiet: bool, verbose: bool) -> Iterator[Watcher]:
    """A watcher that prints a line for each finished step, and shows the running one where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from edgeopt.watching import LineWatcher

    text = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), text, BarColumn(20), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True,
        redirect_stdout=False, redirect_stderr=False,
    ) as bar:  # fmt: skip
        yield LineWatcher(bar, quiet=quiet, verbose=verbose)
