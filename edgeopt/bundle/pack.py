"""Make a bundle: the folder of a winner, and the one file to ship."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeopt import files
from edgeopt.bundle import Bundle
from edgeopt.bundle.archive import is_compressed, pack_members
from edgeopt.bundle.fingerprint import Reference
from edgeopt.bundle.golden import Golden, pack_golden
from edgeopt.bundle.manifest import (
    BUNDLE_LIMIT_BYTES,
    GOLDEN_FILE,
    MANIFEST_FILE,
    MANIFEST_LIMIT_BYTES,
    MODEL_FOLDER,
    RECIPE_FILE,
    RELEASE_FILE,
    Manifest,
    Smoke,
)
from edgeopt.bundle.verify import load_bundle, verify_bundle
from edgeopt.compression import SUFFIX, compress
from edgeopt.data.preprocess import Preprocess
from edgeopt.errors import BuildError, TrustError, UsageError
from edgeopt.model import Artifact, list_files


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle: fields as in `Manifest`; the artifact where its files lie, the recipe as it stands."""

    name: str
    target: str
    candidate: str
    artifact: Artifact
    preprocess: Preprocess
    classes: tuple[str, ...] | None
    compatible: dict[str, str]
    recipe: bytes
    golden: tuple[Golden, ...]
    measurements: tuple[dict[str, Any], ...]
    verdicts: tuple[dict[str, Any], ...]
    libraries: dict[str, str] = field(default_factory=dict)
    smoke: Smoke = field(default_factory=Smoke)
    fingerprint: dict[str, Reference] = field(default_factory=dict)


def pack_bundle(contents: Contents, destination: Path) -> Bundle:
    """Make the bundle's folder at `destination`, replacing what stood there.

    Raises:
        BuildError: it would be larger than a bundle may be.
        TrustError: a file of the artifact is not the one that was measured.
        MissingError: the disk is full.
    """
    if contents.artifact.size_bytes > BUNDLE_LIMIT_BYTES:
        raise BuildError(
            f"`{contents.candidate}` has {contents.artifact.size_bytes} bytes, at most {BUNDLE_LIMIT_BYTES}"
        )
    with files.scratch(destination.parent) as folder:
        manifest = _fill(contents, folder)
        files.publish(folder, destination)
    return Bundle(destination, manifest)


def pack_file(folder: Path, path: Path) -> Bundle:
    """Write the bundle in `folder` as one file to `path`; the same bundle gives the same bytes.

    A file whose name ends in `.xz` is compressed.

    Raises:
        TrustError: the folder is not what its manifest says.
        MissingError: the disk is full.
    """
    bundle = load_bundle(folder)
    files.sweep(path.absolute().parent)
    signed = [] if bundle.release is None else [(RELEASE_FILE, bundle.release)]
    listed = [(file.path, (folder / file.path).read_bytes()) for file in bundle.manifest.files]
    content = pack_members([*signed, (MANIFEST_FILE, bundle.manifest.to_bytes()), *listed])
    files.write_bytes(path, compress(content) if path.suffix == SUFFIX else content)
    return bundle


def compress_file(bundle: Path, path: Path) -> Manifest:
    """Write a bundle file compressed to `path`; what it is compressed from is compared with its manifest first.

    Raises:
        UsageError: there is no such file, or it is compressed.
        TrustError: it is not what its manifest says.
        MissingError: the disk is full.
    """
    manifest = verify_bundle(bundle).manifest
    if bundle.is_dir():
        raise UsageError(f"`{bundle}` is a bundle's folder", "compress its `.edgeopt` file")
    if is_compressed(bundle):
        raise UsageError(f"`{bundle}` is compressed already", "use it as it is")
    files.write_bytes(path, compress(bundle.read_bytes()))
    return manifest


def _fill(contents: Contents, folder: Path) -> Manifest:
    artifact = contents.artifact
    names = [file.path for file in artifact.files]
    for name in names:
        files.copy(artifact.folder / name, folder / MODEL_FOLDER / name)
    # The copies are compared, not the originals: what is shipped must be what was measured.
    if list_files(folder / MODEL_FOLDER, names) != artifact.files:
        raise TrustError(f"the files of `{contents.candidate}` changed after they were measured", "compile again")
    files.write_bytes(folder / GOLDEN_FILE, pack_golden(contents.golden))
    files.write_bytes(folder / RECIPE_FILE, contents.recipe)
    manifest = _describe(contents, folder, [*(f"{MODEL_FOLDER}/{name}" for name in names), GOLDEN_FILE, RECIPE_FILE])
    files.write_bytes(folder / MANIFEST_FILE, manifest.to_bytes())
    return manifest


def _describe(contents: Contents, folder: Path, names: list[str]) -> Manifest:
    manifest = Manifest(
        name=contents.name,
        target=contents.target,
        candidate=contents.candidate,
        # Facts tell of the build (how long it took), not of what was built.
        artifact=contents.artifact.model_copy(update={"facts": {}}),
        files=list_files(folder, names),
        preprocess=contents.preprocess,
        classes=contents.classes,
        compatible=contents.compatible,
        measurements=contents.measurements,
        verdicts=contents.verdicts,
        libraries=contents.libraries,
        smoke=contents.smoke,
        fingerprint=contents.fingerprint,
    ).complete()
    if len(manifest.to_bytes()) > MANIFEST_LIMIT_BYTES:
        raise BuildError(f"the manifest of `{contents.candidate}` is larger than {MANIFEST_LIMIT_BYTES} bytes")
    return manifest
