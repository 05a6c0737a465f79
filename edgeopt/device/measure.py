"""The gate's work on the device itself: build, predict, run and time what a host has sent, and sign what was found.

A job is plain data; what it works on lies in the home's `incoming`, each file under its SHA-256. The answer names the
host's nonce, the digest of the job and of each file that came of it, and this machine; it is signed with the device's
key, which the host's inventory pins. So nobody else can have measured it, nor can it be an answer of another day. What
the figures mean is for the host to judge: nothing here knows a budget.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from edgeopt import environment, files, workers
from edgeopt.backends import Arrays
from edgeopt.bundle.signing import load_signer, sign
from edgeopt.context import BUILDS, Context, Memo
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.device.busy import hold_board
from edgeopt.device.home import Home
from edgeopt.device.status import PROTOCOL
from edgeopt.errors import DeviceError, TrustError, UsageError
from edgeopt.model import Artifact, Model, Value, canonical_json, list_files, write_artifact
from edgeopt.validation.latency_samples import LatencySamples, Protocol
from edgeopt.validation.predictions import pack_arrays
from edgeopt.validation.subject import thread_environment
from edgeopt.validation.timing import SideError, measure_sets
from edgeopt.workers import Limits, Progress, ignore_progress

PAYLOAD_TYPE = "application/vnd.edgeopt.measured+json"

MEASURED, MEMOS = "measured", "memos"

#: results that nobody has fetched by then are removed
KEPT_SECONDS = 86_400.0

#: of one job: it stops what hangs, not what is slow
LIMITS = Limits(seconds=14_400.0)

#: names of files in a job and in its result
MODEL_FOLDER, ARTIFACT_FOLDER, SAMPLES, SO_FAR, OUTPUTS, LATENCY = (
    "model", "artifact", "samples.npz", "so_far.npz", "outputs.npz", "latency.npz",
)  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Job(Value):
    """What a host asks for.

    Attributes:
        protocol: of what host and device say to one another.
        nonce: of the host's choice, and in the answer.
        files: path in the job's folder → SHA-256, under which it lies in `incoming`.
        arguments: plain data of the action.
    """

    protocol: int = PROTOCOL
    nonce: str = Field(pattern=r"^[0-9a-f]{32}$")
    action: Literal["build", "predict", "run", "time"]
    files: dict[str, str] = {}
    arguments: dict[str, Any] = {}

    def digest(self) -> str:
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()


class Measured(Value):
    """What is signed: the answer to one job. `value` is plain data; `files` are those of the result, by digest."""

    protocol: int
    nonce: str
    job: str
    files: dict[str, str]
    value: dict[str, Any]
    environment: dict[str, Any]


class Answer(Value):
    """What `device measure` prints: the signed envelope, and where the files of the result lie."""

    envelope: str
    folder: str


def load_job(path: Path) -> Job:
    """The job in a file.

    Raises:
        UsageError: there is none.
        DeviceError: it is of another protocol.
    """
    try:
        data = json.loads(path.read_bytes())
        found = data.get("protocol")
        if found != PROTOCOL:
            side = "this device's" if isinstance(found, int) and found > PROTOCOL else "the host's"
            what = f"the host speaks protocol {found}, and this device {PROTOCOL}"
            raise DeviceError(what, f"update {side} edgeopt")
        job = Job.model_validate(data)
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        raise UsageError(f"`{path}` holds no job", "`edgeopt compile` makes them") from error
    for name, digest in job.files.items():
        if not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
            raise UsageError(f"the job names a file `{name}` that is none", "`edgeopt compile` makes jobs")
    return job


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


def _time(task: _Task) -> dict[str, Any]:
    """Sets of workers, timed as they are on a host; a side that fails is named, so that the host goes on without it."""
    asked = task.arguments
    sides = {
        name: task.artifact(description, f"{ARTIFACT_FOLDER}/{number}")
        for number, (name, description) in enumerate(asked["sides"].items())
    }
    protocol = Protocol(**asked["protocol"] | {"looks": tuple(asked["protocol"]["looks"])})
    before = task.given / SO_FAR
    so_far = LatencySamples.from_npz(before.read_bytes()) if before.is_file() else None
    try:
        samples = measure_sets(
            sides, load_rows(task.given / SAMPLES), protocol, asked["sets"], environment.timing_lock(), so_far=so_far,
            progress=task.progress,
        )  # fmt: skip
    except SideError as error:
        return {"failed": {"side": error.side, "message": error.message, "hint": error.hint, "log": error.log}}
    files.write_bytes(task.made / LATENCY, samples.to_npz())
    return {}


ACTIONS: dict[str, Callable[[_Task], dict[str, Any]]] = {
    "build": _build, "predict": _predict, "run": _run, "time": _time,
}  # fmt: skip


def pack_rows(rows: list[Arrays]) -> bytes:
    """Arrays by name, row after row, as the bytes of an .npz file; equal rows give equal bytes."""
    return pack_arrays({f"{number}/{name}": array for number, row in enumerate(rows) for name, array in row.items()})


def load_rows(path: Path) -> list[Arrays]:
    """The rows that `pack_rows` packed."""
    rows: dict[int, Arrays] = {}
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
        for key in archive.files:
            number, _, name = key.partition("/")
            rows.setdefault(int(number), {})[name] = archive[key]
    return [rows[number] for number in sorted(rows)]
