"""Whoever holds too few keys gets nothing in: each attack by its name, each refused for its own reason, with exit 4."""

from __future__ import annotations

import base64
import datetime
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.shipments import Publisher, make_root, make_signing_key
from edgeopt.bundle.archive import pack_members
from edgeopt.bundle.release import LARGEST_COUNTER, PAYLOAD_TYPE
from edgeopt.bundle.signing import load_signer, sign
from edgeopt.device.activate import activate
from edgeopt.device.collect import collect
from edgeopt.device.home import Home
from edgeopt.device.install import install
from edgeopt.errors import TrustError
from edgeopt.model import canonical_json

REPORT_TYPE = "application/vnd.edgeopt.report+json"

Members = dict[str, bytes]


@dataclass(frozen=True)
class Scene:
    """A device that runs release 5 of `publisher`, and an attacker who has `stranger`, a key that nobody trusts."""

    publisher: Publisher
    home: Home
    stranger: Path
    folder: Path

    def refuses(self, bundle: Path, why: str, **how: object) -> None:
        """Asserts that it is refused for this reason, and that the device goes on as if it had never come."""
        before, held = self.home.state(), sorted(self.home.folder.rglob("*"))
        with pytest.raises(TrustError, match=why) as caught:
            install(self.home, bundle, **how)  # type: ignore[arg-type]
        assert caught.value.exit_code == 4
        assert (self.home.state(), sorted(self.home.folder.rglob("*"))) == (before, held)

    def repack(self, bundle: Path, change: Callable[[Members], Members]) -> Path:
        """The bundle with other members, as a packer leaves it."""
        with zipfile.ZipFile(bundle) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        path = self.folder / "repacked.edgeopt"
        path.write_bytes(pack_members(list(change(members).items())))
        return path


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    publisher = Publisher.make(tmp_path / "publisher")
    home = publisher.make_device(tmp_path / "device", board="rpi5")
    install(home, publisher.publish(5))
    return Scene(publisher, home, make_signing_key(tmp_path, "stranger.key"), tmp_path)


def on(day: str) -> Callable[[], datetime.datetime]:
    return lambda: datetime.datetime.fromisoformat(f"{day}T12:00:00+00:00")


def members_of(bundle: Path) -> Members:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_rollback_to_an_older_release_however_well_signed(scene: Scene) -> None:
    scene.refuses(scene.publisher.publish(4), "counter 4, and 5 was installed")


def test_rollback_to_an_older_release_that_was_installed_once(scene: Scene) -> None:
    bundles = [scene.publisher.publish(counter) for counter in (6, 7, 8)]
    digests = [install(scene.home, bundle).digest for bundle in bundles if activate(scene.home)]
    activate(scene.home)
    install(scene.home, bundles[0])  # a repair of what is there still, which does not bring it back into use
    with pytest.raises(TrustError, match="has counter 6, 8 was installed"):
        activate(scene.home, digests[0])
    assert digests[0] in collect(scene.home).releases
    scene.refuses(bundles[0], "counter 6, and 8 was installed")


def test_replay_of_a_counter_with_another_content(scene: Scene) -> None:
    scene.refuses(scene.publisher.publish(5, weights=b"other weights"), "counter 5, and 5 was installed")


def test_freeze_on_a_release_that_has_expired(scene: Scene) -> None:
    stale = scene.publisher.publish(6, not_after="2027-01-31")
    scene.refuses(stale, "not to be installed after 2027-01-31, and it is 2027-02-01", now=on("2027-02-01"))
    install(scene.home, stale, now=on("2027-01-31"))


def test_a_clock_turned_back_to_the_factory_does_not_let_an_older_release_in(scene: Scene) -> None:
    old = scene.publisher.publish(4, not_after="2027-01-31")
    scene.refuses(old, "counter 4, and 5 was installed", now=on("1970-01-01"))


def test_fast_forward_by_a_counter_that_nobody_could_follow(scene: Scene) -> None:
    last = scene.publisher.publish(LARGEST_COUNTER, keys=[scene.stranger])
    scene.refuses(last, "not signed by the key")
    for wrong in (scene.publisher.publish(99, channel="nightly"), scene.publisher.publish(99, name="faces")):
        scene.refuses(wrong, "channel `nightly`|the bundle is `faces`")
    install(scene.home, scene.publisher.publish(6))


