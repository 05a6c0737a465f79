"""`edgeopt gate`: judge a stored report again."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("report", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the judged report as JSON.")
@click.pass_context
def command(context: click.Context, report: Path, as_json: bool) -> None:
    """Judge REPORT again from its measurements.

    REPORT is a report.json, or the folder that holds it. Exits as `compile` would, and with 4 where the report
    contradicts itself.

    \b
    Example:
      edgeopt gate build/digits/report.json
    """
    from edgeopt.errors import TrustError
    from edgeopt.report import console
    from edgeopt.report.json import Json, load_report
    from edgeopt.report.judging import conclusions, judge_report

    stated = load_report(report)
    judged = judge_report(stated)
    if conclusions(judged) != conclusions(stated):
        what = f"the verdicts of `{report}` do not follow from its measurements"
        raise TrustError(what, "it was changed after it was written: run `edgeopt compile` again")
    if as_json:
        click.echo(Json().render(judged), nl=False)
    else:
        folder = report if report.is_dir() else report.parent
        for target in judged.targets:
            click.echo(console.show_target(target))
        click.echo(console.show_verdict(judged, report, folder))
    context.exit(judged.exit_code)
