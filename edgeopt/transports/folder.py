"""A folder that somebody carries on or fetches from: `folder:///mnt/stick`, a mounted disk, what an updater stages.

A bundle appears under its final name, with all its bytes on the disk. What a pulled stick or a kill has left of it is
gone on with, once its bytes are seen to be the same. A folder that is not there is refused: below a place where nothing
is mounted, it would be one of the wrong disk.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from edgeopt import files
from edgeopt.errors import DeviceError, DiskError, UsageError
from edgeopt.transports import Pins, Progress, Transport, shipped_name

PART = ".part"

#: what should be mounted where
MOUNT_TABLE = Path("/etc/fstab")


class Folder(Transport):
    """See the module."""

    def __init__(self, address: str, pins: Pins | None = None) -> None:
        super().__init__(address, pins or Pins())
        parts = urlsplit(address)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.query or parts.fragment:
            raise UsageError(f"`{address}` names no folder of this machine", "write it as folder:///mnt/stick")
        self.folder = Path(unquote(parts.path))

    def send(self, bundle: Path, progress: Progress | None = None) -> str:
        """Copy a bundle there.

        Raises:
            TrustError: nobody has signed it, or it is not what its manifest says.
            DeviceError: the folder is not there, or its disk is gone meanwhile.
            DiskError: it would not fit.
        """
        name, sha256 = shipped_name(bundle), files.hash_file(bundle)
        self._check_there()
        path = self.folder / name
        if not (path.is_file() and files.hash_file(path) == sha256):
            part = path.with_name(name + PART)
            self._copy(bundle, part, progress)
            if files.hash_file(part) != sha256:
                files.remove(part)
                raise DeviceError(f"`{self.folder}` does not hold what was written to it", "the disk may be failing")
            files.publish_file(part, path)
        return str(path)

    def _check_there(self) -> None:
        try:
            mode = self.folder.stat().st_mode
        except OSError as error:
            hint = "mount the disk, or make the folder on it"
            raise DeviceError(f"`{self.folder}` is not there: {(error.strerror or '').lower()}", hint) from error
        if not stat.S_ISDIR(mode):
            raise UsageError(f"`{self.folder}` is not a folder", "name the folder that the bundle goes into")
        if os.path.ismount(self.folder) or not _is_mount_point(self.folder):
            return
        raise DeviceError(f"nothing is mounted at `{self.folder}`", "mount the disk first")

    def _copy(self, bundle: Path, part: Path, progress: Progress | None) -> None:
        size_bytes = bundle.stat().st_size
        with bundle.open("rb") as source, files.append(part) as stream:
            held = _skip_equal(source, stream)
            disk = os.fstatvfs(stream.fileno())
            free_bytes = disk.f_bavail * disk.f_frsize
            if size_bytes - held > free_bytes:
                what = f"{(size_bytes - held) / 1e6:.1f} MB more are needed, {free_bytes / 1e6:.1f} MB are free"
                raise DiskError(f"no space left on the disk of `{self.folder}`: {what}")
            while chunk := source.read(files.CHUNK_BYTES):
                stream.write(chunk)
                held += len(chunk)
                if progress is not None:
                    progress(held, size_bytes)


def _skip_equal(source: BinaryIO, stream: BinaryIO) -> int:
    """Where the two begin to differ, which is where both stand then; the rest of `stream` is cut off."""
    equal = 0
    stream.seek(0)
    while (chunk := stream.read(files.CHUNK_BYTES)) and chunk == source.read(len(chunk)):
        equal += len(chunk)
    source.seek(equal)
    stream.truncate(equal)
    return equal


def _is_mount_point(folder: Path) -> bool:
    """Whether something should be mounted exactly there, as far as the system says."""
    try:
        lines = MOUNT_TABLE.read_text(errors="replace").splitlines()
    except OSError:
        return False
    points = {line.split()[1] for line in lines if len(line.split()) > 1 and not line.lstrip().startswith("#")}
    return str(folder.resolve()) in points
