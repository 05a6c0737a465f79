"""Who vouches for what: Ed25519 keys in files, and statements in envelopes that such keys have signed.

The envelope is DSSE's (https://github.com/secure-systems-lab/dsse): the type of the payload is signed with it, so a
signed report cannot pass for a signed release. Key formats, envelope and cryptography are those of securesystemslib and
cryptography. An envelope has one form in bytes, which is the only one that is read: nobody can change a signed file and
leave it signed, but by signatures of keys of their own, which count for nobody. Whatever is wrong with an envelope, it
is refused with a `TrustError`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from edgeopt import files
from edgeopt.errors import TrustError, UsageError, legible
from edgeopt.model import Value, canonical_json

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import Key, Signature, Signer

Statement = TypeVar("Statement", bound=Value)

#: beside a private key
PUBLIC = ".pub"

#: no envelope of edgeopt's comes near it
ENVELOPE_LIMIT_BYTES = 1 << 20

NEW_KEY = "make one with `edgeopt keys new`"

#: a public key, and the id of a key; a signature
_KEY, _SIGNATURE = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{128}")


def make_key(path: Path, passphrase: bytes | None = None) -> str:
    """Write a fresh private key to `path`, for nobody else to read, and its public key beside it.

    Returns:
        The key's id.

    Raises:
        UsageError: one of the files is there already: no key is ever replaced.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = path.with_name(path.name + PUBLIC)
    for place in (path, public):
        if place.exists() or place.is_symlink():
            raise UsageError(
                f"`{place}` is there already", "choose another name: what it has signed may still be in use"
            )
    private_key = Ed25519PrivateKey.generate()
    locked = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    files.write_bytes(path, private_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, locked), mode=0o600)
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    files.write_bytes(public, private_key.public_key().public_bytes(pem, spki))
    return load_public_key(public).keyid


def is_locked(path: Path) -> bool:
    """Whether the private key at `path` takes a passphrase."""
    return b"ENCRYPTED" in _read(path)


def load_signer(path: Path, passphrase: bytes | None = None) -> Signer:
    """The private key at `path`, ready to sign.

    Raises:
        UsageError: there is no such key, or the passphrase does not open it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    data = _read(path)
    try:
        key = load_pem_private_key(data, passphrase)
    except TypeError as error:  # a passphrase is missing, or one too many
        hint = "set `EDGEOPT_PASSPHRASE`" if passphrase is None else "unset `EDGEOPT_PASSPHRASE`"
        raise UsageError(f"`{path}` {'is' if passphrase is None else 'is not'} locked by a passphrase", hint) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = f"check the passphrase, or {NEW_KEY}" if passphrase else NEW_KEY
        raise UsageError(f"`{path}` holds no private key that can be read", hint) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"`{path}` holds a key of another kind than Ed25519", NEW_KEY)
    return CryptoSigner(key)


def load_public_key(path: Path) -> Key:
    """The public key at `path`.

    Raises:
        UsageError: there is no such key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    data = _read(path)
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        private = b"PRIVATE KEY" in data
        hint = f"name the public one, `{path}{PUBLIC}`" if private else NEW_KEY
        raise UsageError(f"`{path}` holds {'a private key' if private else 'no public key'}", hint) from error
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"`{path}` holds a key of another kind than Ed25519", NEW_KEY)
    return SSlibKey.from_crypto(key)


def sign(payload: bytes, payload_type: str, signers: Sequence[Signer], onto: bytes | None = None) -> bytes:
    """The envelope that holds `payload` and a signature of each signer, as canonical JSON.

    Args:
        onto: an envelope of the very same payload, whose signatures stay beside the new ones; any other is left.
    """
    from securesystemslib.dsse import Envelope

    envelope = Envelope(payload, payload_type, {})
    if onto is not None and read_unproven(onto, payload_type) == payload:
        envelope = _open(onto, payload_type)
    for signer in signers:
        envelope.sign(signer)
    return _to_bytes(envelope)


