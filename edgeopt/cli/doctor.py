"""`edgeopt doctor`: what this machine can do, what is missing and how to get it, and how noisy it is."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import click

DEFAULT_BACKEND = "onnxruntime_cpu"

#: the exit code of a machine on which a budget may not be decided
UNFIT = 3


@click.command()
@click.option("--aa", is_flag=True, help="Time a small network beside its own copy: how noisy is this machine?")
@click.option("--backend", help=f"What runs it; default {DEFAULT_BACKEND}. Only with --aa.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, aa: bool, backend: str | None, as_json: bool) -> None:
    """Show what this machine can do.

    Names what is missing and how to get it, what each runtime library finds here, and what is installed and does not
    go together, which is exit code 5. With --aa it takes about a minute to tell whether the machine is quiet enough to
    judge latency, and exits with 3 where it is not; `compile` shows what was found last.

    \b
    Example:
      edgeopt doctor --aa
    """
    from edgeopt.errors import MissingError, UsageError
    from edgeopt.examining import examine

    if aa:
        context.exit(0 if _check_noise(backend or DEFAULT_BACKEND, as_json=as_json) else UNFIT)
    if backend is not None:
        raise UsageError("`--backend` goes with `--aa`", "without it, doctor looks at every backend")
    found = examine()
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        show(found)
    if found["conflicts"]:
        remedies = dict.fromkeys(conflict["remedy"] for conflict in found["conflicts"])
        raise MissingError("\n".join(conflict["what"] for conflict in found["conflicts"]), "; ".join(remedies))


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


def show(found: dict[str, Any]) -> None:
    """Print what `examine` found, a row for each thing."""
    for kind, rows in _sections(found):
        for row in rows:
            click.echo(f"{kind:10} {row}")


def _sections(found: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """What is shown: the word before the rows, and the rows."""
    yield "machine", [f"\n{' ':11}".join(_machine(found))]
    yield "isa", [_row(one["name"], f"{'yes' if one['here'] else 'no '}  {one['does']}") for one in found["isa"]]
    yield "gpu", [_gpu(one) for one in found["gpus"]] or ["none that NVIDIA's driver shows"]
    yield "compile", [_compiling(found["compile"])]
    yield "backend", [_row(one["name"], one["missing"] or "ready") for one in found["backends"]]
    yield "library", [_row(one["name"], _library(one)) for one in found["libraries"]]
    yield "energy", [_row(one["name"], one["missing"] or one["what"]) for one in found["counters"]]
    yield "store", [found["store"]]


def _row(name: str, text: str) -> str:
    return f"{name:20} {text}"


def _machine(found: dict[str, Any]) -> list[str]:
    from edgeopt import environment

    machine, power = found["machine"], found["power"]
    exact = found["integer_dot_product"] or environment.is_arm(machine["isa"])
    int8 = "int8 sums exactly" if exact else "no VNNI: int8 weights are held to 7 bits"
    mode = f", power mode {power['nvpmodel']}" if power["nvpmodel"] else ""
    return [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_mb'] / 1000:.0f} GB memory",
        f"{', '.join(machine['isa']) or 'no vector instructions known'}; {int8}",
        f"{machine['system']}, Python {machine['python']}, governor {power['governor']}{mode}",
    ]


def _gpu(gpu: dict[str, str]) -> str:
    told = f"compute capability {gpu['compute_capability']}, driver {gpu['driver']}, power limit {gpu['power']}"
    return _row(gpu["name"], told)


def _compiling(versions: dict[str, str | None]) -> str:
    if not versions:
        return "not known: edgeopt is run from its sources and not installed"
    missing = [name for name, version in versions.items() if version is None]
    return f"missing {', '.join(missing)}: pip install 'edgeopt[compile]'" if missing else "ready"


def _library(library: dict[str, Any]) -> str:
    told = (f"{name} {value}" for name, value in library["finds"].items() if name != "gpus")
    return library["missing"] or "; ".join([library["version"], *told])
