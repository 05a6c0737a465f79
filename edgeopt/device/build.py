"""Build on the device what `compile` only planned, and leave it as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from edgeopt import files, workers
from edgeopt.errors import UsageError
from edgeopt.model import ARTIFACT_FILE, Artifact, load_artifact, write_artifact
from edgeopt.store import Store
from edgeopt.workers import Limits, Progress, ignore_progress


def build_planned(folder: Path, out: Path, limits: Limits, progress: Progress = ignore_progress) -> Artifact:
    """Build the artifact that lies planned in `folder` into `out`, in a process of its own.

    Raises:
        UsageError: there is no planned artifact in `folder`, or something stands at `out`.
        TrustError: a file in `folder` is not what was planned.
        BuildError: it cannot be built, or its outputs are not what they should be.
    """
    planned = _load(folder)
    if out.exists():
        raise UsageError(f"`{out}` is there already", "choose another folder with `--out`")
    store = Store()
    with store.in_use(), files.scratch(out.absolute().parent) as scratch:
        artifact: Artifact = workers.run(
            "edgeopt.backends:build_planned", planned, scratch, store.memos,
            limits=limits, progress=progress, name=f"build of `{folder}`",
        )  # fmt: skip
        write_artifact(artifact, scratch)
        files.publish(scratch, out.absolute())
    return artifact.at(out)


def _load(folder: Path) -> Artifact:
    path = folder / ARTIFACT_FILE
    try:
        artifact = load_artifact(folder)
    except (OSError, ValidationError) as error:
        what = f"there is no `{path}`" if isinstance(error, FileNotFoundError) else f"`{path}` is no artifact"
        raise UsageError(what, "name the folder of a candidate that `edgeopt compile` planned") from error
    if not artifact.unbuilt:
        raise UsageError(f"`{folder}` holds what is built already", "it is opened as it is")
    return artifact
