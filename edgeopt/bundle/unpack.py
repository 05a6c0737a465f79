"""Closed-world unpacking: what the manifest lists comes out, each file once it is proven, and nothing else ever does.

The files are streamed into a scratch folder of this process's own, and appear under their name together, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeopt import files
from edgeopt.bundle import Bundle
from edgeopt.bundle.archive import open_archive
from edgeopt.bundle.manifest import MANIFEST_FILE, RELEASE_FILE, Manifest
from edgeopt.model import ArtifactFile

#: raises where a bundle is not to be let in; given the signed envelope, if any, and the manifest
Admit = Callable[[bytes | None, Manifest], object]


def _admit_all(release: bytes | None, manifest: Manifest) -> None:
    """Where nobody asks who has signed."""


def unpack_bundle(path: Path, destination: Path, admit: Admit = _admit_all) -> Bundle:
    """Unpack the bundle file at `path` into the folder `destination`, replacing what stood there.

    Args:
        admit: asked before a byte of the files is read.

    Raises:
        UsageError: there is no such file, or the destination cannot be written.
        TrustError: the file is not, byte for byte, what its manifest says; nothing was unpacked.
        MissingError: the disk is full.
    """
    with open_archive(path) as archive, files.scratch(destination.parent) as folder:
        admit(archive.release, archive.manifest)

        @contextmanager
        def receive(file: ArtifactFile) -> Iterator[Callable[[bytes], object]]:
            with files.create(folder / file.path) as stream:
                yield stream.write

        archive.read_files(receive)
        files.write_bytes(folder / MANIFEST_FILE, archive.manifest.to_bytes())
        if archive.release is not None:
            files.write_bytes(folder / RELEASE_FILE, archive.release)
        files.publish(folder, destination)
    return Bundle(destination, archive.manifest, archive.release)
