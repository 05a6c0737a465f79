"""Closed-world unpacking: what the manifest lists comes out, each file once it is proven, and nothing else ever does.

The files are streamed into a scratch folder of this process's own, and appear under their name together, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeopt import files
from edgeopt.bundle import Bundle
from edgeopt.bundle.archive import read_archive
from edgeopt.bundle.manifest import MANIFEST_FILE
from edgeopt.model import ArtifactFile


def unpack_bundle(path: Path, destination: Path) -> Bundle:
    """Unpack the bundle file at `path` into the folder `destination`, replacing what stood there.

    Raises:
        UsageError: there is no such file, or the destination cannot be written.
        TrustError: the file is not, byte for byte, what its manifest says; nothing was unpacked.
        MissingError: the disk is full.
    """
    with files.scratch(destination.parent) as folder:

        @contextmanager
        def receive(file: ArtifactFile) -> Iterator[Callable[[bytes], object]]:
            with files.create(folder / file.path) as stream:
                yield stream.write

        manifest = read_archive(path, receive)
        files.write_bytes(folder / MANIFEST_FILE, manifest.to_bytes())
        files.publish(folder, destination)
    return Bundle(destination, manifest)
