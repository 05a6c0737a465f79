"""A blob in: from where it was cut, and under its name once it is whole and its digest is right."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edgeopt import files
from edgeopt.errors import DeviceError, DiskError, TrustError
from edgeopt.transports import Progress
from edgeopt.transports.oci import Blob
from edgeopt.transports.oci.client import Client
from edgeopt.transports.oci.patience import CutError, Patience

if TYPE_CHECKING:
    import httpx

PART = ".part"

#: a cut after less than this counts as a try that brought nothing
PROGRESS_BYTES = 64 << 10


def fetch_blob(client: Client, url: str, blob: Blob, destination: Path, progress: Progress | None = None) -> None:
    """Fetch the blob from the repository at `url` to `destination`; what a cut leaves lies beside it, as `.part`.

    Raises:
        CutError: it was cut too often without getting further.
        DeviceError: the registry does not have it, or will not give it.
        TrustError: what came is not what its digest says; nothing is kept of it.
        DiskError: it does not fit.
    """
    part = destination.with_name(destination.name + PART)
    with files.append(part) as stream:
        fetching = _Fetching(client, f"{url}/blobs/{blob.digest}", blob, stream, progress)
        was_begun = fetching.take_up()
        fetching.check_room()
        fetching.run()
        if was_begun and not fetching.is_right():  # what an earlier run left may have been torn by a power cut
            fetching.begin_anew()
            fetching.run()
        if not fetching.is_right():
            fetching.begin_anew()
            hint = "ship the bundle there again; if that does not help, do not trust the registry"
            raise TrustError(f"`{client.host}` gave other bytes than {blob.digest[:19]}…", hint)
        stream.flush()
        try:
            files.publish_file(part, destination)
        except FileNotFoundError as error:
            raise DeviceError(f"`{part}` was removed while it was fetched", "run it again") from error


class _Fetching:
    """One blob on its way into a file: how much is there, and its digest so far."""

    def __init__(self, client: Client, url: str, blob: Blob, stream: BinaryIO, progress: Progress | None) -> None:
        self._client, self._url, self._blob, self._stream, self._progress = client, url, blob, stream, progress
        self._have, self._digest = 0, hashlib.sha256()

    def take_up(self) -> bool:
        """Hash what an earlier run has left; returns whether it left anything of use."""
        self._stream.seek(0)
        while chunk := self._stream.read(files.CHUNK_BYTES):
            self._digest.update(chunk)
            self._have += len(chunk)
        if self._have > self._blob.size:
            self.begin_anew()
        return self._have > 0

    def begin_anew(self) -> None:
        self._stream.flush()
        self._stream.truncate(0)
        self._have, self._digest = 0, hashlib.sha256()

    def is_right(self) -> bool:
        return self._digest.hexdigest() == self._blob.sha256

    def check_room(self) -> None:
        """See that the disk has room for the rest, rather than fill it.

        Raises:
            DiskError: it has not.
        """
        disk = os.fstatvfs(self._stream.fileno())
        needed, free = self._blob.size - self._have, disk.f_bavail * disk.f_frsize
        if needed > free:
            what = f"{needed / 1e6:.1f} MB more are needed, {free / 1e6:.1f} MB are free"
            raise DiskError(f"no space left on the disk: {what}", "`edgeopt device gc` frees some, then run it again")

    def run(self) -> None:
        """Fetch until all is there."""
        patience, furthest = Patience(), self._have
        while self._have < self._blob.size:
            try:
                self._fetch_rest()
                if self._have < self._blob.size:
                    raise CutError(f"`{self._client.host}` stopped at {self._have} of {self._blob.size} bytes")
            except CutError as error:
                if self._have - furthest >= PROGRESS_BYTES:
                    patience.progressed()
                    furthest = self._have
                patience.wait(error)

    def _fetch_rest(self) -> None:
        asked = {"Range": f"bytes={self._have}-"} if self._have else {}
        with self._client.stream("GET", self._url, (200, 206), headers=asked) as response:
            self._check_start(response)
            for chunk in self._client.chunks(response, self._blob.size - self._have):
                self._stream.write(chunk)
                self._digest.update(chunk)
                self._have += len(chunk)
                if self._progress is not None:
                    self._progress(self._have, self._blob.size)

    def _check_start(self, response: httpx.Response) -> None:
        """Hold what the headers say against what is to come."""
        if response.status_code == 206:
            found = re.fullmatch(
                r"bytes ([0-9]{1,12})-[0-9]{1,12}/([0-9]{1,12}|\*)", response.headers.get("content-range", "")
            )
            if found is None or int(found[1]) != self._have:
                raise DeviceError(f"`{self._client.host}` answers another range than was asked", "run it again")
            length = found[2]
        else:  # all of it, whatever we asked
            if self._have:
                self.begin_anew()
            length = response.headers.get("content-length", "*")
        if length not in ("*", str(self._blob.size)):
            what = (
                f"`{self._client.host}` has {length[:12]} bytes under {self._blob.digest[:19]}…, not {self._blob.size}"
            )
            raise TrustError(what, "ship the bundle there again")
