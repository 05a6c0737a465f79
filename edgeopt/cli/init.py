"""`edgeopt init`: the first recipe, from a trained network and its data."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgeopt.drafting import Question


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--factory", metavar="FILE:CALLABLE", help="What makes the network of a checkpoint: file.py:callable.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An argument of the factory.")
@click.option("--key", help="Where in the checkpoint the state dict lies; found where there is one.")
@click.option("--strip-prefix", help="Taken off the names of tensors; found where it can be.")
@click.option("--input", "inputs", multiple=True, metavar="[NAME=]3x224x224", help="A shape without the batch axis.")
@click.option("--data", type=click.Path(path_type=Path), help="A folder of splits: train, val, calibration …")
@click.option("--calibration", metavar="PATH", help="What int8 is calibrated with; default: some of training.")
@click.option("--validation", metavar="PATH", help="What accuracy is judged on.")
@click.option("--training", metavar="PATH", help="For passes that train.")
@click.option("--no-data", is_flag=True, help="Leave a marked place for the data in the recipe.")
@click.option("--classes", metavar="FILE|A,B", help="Names of the classes in the order of the labels.")
@click.option("--preprocess", multiple=True, metavar="HOW", help="imagenet, unit, none, or '{scale: …, mean: […]}'.")
@click.option("--target", "targets", multiple=True, metavar="NAME[=BACKEND,…]", help="Default: this machine.")
@click.option("--name", help="Of the recipe; default: that of the file.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("recipe.yaml"), show_default=True)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option("--yes", is_flag=True, help="Ask nothing: take every default.")
def command(out: Path, force: bool, yes: bool, **said: Any) -> None:
    """Write a first recipe for MODEL, and show its plan.

    MODEL is an ONNX file, or a checkpoint with --factory. What can be found is found: inputs, classes, splits. What
    cannot is asked for on a terminal; elsewhere the option that lacks is named. Nothing is made up: what was guessed
    is marked CHECK in the recipe, and listed.

    \b
    Example:
      edgeopt init model.onnx --data images --preprocess imagenet
    """
    from edgeopt import files
    from edgeopt.cli.plan import show_plan
    from edgeopt.drafting import Options
    from edgeopt.drafting.make import make_draft
    from edgeopt.errors import UsageError
    from edgeopt.recipe import make_recipe
    from edgeopt.recipe.draft import list_checks, write_draft

    if out.exists() and not force:
        raise UsageError(f"`{out}` is there already", "write elsewhere with `--out`, or over it with `--force`")
    draft = make_draft(Options(out=out, **said), lambda question: _answer(question, yes=yes))
    text = write_draft(draft)
    recipe = None if said["no_data"] else make_recipe(text, out)  # nothing is written before the recipe is sound
    files.write_text(out, text)
    checks = list_checks(text)
    click.echo(f"{out}: written" + (f"; look at {len(checks)} line(s)" if checks else ""))
    for check in checks:
        click.echo(click.wrap_text(check, 100, "  line ", "    "))
    click.echo()
    if recipe is not None:
        show_plan(recipe)
        click.echo()
    command = "plan" if recipe is None else "compile"
    click.echo(f"next: edgeopt {command} {shlex.quote(str(out))}")


def _answer(question: Question, *, yes: bool) -> Any:
    """The answer of a person, or the default where there is nobody to ask."""
    from edgeopt.errors import UsageError

    asked = not yes and sys.stdin is not None and sys.stdin.isatty()
    if asked:
        click.echo(f"{question.option}: {question.hint}", err=True)
        return click.prompt(question.text, default=question.default, value_proc=lambda text: _parsed(question, text),
                            show_default=bool(question.default), err=True)  # fmt: skip
    if question.default is None or (question.needed and not yes):
        offered = f"; `--yes` takes {question.default}" if question.default else ""
        raise UsageError(f"`{question.option}` is missing: {question.text}", question.hint + offered)
    return question.parse(question.default)


def _parsed(question: Question, text: str) -> Any:
    """The value of an answer; click asks again for one that is none."""
    from edgeopt.errors import UsageError

    try:
        return question.parse(text)
    except UsageError as error:
        raise click.BadParameter(f"{error.message}; {error.hint}" if error.hint else error.message) from error
