"""The release: what is signed. It binds a manifest, and through it every file, to a counter, a channel and an expiry.

The counter is what keeps an old release out, however well signed: a device takes none below the highest that it has
seen. The expiry bounds how long a device can be kept from hearing of a newer one; it is looked at when a release is
installed and never when a device starts, so a device whose clock runs on or back goes on with what it has.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from edgeopt.bundle.manifest import Manifest
from edgeopt.bundle.signing import parse_payload, read_unproven, verify
from edgeopt.bundle.trust import Root
from edgeopt.errors import TrustError
from edgeopt.model import Value

FORMAT: Final = 1
PAYLOAD_TYPE = "application/vnd.edgeopt.release+json"

#: integers up to here are exact wherever JSON is read
LARGEST_COUNTER = 2**53 - 1

CHANNEL = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"

_HINT = "get the bundle again from where it was made"


def _date(text: str) -> str:
    if datetime.date.fromisoformat(text).isoformat() != text:
        raise ValueError("should be a date such as 2027-01-31")
    return text


class Release(Value):
    """What is signed.

    `name` and `target` are those of the manifest. `not_after` is the last day, in UTC, on which it may be installed.
    """

    edgeopt_release: Literal[1] = FORMAT
    name: str
    target: str
    manifest_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    counter: int = Field(ge=1, le=LARGEST_COUNTER)
    channel: str = Field(default="stable", pattern=f"^{CHANNEL}$")
    not_after: Annotated[str, AfterValidator(_date)] | None = None

    def is_expired(self, now: datetime.datetime) -> bool:
        return self.not_after is not None and now.astimezone(datetime.timezone.utc).date().isoformat() > self.not_after

    def tell_expiry(self) -> str:
        return f"not after {self.not_after}" if self.not_after else "never expires"


def verify_release(envelope: bytes | None, manifest: Manifest, root: Root) -> Release:
    """The release of a manifest that as many keys of the root have signed as it asks for.

    Raises:
        TrustError: nobody, or too few, or somebody else has signed it, or another manifest.
    """
    if envelope is None:
        raise TrustError("the bundle is not signed", "`edgeopt bundle sign` signs it")
    payload = verify(envelope, PAYLOAD_TYPE, root.releases.public_keys(), root.releases.threshold)
    release = parse_payload(Release, payload, "release", _HINT)
    stated = (manifest.name, manifest.target, manifest.digest())
    if (release.name, release.target, release.manifest_sha256) != stated:
        raise TrustError("what was signed is another bundle than this", _HINT)
    return release


def read_release(envelope: bytes) -> Release:
    """The release in an envelope whoever signed it: nothing in it is to be believed.

    Raises:
        TrustError: there is none in it.
    """
    return parse_payload(Release, read_unproven(envelope, PAYLOAD_TYPE), "release", _HINT)
