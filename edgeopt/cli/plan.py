"""`edgeopt plan`: what a compile would do, what is stored already, and why the rest would run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgeopt.recipe import Recipe

REASONS_SHOWN = 2


@click.command()
@click.argument("recipe", type=click.Path())
@click.option("--target", "targets", multiple=True, help="Only this target; may be given again.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value of the recipe.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(recipe: str, targets: tuple[str, ...], overrides: tuple[str, ...], as_json: bool) -> None:
    """Show what `compile` would run.

    Tells what is stored, and why the rest is not.

    \b
    Example:
      edgeopt plan recipes/digits.yaml
    """
    from edgeopt.recipe import load_recipe

    show_plan(load_recipe(recipe, overrides), targets, as_json=as_json)


def show_plan(recipe: Recipe, targets: tuple[str, ...] = (), *, as_json: bool = False) -> None:
    """Print each step of a recipe, with why it would run."""
    from edgeopt.plan import make_plan
    from edgeopt.store import Store

    store = Store()
    plan = make_plan(recipe, store, targets)
    rows = _rows(plan, store)
    for note in store.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        click.echo(json.dumps({"name": recipe.name, "steps": rows}, indent=2, ensure_ascii=False))
        return
    stored = sum(row["stored"] for row in rows)
    click.echo(f"{recipe.name} · {len(plan.targets)} target(s) · {len(rows)} steps, {stored} stored\n")
    for row in rows:
        click.echo(f"  {row['id']:44.44} {'stored' if row['stored'] else 'run   '}  {row['why']}")


def _rows(plan: Any, store: Any) -> list[dict[str, Any]]:
    from edgeopt.store import recipe_slot, why_nearest

    known, rows = store.history(recipe_slot(plan.recipe.path, plan.recipe.name)), []
    for step in plan.steps:
        stored = store.has(step.key)
        nearest = why_nearest(known.get(step.id, ()), step.parts)
        reasons = ["has not run yet"] if nearest is None else nearest
        more = f" and {len(reasons) - REASONS_SHOWN} more" if len(reasons) > REASONS_SHOWN else ""
        said = ", ".join(reasons[:REASONS_SHOWN]) + more if reasons else "its result is not in the store"
        told = {"stored": stored, "why": "" if stored else said}
        rows.append({"id": step.id, "key": step.key, "needs": list(step.needs), **told})
    return rows