def test_mix_and_match_of_files(scene: Scene) -> None:
    first, second = scene.publisher.publish(6), scene.publisher.publish(7)
    model = members_of(first)["model/model.onnx"]
    mixed = scene.repack(second, lambda members: members | {"model/model.onnx": model})
    scene.refuses(mixed, "holds a `model/model.onnx` that is not the one its manifest names")


def test_mix_and_match_of_a_release_and_another_manifest(scene: Scene) -> None:
    signed, other = scene.publisher.publish(9), scene.publisher.publish(6, weights=b"other weights")
    mixed = scene.repack(other, lambda members: members | {"release.json": members_of(signed)["release.json"]})
    scene.refuses(mixed, "what was signed is another bundle")


def test_a_release_of_another_channel(scene: Scene) -> None:
    scene.refuses(scene.publisher.publish(6, channel="nightly"), "for channel `nightly`, and this device follows")


def test_a_release_for_another_board(scene: Scene) -> None:
    bundle = scene.publisher.publish(6, compatible={"board": "orin"})
    scene.refuses(bundle, "it is for the board `orin`, and this is `rpi5`")


def test_a_release_of_another_application(scene: Scene) -> None:
    scene.refuses(scene.publisher.publish(6, name="faces"), "the bundle is `faces`, and this device runs `digits`")


def test_a_removed_signature(scene: Scene) -> None:
    def strip(members: Members) -> Members:
        return {name: content for name, content in members.items() if name != "release.json"}

    scene.refuses(scene.repack(scene.publisher.publish(6), strip), "the bundle is not signed")
    scene.refuses(scene.publisher.pack(), "the bundle is not signed")


def test_an_envelope_without_signatures(scene: Scene) -> None:
    def strip(members: Members) -> Members:
        envelope = json.loads(members["release.json"]) | {"signatures": []}
        return members | {"release.json": canonical_json(envelope)}

    scene.refuses(scene.repack(scene.publisher.publish(6), strip), "not signed by the key|the signature is damaged")


def test_a_signature_of_a_key_that_nobody_trusts(scene: Scene) -> None:
    scene.refuses(scene.publisher.publish(6, keys=[scene.stranger]), "not signed by the key")


def test_a_strangers_signature_under_the_name_of_a_trusted_key(scene: Scene) -> None:
    genuine = json.loads(members_of(scene.publisher.publish(6))["release.json"])

    def rename(members: Members) -> Members:
        envelope = json.loads(members["release.json"])
        envelope["signatures"][0]["keyid"] = genuine["signatures"][0]["keyid"]
        return members | {"release.json": canonical_json(envelope)}

    forged = scene.repack(scene.publisher.publish(7, keys=[scene.stranger]), rename)
    scene.refuses(forged, "not signed by the key")


def test_a_threshold_that_one_key_cannot_reach_by_signing_twice(tmp_path: Path) -> None:
    publisher = Publisher.make(tmp_path / "publisher", keys=3, threshold=2)
    scene = Scene(publisher, publisher.make_device(tmp_path / "device"), publisher.keys[0], tmp_path)

    def double(members: Members) -> Members:
        envelope = json.loads(members["release.json"])
        envelope["signatures"] *= 2
        return members | {"release.json": canonical_json(envelope)}

    alone = publisher.publish(1, keys=publisher.keys[:1])
    scene.refuses(alone, "not signed by 2 of the keys")
    scene.refuses(scene.repack(alone, double), "not signed by 2 of the keys|the signature is damaged")
    install(scene.home, publisher.publish(1, keys=publisher.keys[1:]))


def test_the_key_that_a_rotation_has_revoked(scene: Scene) -> None:
    old, fresh = scene.publisher.keys[0], make_signing_key(scene.folder, "fresh.key")
    root = make_root(scene.folder / "2.json", [fresh], [fresh], version=2, signed_by=[old, fresh])
    before = scene.publisher.publish(6)
    scene.home.replace_root(root.read_bytes())
    for bundle in (before, scene.publisher.publish(7)):
        scene.refuses(bundle, "not signed by the key")
    install(scene.home, scene.publisher.publish(7, keys=[fresh]))


