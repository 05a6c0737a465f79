"""`cache why` and `plan`: what they compare with, and what they must not keep to themselves."""

from __future__ import annotations

from pathlib import Path

from edgeopt.plan import make_plan
from edgeopt.recipe import load_recipe
from edgeopt.store import Store, recipe_slot
from tests.cli.test_cli import DIGITS, Run, refused, run

__all__ = ["run"]


def test_why_takes_the_overrides_and_targets_that_compile_takes(run: Run) -> None:
    asked = ("cache", "why", "fine_tune", DIGITS)
    assert run(*asked, "--set", "seed=1", "--target", "x86").out == "fine_tune: it has not run yet\n"
    refused(run(*asked, "--target", "x68"), 2, "the recipe has no target `x68`", "did you mean `x86`?")


def test_a_step_is_compared_with_the_last_run_of_the_same_recipe_not_of_the_same_name(run: Run, tmp_path: Path) -> None:
    recipe = load_recipe(DIGITS)
    Store().remember(recipe_slot(tmp_path / "digits.yaml", recipe.name), {"fine_tune": {"seed": "7"}})
    assert run("cache", "why", "fine_tune", DIGITS).out == "fine_tune: it has not run yet\n"
    Store().remember(recipe_slot(recipe.path, recipe.name), {"fine_tune": {"seed": "7"}})
    assert "seed changed" in run("cache", "why", "fine_tune", DIGITS).out


def test_a_step_is_compared_with_the_run_that_differs_least(run: Run) -> None:
    recipe = load_recipe(DIGITS)
    step = make_plan(recipe, Store()).step("fine_tune")
    Store().remember(recipe_slot(recipe.path, recipe.name), {"fine_tune": {"seed": "7"}})
    with Store().workspace() as folder:
        Store().put("0" * 64, "fine_tune", step.parts | {"options": "others"}, {}, 1.0, folder)
    assert run("cache", "why", "fine_tune", DIGITS).out == "fine_tune: options changed\n"
    told = next(line for line in run("plan", DIGITS).out.splitlines() if line.startswith("  fine_tune"))
    assert told.endswith("  options changed")


def test_what_is_damaged_in_the_store_is_noted(run: Run, tmp_path: Path) -> None:
    slot = recipe_slot(Path(DIGITS), "digits")
    (tmp_path / "store" / "latest").mkdir(parents=True)
    (tmp_path / "store" / "latest" / f"{slot}.json").write_text("{")
    for arguments in (("plan", DIGITS), ("cache", "why", "fine_tune", DIGITS)):
        ran = run(*arguments)
        assert ran.code == 0
        assert ran.err.startswith("note: `")
        assert ran.err.endswith("is damaged and was left out\n")
