"""`edgeopt doctor`: what this machine can do, what is missing and how to get it, and how noisy it is."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import click

DEFAULT_BACKEND = "onnxruntime_cpu"

#: the exit code of a machine on which a budget may not be decided
UNFIT = 3

#: wheels that install the same import package over each other: at most one of each row may be installed
CONFLICTS = (("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),)


@click.command()
@click.option("--aa", is_flag=True, help="Time a small network beside its own copy: how noisy is this machine?")
@click.option("--backend", help=f"What runs it; default {DEFAULT_BACKEND}. Only with --aa.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, aa: bool, backend: str | None, as_json: bool) -> None:
    """Show what this machine can do.

    Names what is missing and how to get it, and wheels that exclude each other. With --aa it takes about a minute to
    tell whether the machine is quiet enough to judge latency, and exits with 3 where it is not; `compile` shows what
    was found last.

    \b
    Example:
      edgeopt doctor --aa
    """
    from edgeopt.errors import MissingError, UsageError

    if aa:
        context.exit(0 if _check_noise(backend or DEFAULT_BACKEND, as_json=as_json) else UNFIT)
    if backend is not None:
        raise UsageError("`--backend` goes with `--aa`", "without it, doctor looks at every backend")
    found = examine()
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _show(found)
    if found["conflicts"]:
        raise MissingError("; ".join(found["conflicts"]), "uninstall all of them, then install the one that you need")


def examine() -> dict[str, Any]:
    """The machine, backends, energy counters, libraries that compiling needs, and wheels that exclude each other."""
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
        "counters": _list_counters(),
        "compile": {name: environment.library_version(name) for name in _needed("compile")},
        "store": str(default_root()),
        "conflicts": conflicts,
    }


def _check_noise(backend: str, *, as_json: bool) -> bool:
    """Run the A/A check, remember and show what it found; whether the machine is fit."""
    from edgeopt import environment
    from edgeopt.store import Store
    from edgeopt.validation.latency import describe_conditions
    from edgeopt.validation.noise import CONFIDENCE, judge_copies, remember_noise_floor, time_copies

    store = Store()
    samples = time_copies(backend, _show_progress)
    _show_progress("", None)
    floor, conditions = judge_copies(samples), list(describe_conditions(samples))
    remember_noise_floor(floor, store)
    if as_json:
        more = {"half_width": floor.half_width, "width": floor.width, "fit": floor.fit, "sentence": floor.sentence}
        found = {"machine": environment.describe(), "backend": backend} | floor.model_dump() | more
        click.echo(json.dumps(found | {"conditions": conditions}, indent=2))
        return floor.fit
    sure = f"{100 * (1 - samples.protocol.alpha(CONFIDENCE)):.4g} % confidence"
    bounds = "" if floor.low is None or floor.high is None else f" [{floor.low:.3f}, {floor.high:.3f}] at {sure}"
    ratio = "unknown" if floor.ratio is None else f"{floor.ratio:.3f}{bounds}"
    click.echo(f"machine    {environment.describe()}, {environment.cpu_cores()} cores")
    click.echo(f"ratio      {ratio}: a small network ÷ its copy on {backend}")
    click.echo(
        f"noise      {_half(floor.first)} at the first look, {_half(floor.half_width)} after {samples.sets} sets"
    )
    for condition in conditions:
        click.echo(f"seen       {condition}")
    click.echo(f"verdict    {floor.sentence}")
    return floor.fit


def _half(width: float | None) -> str:
    return "unknown" if width is None else f"± {100 * width:.1f} %"


def _show_progress(text: str, fraction: float | None) -> None:
    """Write over the last line, for a person only."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", err=True, nl=False)


def _list_counters() -> list[dict[str, str | bool]]:
    """The energy counters: what each counts, and why it cannot be read here."""
    from edgeopt.counters import all_counters

    told = ((name, counter, counter.why()) for name, counter in all_counters().items())
    return [{"name": name, "available": not why, "missing": why, "what": one.what} for name, one, why in told]


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
    for row in found["counters"]:
        click.echo(f"energy     {row['name']:18} {row['what'] if row['available'] else row['missing']}")
    click.echo(f"store      {found['store']}")
