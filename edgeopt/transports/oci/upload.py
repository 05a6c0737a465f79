"""A blob out: piece by piece, and from where the registry says that it was cut.

Where a registry has forgotten an upload, it begins anew: the one that Debian has (distribution 2.8) forgets those that
were cut within a piece, and goes on with those that were cut between two.
"""

from __future__ import annotations

import re
from typing import BinaryIO

from edgeopt.transports import Progress
from edgeopt.transports.oci import Blob
from edgeopt.transports.oci.client import Client
from edgeopt.transports.oci.patience import CutError, Patience

PIECE_BYTES = 8 << 20

#: the registry knows of no such upload, or of one that has another length than we think
_LOST = (404, 416)


def push_blob(client: Client, url: str, blob: Blob, content: BinaryIO, progress: Progress | None = None) -> None:
    """Push `content` into the repository at `url`, unless it is there.

    Raises:
        CutError: it was cut too often without getting further.
        DeviceError: the registry will not have it.
    """
    upload, patience = _Upload(client, url, blob, content, progress), Patience()
    while not upload.is_there():
        try:
            upload.go_on()
            return
        except CutError as error:
            if upload.has_progressed():
                patience.progressed()
            patience.wait(error)
    if progress is not None:
        progress(blob.size, blob.size)


class _Upload:
    """One blob on its way: where the next piece goes, and how much is there."""

    def __init__(self, client: Client, url: str, blob: Blob, content: BinaryIO, progress: Progress | None) -> None:
        self._client, self._url, self._blob, self._content, self._progress = client, url, blob, content, progress
        self._location: str | None = None
        self._sent = self._furthest = self._furthest_before = 0

    def is_there(self) -> bool:
        return self._client.call("HEAD", f"{self._url}/blobs/{self._blob.digest}", (200, 404)).status == 200

    def has_progressed(self) -> bool:
        """Whether more is there than the last time that this was asked."""
        before, self._furthest_before = self._furthest_before, self._furthest
        return self._furthest > before

    def go_on(self) -> None:
        """Begin, or ask how far it got, and send the rest."""
        if self._location is None or not self._ask(self._location):
            answer = self._client.call("POST", f"{self._url}/blobs/uploads/", (202,))
            self._location, self._sent = answer.location(), 0
        while self._sent < self._blob.size:
            self._send_piece(self._location)
        digest = f"{'&' if '?' in self._location else '?'}digest={self._blob.digest}"
        self._checked_call("PUT", self._location + digest, 201, b"", {})

    def _ask(self, location: str) -> bool:
        """Whether the registry remembers the upload."""
        answer = self._client.call("GET", location, (204, *_LOST))
        if answer.status in _LOST:
            return False
        self._location = answer.location() if "location" in answer.headers else location
        end = re.fullmatch(r"(?:bytes=)?0-([0-9]{1,12})", answer.headers.get("range", ""))
        self._sent = int(end[1]) + 1 if end and end[1] != "0" else 0  # `0-0` is what an empty one is called
        return self._sent <= self._blob.size

    def _send_piece(self, location: str) -> None:
        self._content.seek(self._sent)
        piece = self._content.read(min(PIECE_BYTES, self._blob.size - self._sent))
        end = self._sent + len(piece)
        headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{self._sent}-{end - 1}"}
        self._location = self._checked_call("PATCH", location, 202, piece, headers)
        self._sent, self._furthest = end, max(end, self._furthest)
        if self._progress is not None:
            self._progress(self._sent, self._blob.size)

    def _checked_call(self, method: str, url: str, status: int, content: bytes, headers: dict[str, str]) -> str:
        answer = self._client.call(method, url, (status, *_LOST), content=content, headers=headers, once=True)
        if answer.status in _LOST:
            self._location = None
            raise CutError(f"`{self._client.host}` lost the upload")
        return answer.location() if method == "PATCH" else ""
