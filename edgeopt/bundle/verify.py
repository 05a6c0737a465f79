"""Whether a bundle is, file for file, what its manifest says; with signatures, later, also who says so."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from edgeopt import files
from edgeopt.bundle import Bundle
from edgeopt.bundle.archive import read_archive
from edgeopt.bundle.manifest import MANIFEST_FILE, MANIFEST_LIMIT_BYTES, Manifest
from edgeopt.errors import TrustError, UsageError
from edgeopt.model import ArtifactFile, Value

SHOWN = 5


class Verification(Value):
    """What was proven: the content is whole. `signature` says that nobody has vouched for it."""

    manifest: Manifest
    signature: Literal["unsigned"] = "unsigned"


def verify_bundle(path: Path) -> Verification:
    """Hash every file of a bundle, a folder or a `.edgeopt` file, and compare.

    Raises:
        UsageError: there is nothing at `path`.
        TrustError: says what differs.
    """
    if path.is_dir():
        return Verification(manifest=load_bundle(path).manifest)
    return Verification(manifest=read_archive(path, lambda file: nullcontext(_ignore)))


def load_bundle(folder: Path) -> Bundle:
    """The bundle in `folder`, verified.

    Raises:
        UsageError: there is no bundle in it.
        TrustError: names what is missing, extra or different.
    """
    manifest = _read_manifest(folder)
    differences = list(_differences(folder, manifest))
    if differences:
        more = [f"and {len(differences) - SHOWN} more"] if len(differences) > SHOWN else []
        raise TrustError(
            f"the bundle in `{folder}` is not what its manifest says: {'; '.join(differences[:SHOWN] + more)}",
            "unpack it again from its `.edgeopt` file",
        )
    return Bundle(folder, manifest)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise UsageError(f"there is no bundle in `{folder}`", f"a bundle's folder holds a `{MANIFEST_FILE}`")
    with path.open("rb") as stream:
        content = stream.read(MANIFEST_LIMIT_BYTES + 1)
    if len(content) > MANIFEST_LIMIT_BYTES:
        raise TrustError(f"`{path}` is larger than {MANIFEST_LIMIT_BYTES} bytes", "get the bundle again")
    return Manifest.parse(content)


def _differences(folder: Path, manifest: Manifest) -> Iterator[str]:
    found = dict(_scan(folder, ""))
    listed = {file.path: file for file in manifest.files}
    for name in sorted(found.keys() | listed.keys() | {MANIFEST_FILE}):
        if name not in found:
            yield f"`{name}` is missing"
        elif not stat.S_ISREG(found[name].st_mode):
            yield f"`{name}` is not a plain file"
        elif name in listed:
            yield from _changes(folder, listed[name], found[name].st_size)
        elif name != MANIFEST_FILE:
            yield f"`{name}` is not listed"


def _changes(folder: Path, file: ArtifactFile, size_bytes: int) -> Iterator[str]:
    if size_bytes != file.size_bytes:
        yield f"`{file.path}` has {size_bytes} bytes, not {file.size_bytes}"
    elif files.hash_file(folder / file.path) != file.sha256:
        yield f"`{file.path}` has another content"


def _scan(folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """All that lies in `folder` but its folders; links are told, not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _scan(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                yield f"{prefix}{entry.name}", entry.stat(follow_symlinks=False)


def _ignore(chunk: bytes) -> None:
    """Where the content goes that is only looked at."""