def test_a_release_that_was_installed_before_its_key_was_revoked_is_not_activated_any_more(scene: Scene) -> None:
    old, fresh = scene.publisher.keys[0], make_signing_key(scene.folder, "fresh.key")
    found = install(scene.home, scene.publisher.publish(6))
    root = make_root(scene.folder / "2.json", [fresh], [fresh], version=2, signed_by=[old, fresh])
    scene.home.replace_root(root.read_bytes())
    with pytest.raises(TrustError, match="not signed by the key"):
        activate(scene.home, found.digest)


def refuses_root(scene: Scene, root: Path, why: str) -> None:
    before = scene.home.root()
    with pytest.raises(TrustError, match=why):
        scene.home.replace_root(root.read_bytes())
    assert scene.home.root() == before


def test_a_new_root_that_only_its_own_keys_have_signed(scene: Scene) -> None:
    root = make_root(scene.folder / "2.json", [scene.stranger], [scene.stranger], version=2)
    refuses_root(scene, root, "not signed by the key")


def test_a_new_root_that_only_the_old_keys_have_signed(scene: Scene) -> None:
    root = make_root(
        scene.folder / "2.json", [scene.stranger], [scene.stranger], version=2, signed_by=scene.publisher.keys
    )
    refuses_root(scene, root, "not signed by the key")


def test_a_root_that_skips_a_version_or_comes_again(scene: Scene) -> None:
    keys = scene.publisher.keys
    for version in (1, 3):
        root = make_root(scene.folder / f"{version}.json", keys, keys, version=version)
        refuses_root(scene, root, f"version {version}, and follows on version 1")


def test_a_root_before_the_one_that_is_trusted(scene: Scene) -> None:
    old, fresh = scene.publisher.keys[0], make_signing_key(scene.folder, "fresh.key")
    root = make_root(scene.folder / "2.json", [fresh], [fresh], version=2, signed_by=[old, fresh])
    scene.home.replace_root(root.read_bytes())
    refuses_root(scene, scene.publisher.root, "version 1, and follows on version 2")


@pytest.mark.parametrize("relabel", [False, True])
def test_a_signed_report_in_place_of_a_release(relabel: bool, scene: Scene) -> None:
    """Its payload is a release to the letter: only the type, which is signed with it, tells them apart."""

    def swap(members: Members) -> Members:
        payload = json.loads(members["release.json"])["payload"]
        envelope = json.loads(sign(base64.b64decode(payload), REPORT_TYPE, [load_signer(scene.publisher.keys[0])]))
        if relabel:
            envelope["payloadType"] = PAYLOAD_TYPE
        return members | {"release.json": canonical_json(envelope)}

    confused = scene.repack(scene.publisher.publish(6, keys=[scene.stranger]), swap)
    scene.refuses(confused, "not signed by the key" if relabel else r"what was signed is `.*report\+json`")


def test_a_release_that_the_device_has_signed_itself(scene: Scene) -> None:
    """Its own key vouches for measurements; whoever takes one device over must not reach the others by it."""
    scene.refuses(scene.publisher.publish(6, keys=[scene.home.key]), "not signed by the key")


def test_a_release_exchanged_on_the_disk_after_it_was_installed(scene: Scene) -> None:
    digest = install(scene.home, scene.publisher.publish(6)).digest
    before = scene.home.state()
    other = scene.publisher.make_device(scene.folder / "other")
    evil = install(other, scene.publisher.publish(6, weights=b"evil weights")).digest
    shutil.rmtree(scene.home.path_of(digest))
    shutil.copytree(other.path_of(evil), scene.home.path_of(digest))
    with pytest.raises(TrustError, match="is another one than was installed"):
        activate(scene.home, digest)
    assert scene.home.state() == before


def test_an_attack_ends_the_command_with_exit_4_and_says_why(scene: Scene) -> None:
    root = make_root(scene.folder / "2.json", [scene.stranger], [scene.stranger], version=2)
    for command, given, why in (
        ("install", scene.publisher.pack(), "the bundle is not signed"),
        ("install", scene.publisher.publish(4), "counter 4, and 5 was installed"),
        ("trust", root, "not signed by the key"),
    ):
        line = [sys.executable, "-m", "edgeopt", "device", command, given, "--home", scene.home.folder]
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == 4
        assert why in done.stderr
