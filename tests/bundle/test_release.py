"""A release binds one manifest to its terms, and nothing that is not exactly what was signed counts."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.bundle import Bundle
from edgeopt.bundle.manifest import Manifest
from edgeopt.bundle.release import LARGEST_COUNTER, PAYLOAD_TYPE, Release, read_release, verify_release
from edgeopt.bundle.signing import sign
from edgeopt.bundle.trust import Root
from edgeopt.errors import TrustError
from edgeopt.model import canonical_json
from tests.signers import Holders


@pytest.fixture(scope="module")
def holders(tmp_path_factory: pytest.TempPathFactory) -> Holders:
    return Holders(tmp_path_factory.mktemp("holders"))


@pytest.fixture
def root(holders: Holders) -> Root:
    return Root(version=1, root=holders.role("ann"), releases=holders.role("cat", "dan", threshold=2))


def stated(manifest: Manifest, **changes: Any) -> dict[str, Any]:
    fields = {"name": manifest.name, "target": manifest.target, "manifest_sha256": manifest.digest(), "counter": 7}
    return Release(**fields).model_dump(mode="json") | changes


def envelope(content: object, holders: Holders, *names: str) -> bytes:
    return sign(canonical_json(content), PAYLOAD_TYPE, [holders.signer(name) for name in names])


def test_what_enough_keys_have_signed_is_believed(bundle: Bundle, root: Root, holders: Holders) -> None:
    data = envelope(stated(bundle.manifest, channel="beta", not_after="2027-01-31"), holders, "cat", "dan")
    release = verify_release(data, bundle.manifest, root)
    assert (release.counter, release.channel, release.not_after) == (7, "beta", "2027-01-31")
    assert read_release(data) == release


def test_a_removed_signature_is_refused(bundle: Bundle, root: Root) -> None:
    with pytest.raises(TrustError, match="the bundle is not signed") as caught:
        verify_release(None, bundle.manifest, root)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("names", [("cat",), ("dan",), ("ann",), ("cat", "ann"), ("eve", "fay"), ()])
def test_too_few_or_wrong_keys_are_refused(
    names: tuple[str, ...], bundle: Bundle, root: Root, holders: Holders
) -> None:
    with pytest.raises(TrustError, match="not signed by 2 of the keys"):
        verify_release(envelope(stated(bundle.manifest), holders, *names), bundle.manifest, root)


@pytest.mark.parametrize("field", ["name", "target", "manifest_sha256"])
def test_a_release_of_another_bundle_is_refused(field: str, bundle: Bundle, root: Root, holders: Holders) -> None:
    other = stated(bundle.manifest, **{field: "0" * 64})
    with pytest.raises(TrustError, match="another bundle than this"):
        verify_release(envelope(other, holders, "cat", "dan"), bundle.manifest, root)


@pytest.mark.parametrize(
    "changes",
    [
        {"counter": 0}, {"counter": -1}, {"counter": LARGEST_COUNTER + 1}, {"counter": "7"}, {"counter": 7.0},
        {"counter": True}, {"counter": None}, {"edgeopt_release": 2}, {"edgeopt_release": "1"},
        {"channel": ""}, {"channel": "a b"}, {"channel": "../x"}, {"channel": "stable\n"}, {"channel": "x" * 65},
        {"not_after": "2027-1-31"}, {"not_after": "20270131"}, {"not_after": "2027-02-30"}, {"not_after": "never"},
        {"not_after": "2027-01-31\n"}, {"not_after": 20270131}, {"not_after": ""}, {"manifest_sha256": "0" * 63},
        {"manifest_sha256": "0" * 64 + "\n"}, {"name": 1}, {"min_counter": 9},
    ],
    ids=str,
)  # fmt: skip
def test_unsound_terms_are_refused_though_they_are_signed(
    changes: dict[str, object], bundle: Bundle, root: Root, holders: Holders
) -> None:
    data = envelope(stated(bundle.manifest, **changes), holders, "cat", "dan")
    with pytest.raises(TrustError, match="the release is not sound"):
        verify_release(data, bundle.manifest, root)


def test_what_was_signed_has_one_form_only(bundle: Bundle, root: Root, holders: Holders) -> None:
    signers = [holders.signer("cat"), holders.signer("dan")]
    loose = sign(json.dumps(stated(bundle.manifest)).encode(), PAYLOAD_TYPE, signers)
    with pytest.raises(TrustError, match="not in its canonical form"):
        verify_release(loose, bundle.manifest, root)


def test_a_release_that_lacks_what_later_versions_will_add_still_counts(
    bundle: Bundle, root: Root, holders: Holders
) -> None:
    old = stated(bundle.manifest)
    del old["not_after"]  # as if it had come later than what signed this
    assert verify_release(envelope(old, holders, "cat", "dan"), bundle.manifest, root).not_after is None


@given(payload=st.binary(max_size=200) | st.dictionaries(st.text(max_size=9), st.integers()).map(canonical_json))
def test_of_a_signed_payload_that_is_no_release_comes_a_trust_error(payload: bytes, holders: Holders) -> None:
    with pytest.raises(TrustError, match="the release is not sound"):
        read_release(sign(payload, PAYLOAD_TYPE, [holders.signer("cat")]))


@given(
    counter=st.integers(1, LARGEST_COUNTER), channel=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)
)
def test_any_release_reads_back_as_it_was_signed(counter: int, channel: str, holders: Holders) -> None:
    release = Release(name="digits", target="x86", manifest_sha256="0" * 64, counter=counter, channel=channel)
    assert read_release(envelope(release.model_dump(mode="json"), holders, "cat")) == release


def at(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def test_it_expires_at_the_end_of_its_last_day_in_utc() -> None:
    release = Release(name="d", target="x", manifest_sha256="0" * 64, counter=1, not_after="2027-01-31")
    assert not release.is_expired(at("2027-01-31T23:59:59+00:00"))
    assert release.is_expired(at("2027-02-01T00:00:00+00:00"))
    assert not release.is_expired(at("2027-02-01T08:59:59+09:00"))  # in Tokyo it is a day further
    assert release.is_expired(at("2027-01-31T20:00:00-05:00"))
    assert release.tell_expiry() == "not after 2027-01-31"


def test_one_without_a_last_day_never_expires() -> None:
    release = Release(name="d", target="x", manifest_sha256="0" * 64, counter=1)
    assert not release.is_expired(at("9999-12-31T23:59:59+00:00"))
    assert release.tell_expiry() == "never expires"


def test_reading_proves_nothing_and_so_takes_no_root(holders: Holders, bundle: Bundle) -> None:
    forged = envelope(stated(bundle.manifest, counter=LARGEST_COUNTER), holders, "eve")
    assert read_release(forged).counter == LARGEST_COUNTER
