"""A device that a target is built and measured on, seen from the host: what a step does here, it does there.

Each piece of work is a job: plain data, and files that lie on the device under their digests, so that none is sent
twice. What comes back is signed with the device's own key, and names the job and a nonce: see `device/measure.py`.
The methods take and give what their namesakes do that work on this machine.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from edgeopt import files
from edgeopt.backends import Arrays
from edgeopt.bundle.signing import public_key, verify
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
from edgeopt.environment import isa_summary
from edgeopt.errors import BuildError, TrustError, UsageError
from edgeopt.fleet.reach import ask_status, find_unfit
from edgeopt.model import Artifact, Model, load_artifact
from edgeopt.transports import DeviceTransport
from edgeopt.validation.energy_samples import EnergyProtocol, EnergySamples
from edgeopt.validation.latency_samples import LatencySamples, Protocol
from edgeopt.validation.predictions import PREDICTIONS_FILE
from edgeopt.validation.sustained import SustainedSamples
from edgeopt.validation.timing import SideError
from edgeopt.workers import Progress, ignore_progress

#: what one job may take: a build may search for an hour, and a look of timing is bounded by its protocol
JOB_SECONDS = 14_400.0


class RemoteDevice:
    """A device that answers.

    Args:
        name: what people call it.
        transport: open, until whoever opened it closes it; it pins the device's key.

    Raises:
        UsageError: no key is pinned.
        DeviceError: it speaks another protocol, or cannot be reached.
        TrustError: it has another key.
    """

    def __init__(self, name: str, transport: DeviceTransport) -> None:
        if transport.pins.device_key is None:
            what = f"no key of `{name}` is pinned: whoever answers there could have measured anything"
            raise UsageError(what, "add `device_key:` to the inventory, as `edgeopt device init` printed it there")
        self.name, self._transport = name, transport
        status = ask_status(transport, name)
        self._key = public_key(status.key)  # which is the one that is pinned
        self.environment = status.environment
        #: why figures that are taken there now would not be those of a quiet, cool board
        self.unfit = tuple(find_unfit(status.health))

    def describe(self) -> str:
        """One short line for people."""
        return f"{self.environment['cpu']}, {isa_summary(tuple(self.environment['isa']))} ({self.name})"

    def build(
        self, backend: str, options: Mapping[str, Any], model: Model, context: Mapping[str, Any], folder: Path,
        progress: Progress = ignore_progress,
    ) -> Artifact:  # fmt: skip
        """Build an ONNX model there, and fetch the artifact into `folder`.

        Raises:
            BuildError: it cannot be built there.
        """
        arguments = {
            "backend": backend, "options": dict(options), "model": model.model_dump(mode="json"),
            "context": dict(context),
        }  # fmt: skip
        progress(f"build on {self.name}", None)
        self._do("build", {f"{MODEL_FOLDER}/{model.value.file}": model.path}, arguments, folder)
        return load_artifact(folder)

    def predict(
        self, artifact: Artifact, samples: Path, inputs: Sequence[str], options: Mapping[str, Any], folder: Path,
        progress: Progress = ignore_progress,
    ) -> None:  # fmt: skip
        """Predict prepared samples, the rows of an `.npz` file, there, and fetch the predictions into `folder`.

        Args:
            options: `batch`, `threads` and the names of `metrics`.
        """
        progress(f"predict on {self.name}", None)
        arguments = {"artifact": artifact.model_dump(mode="json"), "inputs": list(inputs), **options}
        given = {SAMPLES: samples, **_files_of(artifact, ARTIFACT_FOLDER)}
        self._do("predict", given, arguments, folder, only=PREDICTIONS_FILE)

    def run_each(self, artifact: Artifact, samples: list[Arrays], batch: int) -> list[Arrays]:
        """The outputs of each sample: see `backends.run_each`."""
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            files.write_bytes(folder / SAMPLES, pack_rows(samples))
            arguments = {
                "artifact": artifact.model_dump(mode="json"), "batch": batch,
                "threads": int(artifact.settings.get("threads", 1)),
            }  # fmt: skip
            given = {SAMPLES: folder / SAMPLES, **_files_of(artifact, ARTIFACT_FOLDER)}
            self._do("run", given, arguments, folder / "made", only=OUTPUTS)
            return load_rows(folder / "made" / OUTPUTS)

    def time_models(
        self, backend: str, options: Mapping[str, Any], models: Sequence[Model], threads: int, batch: int, *,
        progress: Progress = ignore_progress,
    ) -> list[float]:  # fmt: skip
        """(models,) rough milliseconds of ONNX models there: see `validation.ranking.time_models`.

        Raises:
            BuildError: one of them cannot be built or run there.
        """
        progress(f"{len(models)} graphs on {self.name}", None)
        arguments = {
            "backend": backend, "options": dict(options), "threads": threads, "batch": batch,
            "models": [model.model_dump(mode="json") for model in models],
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / GRAPHS
            graphs = [{"bytes": np.frombuffer(model.path.read_bytes(), np.uint8)} for model in models]
            files.write_bytes(path, pack_rows(graphs))
            measured = self._do("rank", {GRAPHS: path}, arguments, Path(place) / "made", keep=False)
        return [float(ms) for ms in measured.value["ms"]]

    def measure_sets(
        self, sides: Mapping[str, Artifact], inputs: Sequence[Arrays], protocol: Protocol, sets: int, lock: Path, *,
        so_far: LatencySamples | None = None, progress: Progress = ignore_progress,
    ) -> LatencySamples:  # fmt: skip
        """Time the sides there: see `validation.timing.measure_sets`; the lock is the device's own.

        Raises:
            SideError: a side crashed, hung or could not be opened.
        """
        progress(f"{sets} sets on {self.name}", None)
        arguments = {"protocol": asdict(protocol), "sets": sets}
        found = self._measure("time", sides, inputs, arguments, so_far)
        assert isinstance(found, bytes)  # only energy may have no counter
        return LatencySamples.from_npz(found)

    def run_sustained(
        self, side: str, artifact: Artifact, inputs: Sequence[Arrays], protocol: Protocol, seconds: float, lock: Path,
        *, progress: Progress = ignore_progress,
    ) -> SustainedSamples:  # fmt: skip
        """Run one side there for so long: see `validation.sustained.run_sustained`.

        Raises:
            SideError: it crashed, hung or could not be opened.
        """
        progress(f"{side} runs for {seconds / 60:g} min on {self.name}", None)
        found = self._measure("sustain", {side: artifact}, inputs, {"protocol": asdict(protocol), "seconds": seconds})
        assert isinstance(found, bytes)
        return SustainedSamples.from_npz(found)

    def run_energy(
        self, sides: Mapping[str, Artifact], inputs: Sequence[Arrays], protocol: EnergyProtocol,
        progress: Progress = ignore_progress,
    ) -> EnergySamples | str:  # fmt: skip
        """What the sides take by the device's own counter, or why it has none: see `validation.energy.run_energy`.

        Raises:
            SideError: a side crashed, hung or could not be opened.
        """
        progress(f"energy on {self.name}", None)
        found = self._measure("energy", sides, inputs, {"protocol": asdict(protocol)})
        return EnergySamples.from_npz(found) if isinstance(found, bytes) else found

    def _measure(
        self, action: str, sides: Mapping[str, Artifact], inputs: Sequence[Arrays], arguments: Mapping[str, Any],
        so_far: LatencySamples | None = None,
    ) -> bytes | str:  # fmt: skip
        """The samples of sides as they were measured there, or why nothing could be."""
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            files.write_bytes(folder / SAMPLES, pack_rows(list(inputs)))
            given = {SAMPLES: folder / SAMPLES}
            if so_far is not None:
                files.write_bytes(folder / SO_FAR, so_far.to_npz())
                given[SO_FAR] = folder / SO_FAR
            for number, artifact in enumerate(sides.values()):
                given |= _files_of(artifact, f"{ARTIFACT_FOLDER}/{number}")
            described = {name: artifact.model_dump(mode="json") for name, artifact in sides.items()}
            measured = self._do(action, given, {"sides": described, **arguments}, folder / "made")
            failed = measured.value.get("failed")
            if failed is not None:
                raise SideError(failed["message"], failed["hint"], failed["log"], failed["side"])
            if "absent" in measured.value:
                return str(measured.value["absent"])
            return (folder / "made" / MEASURED_FILE).read_bytes()

    def _do(
        self, action: str, given: Mapping[str, Path], arguments: Mapping[str, Any], folder: Path, only: str = "",
        *, keep: bool = True,
    ) -> Measured:  # fmt: skip
        """Have a job done, and fetch the files that came of it, or the one of them that is wanted, into `folder`.

        Args:
            keep: leave the files that are given there, for other jobs that want them.
        """
        digests = {name: files.hash_file(path) for name, path in given.items()}
        nonce = secrets.token_hex(16)
        job = Job.model_validate({"nonce": nonce, "action": action, "files": digests, "arguments": dict(arguments)})
        sent = [self._transport.put(path, digests[name]) for name, path in given.items()]
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / f"{nonce}.json"
            path.write_text(json.dumps(job.model_dump(mode="json")), encoding="utf8")
            there = self._transport.put(path, path.name)
        useless = (there, *(() if keep else sent))
        try:
            answer = self._transport.run("measure", there, seconds=JOB_SECONDS)
        except BuildError:  # it answers, so it can tidy up
            self._discard(useless)
            raise
        self._discard(useless)
        measured, results = self._verified(answer, job)
        for name, digest in measured.files.items():
            if only in ("", name):
                files.make_folder((folder / name).parent)
                self._transport.get(f"{results}/{name}", folder / name)
                if files.hash_file(folder / name) != digest:
                    raise TrustError(f"`{name}` from `{self.name}` is not what it signed", "run again")
        return measured

    def _discard(self, names: Iterable[str]) -> None:
        for name in names:
            self._transport.discard(name)

    def _verified(self, answer: Any, job: Job) -> tuple[Measured, str]:
        """What a device says of a job, proven to be its own and of this very job, and where the files lie there.

        Raises:
            TrustError: it is not.
        """
        try:
            found = Answer.model_validate(answer)
            payload = verify(found.envelope.encode(), PAYLOAD_TYPE, [self._key])
            measured = Measured.model_validate_json(payload)
        except (TrustError, ValidationError) as error:
            what = f"what `{self.name}` measured is not signed with its key"
            raise TrustError(what, "see whether the inventory pins the right device") from error
        if (measured.nonce, measured.job, measured.protocol) != (job.nonce, job.digest(), PROTOCOL):
            raise TrustError(f"`{self.name}` answered another question than it was asked", "run again")
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in measured.files):
            raise TrustError(f"`{self.name}` names files outside of its answer", "see what runs there")
        return measured, found.folder


def _files_of(artifact: Artifact, folder: str) -> dict[str, Path]:
    return {f"{folder}/{file.path}": artifact.folder / file.path for file in artifact.files}
