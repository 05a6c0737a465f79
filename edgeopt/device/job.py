"""What a host asks a device to measure, and what the device signs: plain data that both sides read.

A job's files lie in the home's `incoming`, each under its SHA-256, so that none is sent twice.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from edgeopt.backends import Arrays
from edgeopt.device.status import PROTOCOL
from edgeopt.errors import DeviceError, UsageError
from edgeopt.model import Value, canonical_json
from edgeopt.validation.predictions import pack_arrays

PAYLOAD_TYPE = "application/vnd.edgeopt.measured+json"

#: names of files in a job and in its result
MODEL_FOLDER, GRAPHS, ARTIFACT_FOLDER, SAMPLES, SO_FAR, OUTPUTS, MEASURED_FILE = (
    "model", "graphs.npz", "artifact", "samples.npz", "so_far.npz", "outputs.npz", "measured.npz",
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
    action: Literal["build", "predict", "run", "rank", "time", "sustain", "energy"]
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
