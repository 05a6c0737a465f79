"""Only what a key has signed, as the type that it was signed as, is believed; everything else is refused in one way."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.bundle.signing import (
    is_locked,
    load_public_key,
    load_signer,
    make_key,
    public_key,
    read_unproven,
    sign,
    verify,
)
from edgeopt.errors import TrustError, UsageError
from edgeopt.model import canonical_json

TYPE = "application/vnd.edgeopt.test+json"
PAYLOAD = b'{"counter":7}'


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("keys")
    paths = [folder / name for name in ("first", "second")]
    for path in paths:
        make_key(path)
    return paths


def public(path: Path) -> Path:
    return path.with_name(f"{path.name}.pub")


def test_what_was_signed_is_given_back_and_only_to_the_right_key(keys: list[Path]) -> None:
    envelope = sign(PAYLOAD, TYPE, [load_signer(keys[0])])
    assert verify(envelope, TYPE, [load_public_key(public(keys[0]))]) == PAYLOAD
    with pytest.raises(TrustError, match="not signed by the key"):
        verify(envelope, TYPE, [load_public_key(public(keys[1]))])


def test_a_signature_holds_for_one_type_only(keys: list[Path]) -> None:
    envelope = sign(PAYLOAD, TYPE, [load_signer(keys[0])])
    with pytest.raises(TrustError, match=r"what was signed is `.*test\+json`, not `other`"):
        verify(envelope, "other", [load_public_key(public(keys[0]))])
    relabelled = canonical_json(json.loads(envelope) | {"payloadType": "other"})
    with pytest.raises(TrustError, match="not signed by the key"):
        verify(relabelled, "other", [load_public_key(public(keys[0]))])


def test_a_threshold_counts_keys_not_signatures(keys: list[Path]) -> None:
    known = [load_public_key(public(path)) for path in keys]
    both = sign(PAYLOAD, TYPE, [load_signer(path) for path in keys])
    assert verify(both, TYPE, known, threshold=2) == PAYLOAD
    once = json.loads(sign(PAYLOAD, TYPE, [load_signer(keys[0])]))
    twice = canonical_json(once | {"signatures": once["signatures"] * 2})
    for envelope in (canonical_json(once), twice):
        with pytest.raises(TrustError, match=r"not signed by 2 of the keys|is damaged"):
            verify(envelope, TYPE, known, threshold=2)


@given(at=st.integers(0, 10_000), byte=st.integers(1, 255))
def test_an_envelope_with_any_byte_changed_is_refused(at: int, byte: int, keys: list[Path]) -> None:
    envelope = bytearray(sign(PAYLOAD, TYPE, [load_signer(keys[0])]))
    envelope[at % len(envelope)] ^= byte
    with pytest.raises(TrustError):
        verify(bytes(envelope), TYPE, [load_public_key(public(keys[0]))])


def test_what_json_and_base64_do_not_mind_is_refused_all_the_same(keys: list[Path]) -> None:
    envelope = sign(PAYLOAD, TYPE, [load_signer(keys[0])])
    found, known = json.loads(envelope), [load_public_key(public(keys[0]))]
    one = found["signatures"][0]
    changes: list[dict[str, Any]] = [
        {"payload": found["payload"].rstrip("=")}, {"payload": found["payload"] + "\n"}, {"note": "hello"},
        {"signatures": [one | {"cert": "mine"}]}, {"signatures": [one | {"sig": one["sig"].rstrip("=")}]},
        {"signatures": [one, {"keyid": "UNKNOWN", "sig": one["sig"]}]},
        {"signatures": [one, {"keyid": "0" * 64, "sig": "AAAA"}]},
    ]  # fmt: skip
    twisted = [canonical_json(found | change) for change in changes]
    first = envelope.replace(b"{", b'{"payloadType":"other",', 1)
    for data in (*twisted, first, json.dumps(found).encode(), envelope + b"\n", b"\xef\xbb\xbf" + envelope):
        with pytest.raises(TrustError, match=r"is damaged|canonical form"):
            verify(data, TYPE, known)


def test_the_order_in_which_holders_sign_leaves_no_trace(keys: list[Path]) -> None:
    one, other = map(load_signer, keys)
    forth, back = (
        sign(PAYLOAD, TYPE, [last], sign(PAYLOAD, TYPE, [first])) for first, last in ((one, other), (other, one))
    )
    assert forth == back == sign(PAYLOAD, TYPE, [other, one])


def test_a_stranger_may_sign_too_and_counts_for_nobody(keys: list[Path]) -> None:
    both = sign(PAYLOAD, TYPE, [load_signer(path) for path in keys])
    mine = [load_public_key(public(keys[0]))]
    assert verify(both, TYPE, mine) == PAYLOAD
    with pytest.raises(TrustError):
        verify(both, TYPE, mine, threshold=2)


FIELDS = st.sampled_from(["payload", "payloadType", "signatures", "keyid", "sig", "x"])
PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=9)
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4))


@given(data=st.binary(max_size=300) | JSON.map(canonical_json))
def test_whatever_is_read_as_an_envelope_nothing_but_a_trust_error_comes_of_it(data: bytes, keys: list[Path]) -> None:
    for read in (lambda: verify(data, TYPE, [load_public_key(public(keys[0]))]), lambda: read_unproven(data, TYPE)):
        with pytest.raises(TrustError):
            read()


@pytest.mark.parametrize("value", ["", "00" * 31, "AB" * 32, " " + "ab" * 32, "ab " * 32, "zz" * 32, "ab" * 33])
def test_a_public_key_is_written_in_one_way_only(value: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        public_key(value)


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"\xff", b'{"payload": 1}', b" " * (2 << 20)])
def test_what_is_no_envelope_is_refused_like_a_wrong_signature(data: bytes, keys: list[Path]) -> None:
    with pytest.raises(TrustError, match=r"is damaged|more than"):
        verify(data, TYPE, [load_public_key(public(keys[0]))])


def test_a_key_is_for_its_owner_alone_and_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "release.key"
    name = make_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_public_key(public(path)).keyid == name == load_signer(path).public_key.keyid
    with pytest.raises(UsageError, match="is there already"):
        make_key(path)
    path.unlink()
    with pytest.raises(UsageError, match=r"release\.key\.pub` is there already"):
        make_key(path)


def test_a_locked_key_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    path = tmp_path / "locked"
    make_key(path, b"correct horse")
    assert is_locked(path)
    assert load_signer(path, b"correct horse").public_key == load_public_key(public(path))
    with pytest.raises(UsageError, match="is locked by a passphrase") as caught:
        load_signer(path)
    assert "EDGEOPT_PASSPHRASE" in caught.value.hint
    with pytest.raises(UsageError, match="no private key that can be read") as caught:
        load_signer(path, b"wrong")
    assert "check the passphrase" in caught.value.hint
    make_key(tmp_path / "open")
    assert not is_locked(tmp_path / "open")
    with pytest.raises(UsageError, match="is not locked"):
        load_signer(tmp_path / "open", b"one too many")


def test_what_is_no_key_or_the_wrong_one_is_named(keys: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no key"):
        load_signer(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds a private key") as caught:
        load_public_key(keys[0])
    assert f"{keys[0]}.pub" in caught.value.hint
    (tmp_path / "text").write_text("no key at all")
    with pytest.raises(UsageError, match="no public key"):
        load_public_key(tmp_path / "text")
    with pytest.raises(UsageError, match="no private key"):
        load_signer(public(keys[0]))
    other = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    (tmp_path / "curve").write_bytes(
        other.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "curve.pub").write_bytes(
        other.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    for load, path in ((load_signer, tmp_path / "curve"), (load_public_key, tmp_path / "curve.pub")):
        with pytest.raises(UsageError, match="another kind than Ed25519"):
            load(path)
