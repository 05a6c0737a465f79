"""What a run leaves: reports, raw samples, the winner's bundle, what else was built, and the torch network at the end.

Everything is made in a folder beside the destination, which it then replaces, so that a result is whole or not there.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt import environment, files, keys, registry, workers
from edgeopt.backends import Arrays
from edgeopt.bundle.fingerprint import Reference, fingerprint_of
from edgeopt.bundle.golden import Golden
from edgeopt.bundle.manifest import Smoke
from edgeopt.bundle.pack import Contents, pack_bundle, pack_file
from edgeopt.comparison import Comparison
from edgeopt.errors import EdgeoptError, UsageError
from edgeopt.execute import Results
from edgeopt.model import Artifact, Model, TorchValue, write_artifact, write_model
from edgeopt.plan import Side, TargetPlan
from edgeopt.recipe import Recipe
from edgeopt.report import Report, TargetResult, write_report
from edgeopt.report.deriving import SAMPLES
from edgeopt.report.json import load_report
from edgeopt.report.signature import SIGNATURE_FILE, sign_report
from edgeopt.validation.subject import thread_environment

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

GOLDEN_SAMPLES = 4
#: of the calibration split, for the fingerprint, where they must travel to a device
SENT_SAMPLES = 256

OTHER_FOLDER = "choose another folder with `--out`"


def check_output(folder: Path) -> None:
    """Refuse to replace a folder that holds more than an earlier run left; clear up beside it after runs that died.

    Raises:
        UsageError: it holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"`{folder}` is not a folder", OTHER_FOLDER)
    strangers = sorted({path.name for path in folder.glob("*")} - _left_before(folder))
    if strangers:
        raise UsageError(f"`{folder}` holds `{strangers[0]}`, which edgeopt did not make there", OTHER_FOLDER)
    files.sweep(folder.absolute().parent)


def _left_before(folder: Path) -> set[str]:
    """The names in `folder` that an earlier run made; none if its report cannot be read."""
    try:
        report = load_report(folder)
    except EdgeoptError:
        return set()
    formats = {registry.resolve("report", name).file_name for name in registry.names("report")}
    return formats | {SAMPLES, SIGNATURE_FILE} | {target.name for target in report.targets}


def deliver(
    report: Report, comparisons: Sequence[Comparison], results: Results, folder: Path, signer: Signer | None = None
) -> Report:
    """Write all that a run leaves into `folder`, signed if there is a signer; returns the report as it lies there."""
    with files.scratch(folder.absolute().parent) as scratch:
        targets = []
        for target, comparison in zip(results.plan.targets, comparisons, strict=True):
            for name, data in comparison.raw.items():
                files.write_bytes(scratch / name, data)
            targets.append(_deliver_target(target, comparison.result, results, scratch))
        report = report.model_copy(update={"targets": tuple(targets)})
        write_report(report, scratch)
        if signer is not None:
            sign_report(scratch, signer)
        files.publish(scratch, folder.absolute())
    return report


def _deliver_target(target: TargetPlan, result: TargetResult, results: Results, folder: Path) -> TargetResult:
    winner = next((side for side in target.candidates if side.id == result.winner), None)
    _deliver_network(winner or target.candidates[0], results, folder / target.name / "network")
    if winner is not None:
        name = f"{target.name}/{results.plan.recipe.name}.edgeopt"
        _deliver_bundle(winner, target, result, results, folder / target.name / "bundle")
        pack_file(folder / target.name / "bundle", folder / name)
        return result.model_copy(update={"bundle": name})
    for side in target.candidates:
        if side.build in results.found:
            _deliver_loser(side, target, result, results, folder / target.name / side.id)
    return result


def _deliver_loser(side: Side, target: TargetPlan, result: TargetResult, results: Results, folder: Path) -> None:
    """What was made of a candidate that may not ship: a bundle that says so, or what a device is to build it from."""
    artifact = results.artifact(side.build)
    if not artifact.unbuilt and side.predict in results.found:
        _deliver_bundle(side, target, result, results, folder / "bundle")
        return
    for file in artifact.files:
        files.copy(artifact.folder / file.path, folder / "build" / file.path)
    if artifact.unbuilt:
        write_artifact(artifact, folder / "build")


