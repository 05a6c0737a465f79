"""An earlier release that stands beside the candidates: its artifact, taken out of its bundle.

Two times are never compared: what the old bundle's manifest says of latency is not looked at, it is timed again.
"""

from __future__ import annotations

import platform
from pathlib import Path

from edgeopt import files
from edgeopt.bundle import Bundle
from edgeopt.bundle.unpack import unpack_bundle
from edgeopt.bundle.verify import load_bundle
from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import UsageError
from edgeopt.model import TensorSpec, write_artifact

BUNDLE = "bundle"
PREPROCESS_FILE = "preprocess.json"

OTHER = "give the bundle of an earlier release of the same recipe"


def take_artifact(
    path: Path, folder: Path, target: str, inputs: tuple[TensorSpec, ...], classes: tuple[str, ...] | None,
    settings: dict[str, int],
) -> str:  # fmt: skip
    """Verify the bundle at `path`, and leave its artifact, with `settings`, and its preprocessing in `folder`.

    Returns:
        What it is, in a few words.

    Raises:
        UsageError: it is for another target or machine, or takes other inputs or classes.
        TrustError: it is not what its manifest says.
    """
    if not path.exists():
        raise UsageError(f"there is no baseline `{path}`", OTHER)
    bundle = load_bundle(path) if path.is_dir() else unpack_bundle(path, folder / BUNDLE)
    manifest = bundle.manifest
    _check(bundle, path, target, inputs, classes)
    for file in manifest.artifact.files:
        files.copy(bundle.artifact.folder / file.path, folder / file.path)
    artifact = manifest.artifact.model_copy(update={"settings": manifest.artifact.settings | settings})
    write_artifact(artifact, folder)
    files.write_text(folder / PREPROCESS_FILE, manifest.preprocess.model_dump_json())
    if (folder / BUNDLE).is_dir():
        files.remove(folder / BUNDLE)
    return f"{manifest.name} {manifest.digest()[:12]}: {manifest.candidate}"


def load_preprocess(folder: Path) -> Preprocess:
    """What prepares the samples of the artifact that `take_artifact` left in `folder`."""
    return Preprocess.model_validate_json((folder / PREPROCESS_FILE).read_bytes())


def _check(
    bundle: Bundle, path: Path, target: str, inputs: tuple[TensorSpec, ...], classes: tuple[str, ...] | None
) -> None:
    manifest = bundle.manifest
    if manifest.target != target:
        raise UsageError(f"the baseline `{path}` is for target `{manifest.target}`, not for `{target}`", OTHER)
    machine = manifest.compatible.get("machine", platform.machine())
    if machine != platform.machine():
        what = f"the baseline `{path}` is for {machine}, and this machine is {platform.machine()}"
        raise UsageError(what, "compare them on a machine that runs both")
    if manifest.classes != classes:
        raise UsageError(f"the baseline `{path}` has other classes than the recipe", OTHER)
    theirs, ours = (_shapes(specs) for specs in (manifest.artifact.inputs, inputs))
    if theirs != ours:
        raise UsageError(f"the baseline `{path}` takes {_tell(theirs)}, the network {_tell(ours)}", OTHER)


def _shapes(specs: tuple[TensorSpec, ...]) -> dict[str, tuple[str, tuple[int | str, ...]]]:
    return {spec.name: (spec.dtype, spec.shape[1:]) for spec in specs}


def _tell(shapes: dict[str, tuple[str, tuple[int | str, ...]]]) -> str:
    return ", ".join(f"`{name}` {dtype} {list(shape)}" for name, (dtype, shape) in shapes.items())
