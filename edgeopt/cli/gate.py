"""`edgeopt gate`: judge a stored report again."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("report", type=click.Path(path_type=Path))
@click.option(
    "--budgets", type=click.Path(path_type=Path), help="A YAML file with `budgets:`, to judge by in place of its own."
)
@click.option(
    "--require-signed",
    "key",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Believe only a report that this public key has signed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the judged report as JSON.")
@click.pass_context
def command(context: click.Context, report: Path, budgets: Path | None, key: Path | None, as_json: bool) -> None:
    """Judge REPORT again from its raw samples.

    REPORT is a report.json, or the folder that holds it, with `samples/` beside it. Exits as `compile` would, and
    with 4 where the report is not what its samples say.

    \b
    Example:
      edgeopt gate build/digits/report.json --budgets stricter.yaml
    """
    from edgeopt.bundle.signing import load_public_key
    from edgeopt.recipe import load_budgets
    from edgeopt.report import console
    from edgeopt.report.json import Json, load_report
    from edgeopt.report.rejudging import rejudge
    from edgeopt.report.signature import verify_report

    folder = report if report.is_dir() else report.parent
    if key is not None:
        verify_report(report, load_public_key(key))
    judged = rejudge(load_report(report), folder, None if budgets is None else load_budgets(budgets))
    if as_json:
        click.echo(Json().render(judged), nl=False)
    else:
        for target in judged.targets:
            click.echo(console.show_target(target))
        click.echo(console.show_verdict(judged, report, folder))
    context.exit(judged.exit_code)
