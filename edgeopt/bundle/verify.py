"""Whether a bundle is, file for file, what its manifest says, and who says so."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from edgeopt import files
from edgeopt.bundle import Bundle
from edgeopt.bundle.archive import open_archive
from edgeopt.bundle.manifest import (
    MANIFEST_FILE,
    MANIFEST_LIMIT_BYTES,
    RELEASE_FILE,
    RELEASE_LIMIT_BYTES,
    UNLISTED,
    Manifest,
)
from edgeopt.bundle.release import Release, verify_release
from edgeopt.bundle.signing import signers_of
from edgeopt.bundle.trust import Root
from edgeopt.errors import TrustError, UsageError, legible
from edgeopt.model import ArtifactFile, Value

SHOWN = 5


class Verification(Value):
    """What was proven: the content is whole, and `release` is what a trust root vouches for, where one was given.

    `signature` says in words who has signed.
    """

    manifest: Manifest
    release: Release | None = None
    signature: str


def verify_bundle(path: Path, root: Root | None = None) -> Verification:
    """Hash every file of a bundle, a folder or a `.edgeopt` file, and compare.

    Args:
        root: whose signature it must have; None: whoever signed it, nobody's signature is looked at.

    Raises:
        UsageError: there is nothing at `path`.
        TrustError: says what differs, or who has not signed.
    """
    if path.is_dir():
        bundle = load_bundle(path)
        return _verification(bundle.release, bundle.manifest, root)
    with open_archive(path) as archive:
        found = _verification(archive.release, archive.manifest, root)
        archive.read_files(lambda file: nullcontext(_ignore))
    return found


def _verification(release: bytes | None, manifest: Manifest, root: Root | None) -> Verification:
    if root is not None:
        verified = verify_release(release, manifest, root)
        signature = f"signed, counter {verified.counter}, channel {verified.channel}, {verified.tell_expiry()}"
        return Verification(manifest=manifest, release=verified, signature=signature)
    if release is None:
        return Verification(manifest=manifest, signature="unsigned")
    names = ", ".join(legible(name[:12]) for name in signers_of(release))
    return Verification(manifest=manifest, signature=f"says that {names} signed it, which `--root` would prove")


def load_bundle(folder: Path) -> Bundle:
    """The bundle in `folder`, verified.

    Raises:
        UsageError: there is no bundle in it.
        TrustError: names what is missing, extra or different.
    """
    manifest = Manifest.parse(_read_limited(folder, MANIFEST_FILE, MANIFEST_LIMIT_BYTES))
    differences = list(_differences(folder, manifest))
    if differences:
        more = [f"and {len(differences) - SHOWN} more"] if len(differences) > SHOWN else []
        raise TrustError(
            f"the bundle in `{folder}` is not what its manifest says: {'; '.join(differences[:SHOWN] + more)}",
            "unpack it again from its `.edgeopt` file",
        )
    is_signed = (folder / RELEASE_FILE).is_file()
    return Bundle(folder, manifest, _read_limited(folder, RELEASE_FILE, RELEASE_LIMIT_BYTES) if is_signed else None)


def _read_limited(folder: Path, name: str, limit_bytes: int) -> bytes:
    path = folder / name
    if not path.is_file():
        raise UsageError(f"there is no bundle in `{folder}`", f"a bundle's folder holds a `{MANIFEST_FILE}`")
    with path.open("rb") as stream:
        content = stream.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise TrustError(f"`{path}` is larger than {limit_bytes} bytes", "get the bundle again")
    return content


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
        elif name not in UNLISTED:
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
