"""Hostile bundles on a device, signed or not: each is refused in one line, and nothing around the device changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.hostile_bundles import Tried, make_flips, make_hostile, make_prefixes, try_hostile
from benchmarks.hostile_manifests import make_signed, members_of, sign_manifest
from benchmarks.shipments import Publisher
from edgeopt.compression import compress
from edgeopt.device.install import install

pytestmark = pytest.mark.filterwarnings("ignore:Duplicate name")


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher.make(tmp_path / "publisher")


def faults(tried: Tried) -> list[str]:
    return [*tried.outside, *tried.wrong, *tried.stumbled]


def test_a_hostile_bundle_of_any_kind_is_refused_and_leaves_nothing(publisher: Publisher, tmp_path: Path) -> None:
    tried = try_hostile("unsigned", publisher, tmp_path, make_hostile(publisher))
    assert faults(tried) == []
    assert tried.count >= 60


def test_a_hostile_manifest_is_refused_though_the_right_key_has_signed_it(publisher: Publisher, tmp_path: Path) -> None:
    _, members = members_of(publisher.publish(2))
    sound = tmp_path / "sound.edgeopt"
    sound.write_bytes(sign_manifest(publisher, members, 2))  # so it is by the manifest that the others are refused
    assert install(publisher.make_device(tmp_path / "device"), sound).is_new
    tried = try_hostile("signed", publisher, tmp_path, make_signed(publisher))
    assert faults(tried) == []
    assert tried.count >= 30


def test_a_signed_bundle_that_is_cut_or_flipped_anywhere_is_refused(publisher: Publisher, tmp_path: Path) -> None:
    data = publisher.publish(2).read_bytes()
    packed = compress(data)
    hostile = {
        "prefixes": make_prefixes(data, 197), "flips": make_flips(data, 100),
        "compressed prefixes": make_prefixes(packed, 41), "compressed flips": make_flips(packed, 200),
    }  # fmt: skip
    for name, kind in hostile.items():
        assert faults(try_hostile(name, publisher, tmp_path, kind)) == []


def test_what_gets_in_and_what_is_left_outside_does_not_go_unnoticed(publisher: Publisher, tmp_path: Path) -> None:
    sound = publisher.publish(2)

    def write(path: Path) -> None:
        path.write_bytes(sound.read_bytes())
        path.with_name("escaped").write_bytes(b"x")

    tried = try_hostile("sound", publisher, tmp_path, [("a sound one", write)])
    assert tried.wrong == ["a sound one"]
    assert any("releases" in line for line in tried.outside)
