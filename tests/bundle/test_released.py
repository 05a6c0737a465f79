"""Bundles made by every released version keep verifying: see `released/README.md`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeopt.bundle.release import Release, verify_release
from edgeopt.bundle.trust import Root, load_root
from edgeopt.bundle.unpack import unpack_bundle
from edgeopt.bundle.verify import verify_bundle
from edgeopt.errors import TrustError
from tests.signers import Holders

RELEASED = Path(__file__).parent / "released"

#: the name of a file → the digest that its manifest had when it was made
DIGESTS = {
    "0.1.0-unsigned": "fe55e1f534f849875f1b905d360401e5fab9a9b5614c10c1abaa73d0eb2c0e59",
    "0.1.0-signed": "42efdf3c1adf1c2adf6f740f884f1eea7912ade0381bce1cbc5d2b74baa8bb50",
}

SIGNED = [name for name in DIGESTS if name.endswith("-signed")]


def bundle(name: str) -> Path:
    return RELEASED / f"{name}.edgeopt"


def root(name: str) -> Root:
    return load_root(RELEASED / f"{name}.root.json")


def test_every_file_of_the_corpus_is_known() -> None:
    assert {path.stem for path in RELEASED.glob("*.edgeopt")} == DIGESTS.keys()
    assert {path.name for path in RELEASED.glob("*.root.json")} == {f"{name}.root.json" for name in SIGNED}


@pytest.mark.parametrize("name", DIGESTS)
def test_it_is_read_as_what_it_was(name: str, tmp_path: Path) -> None:
    assert verify_bundle(bundle(name)).manifest.digest() == DIGESTS[name]
    unpacked = unpack_bundle(bundle(name), tmp_path / "unpacked")
    assert unpacked.manifest.classes == ("null", "één", "two", "three")
    for sample in unpacked.golden():
        np.testing.assert_array_equal(sample.outputs["scores"], 10 * sample.inputs["image"])


@pytest.mark.parametrize("name", SIGNED)
def test_what_was_signed_is_still_believed_and_by_nobody_else(name: str) -> None:
    found = verify_bundle(bundle(name), root(name)).release
    assert found == Release(
        name="digits", target="x86", manifest_sha256=DIGESTS[name], counter=7, channel="beta", not_after="2027-01-31"
    )
    other = root(name).model_copy(update={"releases": root(name).root})
    with pytest.raises(TrustError, match="not signed by"):
        verify_bundle(bundle(name), other)


@pytest.mark.parametrize("name", DIGESTS)
def test_an_old_bundle_is_signed_by_today_s_code(name: str, tmp_path: Path) -> None:
    holders = Holders(tmp_path)
    signed = holders.sign(bundle(name), tmp_path / "signed.edgeopt", "cat", counter=9)
    today = Root(version=1, root=holders.role("ann"), releases=holders.role("cat"))
    found = verify_bundle(signed, today)
    assert found.release is not None
    assert found.manifest.digest() == DIGESTS[name]


@pytest.mark.parametrize("name", SIGNED)
def test_what_vouches_for_one_version_does_not_vouch_for_another(name: str, tmp_path: Path) -> None:
    for other in DIGESTS.keys() - {name}:
        manifest = verify_bundle(bundle(other)).manifest
        envelope = unpack_bundle(bundle(name), tmp_path / "unpacked").release
        with pytest.raises(TrustError, match="another bundle than this"):
            verify_release(envelope, manifest, root(name))
