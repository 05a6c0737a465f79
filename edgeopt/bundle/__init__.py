"""What ships: a folder, or one `.edgeopt` file, that a manifest describes to the last byte.

    release.json      once it is signed: who vouches for the manifest, its counter and channel, until when
    manifest.json     what this is, every other file with its digest and size, what was measured and judged
    model/            the files of the winner's artifact
    golden.npz        a few raw samples, and what the winner made of them
    recipe.yaml       the recipe that asked for it

`release` and `manifest` define the first two, `golden` the fourth; `pack` makes a bundle, `archive` defines the one
file, `verify` and `unpack` read what may come from anywhere, `trust` says whose signature counts. The same content
gives the same bytes, with no clock or host name in them. A device reads bundles with the base install alone: no torch,
no onnx.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeopt.bundle.golden import Golden, load_golden
from edgeopt.bundle.manifest import GOLDEN_FILE, MODEL_FOLDER, Manifest
from edgeopt.model import Artifact


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder whose every file has been verified."""

    folder: Path
    manifest: Manifest
    #: the envelope that was signed, if any, as it stands: see `edgeopt.bundle.release`
    release: bytes | None = None

    @property
    def artifact(self) -> Artifact:
        """What the backend opens."""
        return self.manifest.artifact.at(self.folder / MODEL_FOLDER)

    def golden(self) -> tuple[Golden, ...]:
        return load_golden(self.folder / GOLDEN_FILE)
