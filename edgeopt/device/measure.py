"""The gate's work on the device itself: build, predict, run and time what a host has sent, and sign what was found.

A job is plain data; what it works on lies in the home's `incoming`, each file under its SHA-256. The answer names the
host's nonce, the digest of the job and of each file that came of it, and this machine; it is signed with the device's
key, which the host's inventory pins. So nobody else can have measured it, nor can it be an answer of another day. What
the figures mean is for the host to judge: nothing here knows a budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeopt import environment, files, workers
from edgeopt.backends import Arrays
from edgeopt.bundle.signing import load_signer, sign
from edgeopt.context import BUILDS, Context, Memo
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.device.busy import hold_board
from edgeopt.device.home import Home
from edgeopt.device.job import (
    ARTIFACT_FOLDER,
    GRAPHS,
    MEASURED_FILE,
    MODEL_FOLDER,
    OUTPUTS,
    PAYLOAD_TYPE,
    SAMPLES,
    SO_FAR,
    Answer,
    Job,
    Measured,
    load_rows,
    pack_rows,
)
from edgeopt.device.status import PROTOCOL
from edgeopt.errors import TrustError, UsageError
from edgeopt.model import Artifact, Model, OnnxValue, canonical_json, list_files, write_artifact
from edgeopt.validation.energy import explain_absence, find_counter, run_energy
from edgeopt.validation.energy_samples import EnergyProtocol, EnergySamples
from edgeopt.validation.latency_samples import LatencySamples, Protocol
from edgeopt.validation.subject import thread_environment
from edgeopt.validation.sustained import SustainedSamples, run_sustained
from edgeopt.validation.timing import SideError, measure_sets
from edgeopt.workers import Limits, Progress, ignore_progress

MEASURED, MEMOS = "measured", "memos"

#: results that nobody has fetched by then are removed
KEPT_SECONDS = 86_400.0

#: of one job: it stops what hangs, not what is slow
LIMITS = Limits(seconds=14_400.0)


def run_job(home: Home, job: Job, progress: Progress = ignore_progress) -> Answer:
    """Do a job, and leave what came of it in the home.

    Raises:
        TrustError: a file of the job is not the one that was sent.
        BuildError: it cannot be built or run here.
        DeviceError: another job holds the board.
    """
    shelf = home.folder / MEASURED
    files.make_folder(shelf)
    files.sweep(shelf)
    _drop_old(shelf)
    with hold_board(), files.scratch(shelf) as folder:
        given, made = folder / "given", folder / "made"
        _gather(home, job, given)
        files.make_folder(made)
        value = ACTIONS[job.action](_Task(home, job.arguments, given, made, progress))
        names = sorted(str(path.relative_to(made)) for path in made.rglob("*") if path.is_file())
        found = {file.path: file.sha256 for file in list_files(made, names)}
        place = shelf / job.nonce
        files.publish(made, place)
    measured = Measured(
        protocol=PROTOCOL, nonce=job.nonce, job=job.digest(), files=found, value=value,
        environment=environment.fingerprint(),
    )  # fmt: skip
    payload = canonical_json(measured.model_dump(mode="json"))
    return Answer(envelope=sign(payload, PAYLOAD_TYPE, [load_signer(home.key)]).decode(), folder=str(place))


def _gather(home: Home, job: Job, given: Path) -> None:
    """The files of the job under their names, each hashed on the way."""
    files.make_folder(given)
    for name, digest in job.files.items():
        source = home.incoming / digest
        if not source.is_file():
            raise UsageError(f"`{name}` of the job was never sent", "send the job again")
        files.copy(source, given / name)
        if files.hash_file(given / name) != digest:
            files.remove(source)
            raise TrustError(f"`{name}` of the job is not what was sent", "send it again")


def _drop_old(shelf: Path) -> None:
    for path in shelf.iterdir():
        if not path.name.startswith(files.TEMPORARY) and path.stat().st_mtime < time.time() - KEPT_SECONDS:
            files.remove(path)


class _Task:
    """A job under way: its arguments, the folder of what was given, and that of what comes of it."""

    def __init__(self, home: Home, arguments: Mapping[str, Any], given: Path, made: Path, progress: Progress) -> None:
        self.home, self.arguments, self.given, self.made, self.progress = home, arguments, given, made, progress

    def artifact(self, description: Mapping[str, Any], folder: str = ARTIFACT_FOLDER) -> Artifact:
        return Artifact.model_validate(description).at(self.given / folder)

    def run(self, function: str, *arguments: Any, environ: dict[str, str] | None = None) -> Any:
        return workers.run(
            function,
            *arguments,
            limits=LIMITS,
            progress=self.progress,
            environ=environ,
            name=function.partition(":")[2],
        )


def _build(task: _Task) -> dict[str, Any]:
    asked = task.arguments
    folder = task.given / MODEL_FOLDER
    model = Model.model_validate(asked["model"]).at(folder, folder)
    context = Context(folder=task.made, memo=Memo(task.home.folder / MEMOS, BUILDS), **asked["context"])
    artifact: Artifact = task.run("edgeopt.backends:build_artifact", asked["backend"], model, context, asked["options"])
    write_artifact(artifact, task.made)
    return {}


def _predict(task: _Task) -> dict[str, Any]:
    asked = task.arguments
    samples = Samples(format="npz", path=task.given / SAMPLES, inputs=tuple(asked["inputs"]), preprocess=Preprocess())
    task.run(
        "edgeopt.validation.predicting:run_predictions", task.artifact(asked["artifact"]), samples, asked["batch"],
        task.made, asked["metrics"], environ=thread_environment(asked["threads"]),
    )  # fmt: skip
    return {}


def _run(task: _Task) -> dict[str, Any]:
    asked, given = task.arguments, load_rows(task.given / SAMPLES)
    outputs: list[Arrays] = task.run(
        "edgeopt.backends:run_each", task.artifact(asked["artifact"]), given, asked["batch"],
        environ=thread_environment(asked["threads"]),
    )  # fmt: skip
    files.write_bytes(task.made / OUTPUTS, pack_rows(outputs))
    return {}


def _rank(task: _Task) -> dict[str, Any]:
    """Rough times of graphs, which lie in one file: there may be dozens."""
    asked, models = task.arguments, list[Model]()
    for number, (described, graph) in enumerate(zip(asked["models"], load_rows(task.given / GRAPHS), strict=True)):
        folder = task.given / MODEL_FOLDER / str(number)
        model = Model.model_validate(described).model_copy(update={"value": OnnxValue(), "folder": folder})
        files.write_bytes(model.path, graph["bytes"].tobytes())
        models.append(model)
    times: list[float] = task.run(
        "edgeopt.validation.ranking:time_models", asked["backend"], asked["options"], models, asked["threads"],
        asked["batch"], environ=thread_environment(asked["threads"]),
    )  # fmt: skip
    return {"ms": times}


def _time(task: _Task) -> dict[str, Any]:
    """Sets of workers, timed as they are on a host."""
    asked, before = task.arguments, task.given / SO_FAR
    so_far = LatencySamples.from_npz(before.read_bytes()) if before.is_file() else None
    return _measure(
        task,
        lambda sides, inputs: measure_sets(
            sides, inputs, _protocol(asked), asked["sets"], environment.timing_lock(), so_far=so_far,
            progress=task.progress,
        ),
    )  # fmt: skip


def _sustain(task: _Task) -> dict[str, Any]:
    """A long run of the one side."""
    asked = task.arguments

    def run(sides: dict[str, Artifact], inputs: list[Arrays]) -> SustainedSamples:
        ((name, artifact),) = sides.items()
        lock, seconds = environment.timing_lock(), float(asked["seconds"])
        return run_sustained(name, artifact, inputs, _protocol(asked), seconds, lock, progress=task.progress)

    return _measure(task, run)


def _count_energy(task: _Task) -> dict[str, Any]:
    """What the sides take by the board's own counter; why not, where it has none."""
    counter = find_counter()
    if counter is None:
        return {"absent": explain_absence()}
    protocol, lock = EnergyProtocol(**task.arguments["protocol"]), environment.timing_lock()
    return _measure(
        task, lambda sides, inputs: run_energy(sides, inputs, counter, protocol, lock, progress=task.progress)
    )


def _measure(
    task: _Task,
    measure: Callable[[dict[str, Artifact], list[Arrays]], LatencySamples | SustainedSamples | EnergySamples],
) -> dict[str, Any]:
    """Leave the samples of sides; one that fails is named, so that the host goes on without it."""
    sides = {
        name: task.artifact(description, f"{ARTIFACT_FOLDER}/{number}")
        for number, (name, description) in enumerate(task.arguments["sides"].items())
    }
    try:
        samples = measure(sides, load_rows(task.given / SAMPLES))
    except SideError as error:
        return {"failed": {"side": error.side, "message": error.message, "hint": error.hint, "log": error.log}}
    files.write_bytes(task.made / MEASURED_FILE, samples.to_npz())
    return {}


def _protocol(asked: Mapping[str, Any]) -> Protocol:
    return Protocol(**asked["protocol"] | {"looks": tuple(asked["protocol"]["looks"])})


ACTIONS: dict[str, Callable[[_Task], dict[str, Any]]] = {
    "build": _build, "predict": _predict, "run": _run, "rank": _rank, "time": _time, "sustain": _sustain,
    "energy": _count_energy,
}  # fmt: skip
