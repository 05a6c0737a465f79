"""Signing: what may be signed, by whom in turn, in both forms of a bundle; and every attack on what was signed."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeopt import files
from edgeopt.bundle import Bundle
from edgeopt.bundle.archive import pack_members
from edgeopt.bundle.pack import Contents, pack_bundle, pack_file
from edgeopt.bundle.release import verify_release
from edgeopt.bundle.sign import Terms, sign_bundle
from edgeopt.bundle.trust import Root
from edgeopt.bundle.unpack import unpack_bundle
from edgeopt.bundle.verify import load_bundle, verify_bundle
from edgeopt.errors import EdgeoptError, TrustError, UsageError
from tests.signers import Holders


@pytest.fixture(scope="module")
def holders(tmp_path_factory: pytest.TempPathFactory) -> Holders:
    return Holders(tmp_path_factory.mktemp("holders"))


@pytest.fixture
def root(holders: Holders) -> Root:
    return Root(version=1, root=holders.role("ann"), releases=holders.role("cat"))


@pytest.fixture
def signed(file: Path, holders: Holders, tmp_path: Path) -> Path:
    """The bundle's one file, signed by Cat."""
    return holders.sign(file, tmp_path / "signed.edgeopt", "cat", counter=7)


def test_a_signed_bundle_verifies_against_the_root_in_both_forms(
    signed: Path, bundle: Bundle, root: Root, tmp_path: Path
) -> None:
    unpacked = unpack_bundle(signed, tmp_path / "unpacked")
    for path in (signed, unpacked.folder):
        found = verify_bundle(path, root)
        assert found.manifest == bundle.manifest
        assert found.release is not None
        assert found.signature == "signed, counter 7, channel stable, never expires"


def test_both_forms_are_signed_alike(bundle: Bundle, signed: Path, holders: Holders, tmp_path: Path) -> None:
    folder = holders.sign(bundle.folder, tmp_path / "folder", "cat", counter=7)
    pack_file(folder, tmp_path / "packed.edgeopt")
    assert (tmp_path / "packed.edgeopt").read_bytes() == signed.read_bytes()


def test_a_bundle_is_signed_in_place_and_stays_whole(bundle: Bundle, file: Path, root: Root, holders: Holders) -> None:
    for path in (bundle.folder, file):
        holders.sign(path, path, "cat", counter=3)
        assert verify_bundle(path, root).release is not None


def test_without_a_root_a_signature_is_told_and_not_believed(signed: Path) -> None:
    found = verify_bundle(signed)
    assert found.release is None
    assert "which `--root` would prove" in found.signature


def test_holders_sign_in_turn_under_the_same_terms(file: Path, holders: Holders, tmp_path: Path) -> None:
    both = Root(version=1, root=holders.role("ann"), releases=holders.role("cat", "dan", threshold=2))
    holders.sign(file, file, "cat", counter=7)
    with pytest.raises(TrustError, match="not signed by 2 of the keys"):
        verify_bundle(file, both)
    holders.sign(file, file, "dan", counter=7)
    assert verify_bundle(file, both).release is not None


@pytest.mark.parametrize(
    "terms", [{"counter": 8}, {"counter": 7, "channel": "beta"}, {"counter": 7, "not_after": "2030-01-01"}]
)
def test_under_other_terms_older_signatures_go(terms: dict[str, object], file: Path, holders: Holders) -> None:
    both = Root(version=1, root=holders.role("ann"), releases=holders.role("cat", "dan", threshold=2))
    holders.sign(file, file, "cat", counter=7)
    holders.sign(file, file, "dan", **terms)  # type: ignore[arg-type]
    with pytest.raises(TrustError, match="not signed by 2"):
        verify_bundle(file, both)


@pytest.mark.parametrize("verdict", ["fail", "inconclusive", "unmeasured"])
def test_a_verdict_that_is_no_pass_is_signed_only_if_it_is_allowed_and_that_is_said(
    verdict: str, contents: Contents, holders: Holders, root: Root, tmp_path: Path
) -> None:
    judged = {"budget": "latency.max_ratio", "verdict": verdict, "margin": None, "sentence": "hm"}
    folder = pack_bundle(replace(contents, verdicts=(*contents.verdicts, judged)), tmp_path / "judged").folder
    for allow in ((), ({"fail": "inconclusive"}.get(verdict, "fail"),)):
        with pytest.raises(TrustError, match=f"is not signed: a verdict of it is `{verdict}`") as caught:
            holders.sign(folder, tmp_path / "out", "cat", allow=allow)
        assert f"`--allow {verdict}`" in caught.value.hint
    assert not (tmp_path / "out").exists()
    holders.sign(folder, tmp_path / "out", "cat", allow=(verdict,))
    assert verify_bundle(tmp_path / "out", root).manifest.allowed == (verdict,)


