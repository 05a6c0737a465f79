"""A root is believed when enough of its keys have signed it; the next one, when those of the one before have, too."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.bundle.signing import sign
from edgeopt.bundle.trust import PAYLOAD_TYPE, Root, load_root, make_role, verify_root, write_root
from edgeopt.errors import TrustError, UsageError
from edgeopt.model import canonical_json
from tests.signers import Holders


@pytest.fixture(scope="module")
def holders(tmp_path_factory: pytest.TempPathFactory) -> Holders:
    return Holders(tmp_path_factory.mktemp("holders"))


@pytest.fixture
def first(holders: Holders) -> Root:
    """Ann and Ben rule together, Cat signs releases."""
    return Root(version=1, root=holders.role("ann", "ben", threshold=2), releases=holders.role("cat"))


@pytest.fixture
def second(holders: Holders) -> Root:
    """Ben's key is revoked and Dan's takes its place; Cat's is, and Eve's does."""
    return Root(version=2, root=holders.role("ann", "dan", threshold=2), releases=holders.role("eve"))


def signed(root: Root, holders: Holders, *names: str) -> bytes:
    return sign(canonical_json(root.model_dump(mode="json")), PAYLOAD_TYPE, [holders.signer(name) for name in names])


def test_a_root_that_its_keys_have_signed_reads_back(first: Root, holders: Holders, tmp_path: Path) -> None:
    holders.write_root(tmp_path / "root.json", first, "ann", "ben")
    assert load_root(tmp_path / "root.json") == first


@pytest.mark.parametrize("names", [(), ("ann",), ("ben",), ("cat",), ("ann", "cat"), ("cat", "dan")])
def test_a_root_with_too_few_signatures_of_its_keys_is_refused(
    names: tuple[str, ...], first: Root, holders: Holders
) -> None:
    with pytest.raises(TrustError, match="not signed by 2 of the keys"):
        verify_root(signed(first, holders, *names))


def test_signatures_gather_as_the_holders_sign_in_turn(first: Root, holders: Holders, tmp_path: Path) -> None:
    path = tmp_path / "root.json"
    holders.write_root(path, first, "ann")
    with pytest.raises(TrustError):
        load_root(path)
    holders.write_root(path, first, "ben")
    assert load_root(path) == first
    assert path.read_bytes() == signed(first, holders, "ben", "ann")


def test_a_root_that_is_there_is_not_replaced_by_another(
    first: Root, second: Root, holders: Holders, tmp_path: Path
) -> None:
    before = holders.write_root(tmp_path / "root.json", first, "ann", "ben")
    with pytest.raises(UsageError, match="is another root"):
        holders.write_root(tmp_path / "root.json", second, "ann", "ben", "dan")
    assert (tmp_path / "root.json").read_bytes() == before


def test_keys_change_hands_where_the_old_and_the_new_ones_sign(first: Root, second: Root, holders: Holders) -> None:
    assert verify_root(signed(second, holders, "ann", "ben", "dan"), first) == second


@pytest.mark.parametrize(
    "names", [("ann", "dan"), ("ben", "dan"), ("ann", "ben"), ("dan",), ("ann", "dan", "cat", "eve"), ()]
)
def test_a_new_root_without_the_threshold_of_either_is_refused(
    names: tuple[str, ...], first: Root, second: Root, holders: Holders
) -> None:
    with pytest.raises(TrustError, match="not signed by 2 of the keys"):
        verify_root(signed(second, holders, *names), first)


@pytest.mark.parametrize("version", [1, 3, 4])
def test_only_the_next_version_replaces_a_root(version: int, first: Root, second: Root, holders: Holders) -> None:
    other = second.model_copy(update={"version": version})
    with pytest.raises(TrustError, match=f"has version {version}, and follows on version 1") as caught:
        verify_root(signed(other, holders, "ann", "ben", "dan"), first)
    assert caught.value.exit_code == 4
    assert "one by one" in caught.value.hint


def test_whoever_signs_releases_cannot_make_roots(first: Root, holders: Holders) -> None:
    mine = Root(version=2, root=holders.role("cat"), releases=holders.role("cat"))
    with pytest.raises(TrustError):
        verify_root(signed(mine, holders, "cat"), first)


def test_a_signed_release_is_no_root(first: Root, holders: Holders) -> None:
    payload = canonical_json(first.model_dump(mode="json"))
    release = sign(payload, "application/vnd.edgeopt.release+json", [holders.signer("ann"), holders.signer("ben")])
    with pytest.raises(TrustError, match="what was signed is"):
        verify_root(release)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"edgeopt_root": 2}, "edgeopt_root"), ({"version": 0}, "version"), ({"version": "1"}, "version"),
        ({"version": 1.0}, "version"), ({"note": "hello"}, "note"), ({"releases": None}, "releases"),
        ({"releases": {"keys": [], "threshold": 1}}, r"releases\.keys"),
        ({"releases": {"keys": ["00" * 32], "threshold": 0}}, r"releases\.threshold"),
        ({"releases": {"keys": ["00" * 32], "threshold": 2}}, "2 of 1 keys cannot sign"),
        ({"releases": {"keys": ["00" * 32] * 2, "threshold": 2}}, "a key is named twice"),
        ({"releases": {"keys": ["ab" * 32, "AB" * 32], "threshold": 2}}, "64 hexadecimal digits"),
        ({"releases": {"keys": ["no key"], "threshold": 1}}, "64 hexadecimal digits"),
    ],
)  # fmt: skip
def test_an_unsound_root_is_refused_though_its_keys_have_signed_it(
    changes: dict[str, object], place: str, first: Root, holders: Holders
) -> None:
    payload = canonical_json(first.model_dump(mode="json") | changes)
    data = sign(payload, PAYLOAD_TYPE, [holders.signer("ann"), holders.signer("ben")])
    with pytest.raises(TrustError, match=f"the root is not sound: .*{place}"):
        verify_root(data)


def test_a_root_has_one_form_only(first: Root, holders: Holders) -> None:
    loose = json.dumps(first.model_dump(mode="json")).encode()
    with pytest.raises(TrustError, match="not in its canonical form"):
        verify_root(sign(loose, PAYLOAD_TYPE, [holders.signer("ann"), holders.signer("ben")]))


def test_every_prefix_and_300_flips_of_a_root_are_refused(first: Root, holders: Holders) -> None:
    data, numbers = signed(first, holders, "ann", "ben"), random.Random(0)
    for length in range(len(data)):
        with pytest.raises(TrustError):
            verify_root(data[:length])
    for _ in range(300):
        place = numbers.randrange(len(data))
        with pytest.raises(TrustError):
            verify_root(data[:place] + bytes([data[place] ^ numbers.randrange(1, 256)]) + data[place + 1 :])


@given(payload=st.binary(max_size=200) | st.dictionaries(st.text(max_size=9), st.integers()).map(canonical_json))
def test_of_a_signed_payload_that_is_no_root_comes_a_trust_error(payload: bytes, holders: Holders) -> None:
    with pytest.raises(TrustError, match="the root is not sound"):
        verify_root(sign(payload, PAYLOAD_TYPE, [holders.signer("ann")]))


def test_no_role_is_made_that_its_keys_cannot_fill(holders: Holders) -> None:
    keys = [holders.public("ann"), holders.public("ben")]
    for named, threshold, what in (
        (keys, 3, "3 of 2"),
        (keys, 0, "greater"),
        ([], 1, "at least 1"),
        (keys[:1] * 2, 2, "twice"),
    ):
        with pytest.raises(UsageError, match=f"no such role: .*{what}"):
            make_role(named, threshold)


def test_what_is_no_root_is_not_read(tmp_path: Path, first: Root, holders: Holders) -> None:
    with pytest.raises(UsageError, match="there is no root"):
        load_root(tmp_path / "root.json")
    with (tmp_path / "root.json").open("wb") as stream:
        stream.truncate(10**10)
    with pytest.raises(TrustError, match="larger than 100000 bytes"):
        load_root(tmp_path / "root.json")
    (tmp_path / "text.json").write_text("hello")
    with pytest.raises(TrustError, match="damaged"):
        write_root(tmp_path / "text.json", first, [holders.signer("ann")])