def verify(data: bytes, payload_type: str, keys: Sequence[Key], threshold: int = 1) -> bytes:
    """The payload of an envelope that `threshold` of `keys` have signed.

    Raises:
        TrustError: it is no such envelope; nothing in it is to be believed.
    """
    envelope = _open(data, payload_type)
    try:
        envelope.verify(list(keys), threshold)
    except Exception as error:  # mutated envelopes raise half a dozen types: all of them mean the same
        known = ", ".join(key.keyid[:12] for key in keys)
        what = f"not signed by {threshold} of the keys {known}" if threshold > 1 else f"not signed by the key {known}"
        raise TrustError(what, "check that it is the right key, and that nothing was changed since") from error
    payload: bytes = envelope.payload
    return payload


def read_unproven(data: bytes, payload_type: str) -> bytes:
    """The payload of an envelope whoever signed it: nothing in it is to be believed.

    Raises:
        TrustError: it is no envelope of that type.
    """
    return _open(data, payload_type).payload  # type: ignore[no-any-return]


def parse_payload(kind: type[Statement], payload: bytes, what: str, hint: str) -> Statement:
    """The value that a payload holds.

    Args:
        what: what to call it in a message.
        hint: what to do about one that is not sound.

    Raises:
        TrustError: these are not the canonical bytes of a sound one.
    """
    try:
        statement = kind.model_validate_json(payload, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or what
        raise TrustError(f"the {what} is not sound: `{legible(place)}`: {first['msg']}", hint) from error
    if canonical_json(statement.model_dump(mode="json", exclude_unset=True)) != payload:
        raise TrustError(f"the {what} is not in its canonical form", hint)
    return statement


def signers_of(data: bytes) -> tuple[str, ...]:
    """The ids of the keys that an envelope says have signed it, which proves nothing."""
    return tuple(sorted(_open(data, None).signatures))


def _open(data: bytes, payload_type: str | None) -> Any:
    from securesystemslib.dsse import Envelope

    if len(data) > ENVELOPE_LIMIT_BYTES:
        raise TrustError(f"the signature has more than {ENVELOPE_LIMIT_BYTES} bytes", "get it again")
    try:
        envelope = Envelope.from_dict(json.loads(data))
        is_canonical = _to_bytes(envelope) == data and all(map(_is_plain, envelope.signatures.values()))
    except Exception as error:  # mutated envelopes raise half a dozen types: all of them mean the same
        raise TrustError("the signature is damaged", "get it again from where it was made") from error
    if not is_canonical:
        raise TrustError("the signature is not in its canonical form", "get it again from where it was made")
    found = envelope.payload_type
    if payload_type not in (None, found):
        what = f"what was signed is `{legible(found)}`, not `{payload_type}`"
        raise TrustError(what, "give the signature of this very thing")
    return envelope


def _to_bytes(envelope: Envelope) -> bytes:
    """Canonical JSON, with the signatures in the order of their keys' ids, whoever signed first."""
    content = envelope.to_dict()
    content["signatures"].sort(key=lambda signature: signature["keyid"])
    return canonical_json(content)


def _is_plain(signature: Signature) -> bool:
    """Whether it holds the id of a key and an Ed25519 signature, and nothing else."""
    is_known = _KEY.fullmatch(signature.keyid) and _SIGNATURE.fullmatch(signature.signature)
    return bool(is_known) and not signature.unrecognized_fields


def public_key(value: str) -> Key:
    """The key of an Ed25519 public key that is written as 64 hexadecimal digits.

    Raises:
        ValueError: it is none.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from securesystemslib.signer import SSlibKey

    if not _KEY.fullmatch(value):
        raise ValueError("a key is 64 hexadecimal digits, in lower case")
    return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(bytes.fromhex(value)))


def public_value(key: Key) -> str:
    """The 64 hexadecimal digits of an Ed25519 public key."""
    value: str = key.keyval["public"]
    return value


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise UsageError(f"there is no key `{path}`", NEW_KEY)
    return path.read_bytes()