def test_what_no_budget_judged_is_unmeasured(contents: Contents, holders: Holders, tmp_path: Path) -> None:
    folder = pack_bundle(replace(contents, verdicts=()), tmp_path / "judged").folder
    with pytest.raises(TrustError, match="it was judged by no budget"):
        holders.sign(folder, tmp_path / "out", "cat")
    holders.sign(folder, tmp_path / "out", "cat", allow=("unmeasured",))
    assert load_bundle(tmp_path / "out").manifest.allowed == ("unmeasured",)


def test_all_verdicts_must_be_allowed_not_one_of_them(contents: Contents, holders: Holders, tmp_path: Path) -> None:
    verdicts = tuple({"budget": "b", "verdict": verdict} for verdict in ("fail", "unmeasured"))
    folder = pack_bundle(replace(contents, verdicts=verdicts), tmp_path / "judged").folder
    with pytest.raises(TrustError, match="`unmeasured`"):
        holders.sign(folder, tmp_path / "out", "cat", allow=("fail",))


@pytest.mark.parametrize(
    "terms",
    [{"counter": 0}, {"counter": 2**53}, {"channel": "a b"}, {"not_after": "tomorrow"}, {"not_after": "2027-02-30"}],
)
def test_terms_that_are_none_are_a_wrong_usage(
    terms: dict[str, object], file: Path, holders: Holders, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"`{next(iter(terms))}`"):
        holders.sign(file, tmp_path / "out", "cat", **{"counter": 1, **terms})  # type: ignore[arg-type]


def test_a_damaged_bundle_is_not_signed(bundle: Bundle, file: Path, holders: Holders, tmp_path: Path) -> None:
    (bundle.folder / "recipe.yaml").write_bytes(b"another")
    file.write_bytes(file.read_bytes()[:-1])
    for path in (bundle.folder, file):
        with pytest.raises(TrustError):
            holders.sign(path, tmp_path / "out", "cat")
    assert not (tmp_path / "out").exists()


def test_signing_with_a_full_disk_leaves_the_bundle_as_it_was(
    file: Path, holders: Holders, tmp_path: Path, fail_at_each_write: Callable[..., Iterator[EdgeoptError]]
) -> None:
    holders.key("cat")
    before, content, failures = sorted(tmp_path.rglob("*")), file.read_bytes(), 0
    for _ in fail_at_each_write(lambda: holders.sign(file, file, "cat")):
        assert sorted(tmp_path.rglob("*")) == before
        assert file.read_bytes() == content
        failures += 1
    assert failures > 10


Refused = Callable[[bytes], None]


@pytest.fixture
def refused(root: Root, tmp_path: Path) -> Refused:
    """Asserts that whoever trusts the root takes nothing of these bytes, and that nothing is left of the attempt."""

    def assert_refused(data: bytes) -> None:
        hostile = tmp_path / "hostile.edgeopt"
        hostile.write_bytes(data)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(TrustError):
            verify_bundle(hostile, root)
        with pytest.raises(TrustError):
            unpack_bundle(
                hostile, tmp_path / "taken", lambda release, manifest: verify_release(release, manifest, root)
            )
        assert sorted(tmp_path.rglob("*")) == before

    return assert_refused


def test_every_prefix_of_a_signed_file_is_refused(signed: Path, refused: Refused) -> None:
    data = signed.read_bytes()
    for length in [*range(0, 1500, 13), *range(1500, len(data), 97), len(data) - 1]:
        refused(data[:length])


def test_300_flips_of_a_signed_file_are_refused(signed: Path, refused: Refused) -> None:
    data, numbers = signed.read_bytes(), random.Random(0)
    for place in [*(numbers.randrange(1200) for _ in range(150)), *(numbers.randrange(len(data)) for _ in range(150))]:
        refused(data[:place] + bytes([data[place] ^ numbers.randrange(1, 256)]) + data[place + 1 :])


