"""`edgeopt lint`: whether a target takes a quantized graph, and what of it would run in float there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgeopt.model import QuantizationProfile


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--profile", "name", required=True, metavar="NAME", help="A target, as `tensorrt`, or a backend on this machine."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: Path, name: str, as_json: bool) -> None:
    """Say what a target dislikes in a quantized graph.

    MODEL is an ONNX file with QuantizeLinear/DequantizeLinear pairs, whoever wrote it. Each line names a rule and a
    node. What is `illegal` the target refuses, or computes something else from; it makes the command exit with 2.
    What is `slow` runs in float there, or with conversions.

    \b
    Example:
      edgeopt lint model.onnx --profile onnxruntime_cpu
    """
    from edgeopt.errors import DataError
    from edgeopt.onnx_graph import load_graph
    from edgeopt.quantization.lint import lint

    profile = find_profile(name)
    violations = lint(load_graph(model), profile)
    illegal = [each for each in violations if each.severity == "illegal"]
    if as_json:
        told = [each.model_dump(mode="json") for each in violations]
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        for each in violations:
            click.echo(f"{each.severity:7}  {each.rule:22}  {each.node}: {each.sentence}")
        click.echo(f"{model}: {len(illegal)} illegal, {len(violations) - len(illegal)} slow for {profile.name}")
    if illegal:
        lines = "\n".join(f"{each.rule}: `{each.node}`: {each.sentence}" for each in illegal)
        raise DataError(lines, f"quantize the float network for {profile.name}: `quantize_int8` does")


def find_profile(name: str) -> QuantizationProfile:
    """The profile of a target that edgeopt knows, or of a backend as it is on this machine.

    Raises:
        UsageError: nothing has that name, or it runs no integers.
    """
    from edgeopt import backends, registry
    from edgeopt.errors import UsageError, did_you_mean
    from edgeopt.quantization.profiles import PROFILES

    if name in PROFILES:
        return PROFILES[name]
    names = registry.names("backends")
    if name not in names:
        raise UsageError(f"unknown profile `{name}`", did_you_mean(name, {*PROFILES, *names}))
    profile = backends.get(name).profile()
    if profile is None:
        raise UsageError(f"the backend `{name}` runs no integers", f"known: {', '.join(sorted(PROFILES))}")
    return profile