def _deliver_bundle(side: Side, target: TargetPlan, result: TargetResult, results: Results, folder: Path) -> None:
    recipe, artifact = results.plan.recipe, results.artifact(side.build)
    candidate = result.candidate(side.id)
    assert candidate is not None
    contents = Contents(
        name=recipe.name, target=target.name, candidate=side.id, artifact=artifact,
        preprocess=recipe.data.preprocess, classes=tuple(recipe.data.classes) if recipe.data.classes else None,
        compatible=_compatible(artifact, target, results), recipe=_recipe_as_run(recipe),
        golden=_golden(side, target, results),
        measurements=tuple(one.model_dump(mode="json") for one in candidate.measurements),
        verdicts=tuple(one.model_dump(mode="json") for one in candidate.verdicts),
        libraries=environment.fingerprint()["libraries"],
        smoke=Smoke(p90_ms=target.budgets.latency.p90_ms if target.budgets.latency else None),
        fingerprint=_fingerprint(side, target, results),
    )  # fmt: skip
    pack_bundle(contents, folder)


def _compatible(artifact: Artifact, target: TargetPlan, results: Results) -> dict[str, str]:
    """What a device must be for the verdicts to hold there: what it was measured on, or is said to be for."""
    device = results.devices.get(target.name)
    here = platform.machine() if device is None else str(device.environment["machine"])
    machine = artifact.requires.get("isa", here).split()[0]
    board = {} if target.board is None else {"board": target.board}
    older = {name: version for name, version in target.runtimes.items() if name in artifact.requires}
    return {"machine": machine, **board, **artifact.requires, **older}


def _recipe_as_run(recipe: Recipe) -> bytes:
    """The recipe's text, with what was laid over it by `--set` said at the top."""
    said = [f"# compiled with --set {override}\n" for override in recipe.overrides]
    return ("".join(said) + recipe.text).encode()


def _golden(side: Side, target: TargetPlan, results: Results) -> tuple[Golden, ...]:
    """A few validation samples as they were read, and what the winner makes of each."""
    samples = results.splits().validation
    raw, batches = workers.run("edgeopt.data:read_spread", samples, GOLDEN_SAMPLES, 1)
    device, artifact = results.devices.get(target.name), results.artifact(side.build)
    outputs: list[Arrays] = (
        device.run_each(artifact, batches, target.batch) if device is not None
        else workers.run("edgeopt.backends:run_each", artifact, batches, target.batch,
                         environ=thread_environment(target.threads))
    )  # fmt: skip
    return tuple(Golden(inputs=given, outputs=made) for given, made in zip(raw, outputs, strict=True))


def _fingerprint(side: Side, target: TargetPlan, results: Results) -> dict[str, Reference]:
    """How the winner sees the calibration samples, some of them on a device; nothing where the recipe has none."""
    samples, device = results.splits().calibration, results.devices.get(target.name)
    artifact = results.artifact(side.build)
    if samples is None:
        return {}
    if device is not None:
        _, given = workers.run("edgeopt.data:read_spread", samples, SENT_SAMPLES, 1)
        made = device.run_each(artifact, given, target.batch)
        outputs = ({name: array[None] for name, array in one.items()} for one in made)
        return fingerprint_of(artifact, zip(given, outputs, strict=True))
    found: dict[str, Reference] = workers.run(
        "edgeopt.bundle.fingerprint:take_fingerprint", artifact, samples, target.batch,
        environ=thread_environment(target.threads),
    )  # fmt: skip
    return found


def _deliver_network(side: Side, results: Results, folder: Path) -> None:
    """The torch network after the last pass that left it in that form, loadable where it lies."""
    models = [results.model(step) for step in side.steps if step in results.found]
    model = next((model for model in reversed(models) if isinstance(model.value, TorchValue)), None)
    if model is not None:
        write_model(_with_sources(model, folder), folder)


def _with_sources(model: Model, folder: Path) -> Model:
    """Copy the factory's file, and those beside it that it imports, into `folder`; the model with its factory there."""
    assert isinstance(model.value, TorchValue)
    file, _, attribute = model.value.factory.partition(":")
    path = (model.sources / file).resolve()
    for source in keys.local_closure(path):
        files.copy(source, folder / source.relative_to(path.parent))
    value = model.value.model_copy(update={"factory": f"{path.name}:{attribute}"})
    return model.model_copy(update={"value": value})
