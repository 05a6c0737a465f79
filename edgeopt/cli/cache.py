"""`edgeopt cache`: what the store holds, why a step runs again, whether it is sound, and how to make it smaller."""

from __future__ import annotations

import json
import time

import click


@click.group()
def command() -> None:
    """Look into the store of finished steps.

    \b
    Example:
      edgeopt cache why fine_tune recipes/digits.yaml
    """


@command.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_entries(as_json: bool) -> None:
    """List the stored steps, newest first.

    \b
    Example:
      edgeopt cache ls --json
    """
    from edgeopt.store import Store, size_of

    entries = list(Store().entries())
    found = [(entry, folder) for folder, entry in entries if entry is not None]
    found.sort(key=lambda pair: -pair[0].created)
    if len(found) < len(entries):
        click.echo(f"{len(entries) - len(found)} cannot be read: see `edgeopt cache verify`", err=True)
    if as_json:
        rows = [entry.model_dump(exclude={"parts", "result"}) | {"size_bytes": size_of(at)} for entry, at in found]
        click.echo(json.dumps(rows, indent=2))
        return
    for entry, at in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created))
        click.echo(f"{entry.key[:12]}  {when}  {size_of(at) / 1e6:9.2f} MB  {entry.seconds:8.1f} s  {entry.step}")


@command.command()
@click.argument("step")
@click.argument("recipe", type=click.Path())
@click.option("--target", "targets", multiple=True, help="Only this target; may be given again.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value of the recipe.")
def why(step: str, recipe: str, targets: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Tell why STEP of RECIPE would run again.

    Names the parts of its key that changed.

    \b
    Example:
      edgeopt cache why fine_tune recipes/digits.yaml
    """
    from edgeopt.errors import UsageError, did_you_mean
    from edgeopt.plan import make_plan
    from edgeopt.recipe import load_recipe
    from edgeopt.store import Store, recipe_slot, why_nearest

    store = Store()
    loaded = load_recipe(recipe, overrides)
    plan = make_plan(loaded, store, targets)
    known = {found.id: found for found in plan.steps}
    if step not in known:
        raise UsageError(f"the plan has no step `{step}`", did_you_mean(step, known))
    if store.has(known[step].key):
        click.echo(f"{step}: stored, would not run again")
        return
    known_runs = store.history(recipe_slot(loaded.path, loaded.name)).get(step, ())
    for note in store.notes:
        click.echo(f"note: {note}", err=True)
    nearest = why_nearest(known_runs, known[step].parts)
    reasons = ["it has not run yet"] if nearest is None else nearest
    click.echo(f"{step}: {'; '.join(reasons) or 'its result was removed from the store'}")


@command.command()
def verify() -> None:
    """Check the digest of every stored file.

    \b
    Example:
      edgeopt cache verify
    """
    from edgeopt.errors import TrustError
    from edgeopt.store import Store

    store = Store()
    wrong = store.verify()
    if wrong:
        raise TrustError("\n".join(wrong), "the next run does these steps again")
    click.echo(f"{sum(1 for _ in store.entries())} steps, all sound")


@command.command()
@click.option("--older-than", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Age in days.")
def gc(older_than: float) -> None:
    """Remove what is older than some days.

    \b
    Example:
      edgeopt cache gc --older-than 7
    """
    from edgeopt.errors import UsageError
    from edgeopt.store import Store

    removed = Store().collect(older_than)
    if removed is None:
        raise UsageError("a run is using the store", "wait until it has ended")
    click.echo(f"removed {removed[0]} steps, {removed[1] / 1e6:.1f} MB")