def test_300_flips_of_a_release_whose_checksums_agree_are_refused(
    signed: Path, refused: Refused, tmp_path: Path
) -> None:
    members, numbers = members_of(signed, tmp_path), random.Random(0)
    (name, release), *rest = members
    assert pack_members(members) == signed.read_bytes()
    for _ in range(300):
        place = numbers.randrange(len(release))
        flipped = release[:place] + bytes([release[place] ^ numbers.randrange(1, 256)]) + release[place + 1 :]
        refused(pack_members([(name, flipped), *rest]))


def test_no_two_files_are_the_same_signed_bundle(signed: Path, refused: Refused, tmp_path: Path) -> None:
    (name, release), *rest = members_of(signed, tmp_path)
    for other in (
        release + b"\n",
        b" " + release,
        release.replace(b":", b": "),
        release.replace(b'"sig":', b'"x":1,"sig":'),
    ):
        refused(pack_members([(name, other), *rest]))


def members_of(file: Path, tmp_path: Path) -> list[tuple[str, bytes]]:
    bundle = unpack_bundle(file, tmp_path / "members")
    names = ["release.json", "manifest.json", *(listed.path for listed in bundle.manifest.files)]
    members = [(name, (bundle.folder / name).read_bytes()) for name in names]
    files.remove(bundle.folder)
    return members


def test_members_of_two_signed_bundles_do_not_mix(
    signed: Path, contents: Contents, holders: Holders, refused: Refused, tmp_path: Path
) -> None:
    folder = pack_bundle(replace(contents, recipe=b"another: recipe, an older one\n"), tmp_path / "older").folder
    pack_file(folder, tmp_path / "older.edgeopt")
    older = holders.sign(tmp_path / "older.edgeopt", tmp_path / "older.edgeopt", "cat", counter=6)
    new, old = members_of(signed, tmp_path), members_of(older, tmp_path)
    assert [name for name, _ in new] == [name for name, _ in old]
    for index in range(len(new)):
        if new[index] != old[index]:
            refused(pack_members([*new[:index], old[index], *new[index + 1 :]]))
    refused(pack_members([new[0], *old[1:]]))
    refused(pack_members([*new[:1], *old[1:2], *new[2:]]))


def test_a_removed_moved_repeated_or_foreign_release_is_refused(
    signed: Path, holders: Holders, file: Path, refused: Refused, tmp_path: Path
) -> None:
    release, *rest = members_of(signed, tmp_path)
    foreign = members_of(holders.sign(file, tmp_path / "foreign.edgeopt", "eve", counter=9), tmp_path)[0]
    for hostile in (rest, [*rest, release], [rest[0], release, *rest[1:]], [release, release, *rest], [foreign, *rest]):
        refused(pack_members(hostile))
    for content in (b"", b"{}", b"null", b"[" * 5000, b" " * 100_001):
        refused(pack_members([(release[0], content), *rest]))


def test_a_release_that_claims_four_gigabytes_is_refused_unread(signed: Path, refused: Refused) -> None:
    data = bytearray(signed.read_bytes())
    struct.pack_into("<II", data, 18, 0xFFFF_FFFF, 0xFFFF_FFFF)
    refused(bytes(data))


def test_a_damaged_signature_in_a_folder_is_refused(bundle: Bundle, root: Root, holders: Holders) -> None:
    holders.sign(bundle.folder, bundle.folder, "cat", counter=2)
    path = bundle.folder / "release.json"
    content = path.read_bytes()
    for data in (b"", content[:-1], content + b" ", content.replace(b"sig", b"gis"), b"x" * 100_001):
        path.write_bytes(data)
        with pytest.raises(TrustError):
            verify_bundle(bundle.folder, root)
    path.unlink()
    with pytest.raises(TrustError, match="not signed"):
        verify_bundle(bundle.folder, root)
    path.symlink_to("/dev/zero")
    with pytest.raises(TrustError, match="not a plain file"):
        verify_bundle(bundle.folder, root)


def test_nobody_signs_what_is_not_there(holders: Holders, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no bundle"):
        sign_bundle(tmp_path / "none.edgeopt", tmp_path / "out", Terms(1), [holders.signer("cat")])
