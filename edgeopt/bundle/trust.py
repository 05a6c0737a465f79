"""Whose signature counts: the trust root, a small signed file that a device is given once and that may replace itself.

It names two roles. The keys of `releases` sign bundles, day by day; those of `root` sign the next root, and may lie in
a drawer. A new root has the next version and is signed by as many keys of the old root as that asks for, and of its
own: so keys are changed and revoked without a visit to the devices, and nobody can who holds fewer than a threshold.
The shape is that of The Update Framework (https://theupdateframework.io), with one file in place of four.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field, ValidationError, model_validator

from edgeopt import files
from edgeopt.bundle.signing import parse_payload, public_key, public_value, read_unproven, sign, verify
from edgeopt.errors import TrustError, UsageError
from edgeopt.model import Value, canonical_json

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

FORMAT: Final = 1
PAYLOAD_TYPE = "application/vnd.edgeopt.root+json"

ROOT_LIMIT_BYTES = 100_000
NEW_ROOT = "make one with `edgeopt keys root`"


class Role(Value):
    """Public keys, as 64 hexadecimal digits each, and how many of them it takes."""

    keys: tuple[str, ...] = Field(min_length=1, max_length=64)
    threshold: int = Field(ge=1)

    @model_validator(mode="after")
    def _check_keys(self) -> Role:
        for key in self.keys:
            public_key(key)
        if len(set(self.keys)) != len(self.keys):
            raise ValueError("a key is named twice")
        if self.threshold > len(self.keys):
            raise ValueError(f"{self.threshold} of {len(self.keys)} keys cannot sign")
        return self

    def public_keys(self) -> list[Key]:
        return [public_key(key) for key in self.keys]


class Root(Value):
    """Who may sign bundles, and who may sign the next root."""

    edgeopt_root: Literal[1] = FORMAT
    version: int = Field(ge=1)
    root: Role
    releases: Role


def make_role(keys: Sequence[Key], threshold: int) -> Role:
    """The role that `threshold` of these keys can fill.

    Raises:
        UsageError: they cannot.
    """
    try:
        return Role(keys=tuple(public_value(key) for key in keys), threshold=threshold)
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"no such role: {what}", "name each key once, and no more of them than there are") from error


def write_root(path: Path, root: Root, signers: Sequence[Signer]) -> None:
    """Sign `root` and write it to `path`; where the same root lies there, its signatures stay.

    Raises:
        UsageError: another root lies there.
    """
    payload, before = canonical_json(root.model_dump(mode="json")), None
    if path.exists():
        before = _read(path)
        if read_unproven(before, PAYLOAD_TYPE) != payload:
            raise UsageError(f"`{path}` is another root", "choose another name: devices may hold it")
    files.write_bytes(path, sign(payload, PAYLOAD_TYPE, signers, before))


def load_root(path: Path) -> Root:
    """The root in a file, which is one that its own keys vouch for.

    Raises:
        UsageError: there is no such file.
        TrustError: it is no root, or has too few signatures.
    """
    return verify_root(_read(path))


def verify_root(data: bytes, trusted: Root | None = None) -> Root:
    """The root in an envelope, if enough of its own keys have signed it, and of those of the root before it.

    Args:
        trusted: the root that it is to replace; None: the first one, which is believed as it comes.

    Raises:
        TrustError: too few of the keys have signed it, or it is not the next version.
    """
    root = parse_payload(Root, read_unproven(data, PAYLOAD_TYPE), "root", NEW_ROOT)
    if trusted is not None:
        if root.version != trusted.version + 1:
            what = f"the root has version {root.version}, and follows on version {trusted.version}"
            raise TrustError(what, "roots replace one another one by one: give the one between")
        verify(data, PAYLOAD_TYPE, trusted.root.public_keys(), trusted.root.threshold)
    verify(data, PAYLOAD_TYPE, root.root.public_keys(), root.root.threshold)
    return root


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise UsageError(f"there is no root `{path}`", NEW_ROOT)
    with path.open("rb") as stream:
        data = stream.read(ROOT_LIMIT_BYTES + 1)
    if len(data) > ROOT_LIMIT_BYTES:
        raise TrustError(f"`{path}` is larger than {ROOT_LIMIT_BYTES} bytes", NEW_ROOT)
    return data
