"""Verifying names what differs, in a folder and in a file, and says that nobody signed it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeopt.bundle import Bundle
from edgeopt.bundle.verify import load_bundle, verify_bundle
from edgeopt.errors import TrustError, UsageError


def test_a_whole_bundle_verifies_as_unsigned_in_both_forms(bundle: Bundle, file: Path) -> None:
    for path in (bundle.folder, file):
        found = verify_bundle(path)
        assert found.manifest == bundle.manifest
        assert found.signature == "unsigned"


def test_a_verified_folder_gives_its_artifact(bundle: Bundle) -> None:
    loaded = load_bundle(bundle.folder)
    assert (loaded.artifact.folder / loaded.artifact.files[0].path).is_file()


def test_every_difference_is_named(bundle: Bundle) -> None:
    (bundle.folder / "model/model.onnx").write_bytes(b"short")
    (bundle.folder / "recipe.yaml").write_bytes(b"edgeopt: 1\nname: digitz\n")
    (bundle.folder / "model/extra.bin").write_bytes(b"extra")
    (bundle.folder / "model/parts/second.bin").unlink()
    with pytest.raises(TrustError) as caught:
        verify_bundle(bundle.folder)
    assert "`model/model.onnx` has 5 bytes, not 2304" in caught.value.message
    assert "`recipe.yaml` has another content" in caught.value.message
    assert "`model/extra.bin` is not listed" in caught.value.message
    assert "`model/parts/second.bin` is missing" in caught.value.message
    assert caught.value.exit_code == 4


def test_a_long_list_of_differences_is_cut(bundle: Bundle) -> None:
    for number in range(40):
        (bundle.folder / f"extra{number}").touch()
    with pytest.raises(TrustError, match="and 35 more"):
        verify_bundle(bundle.folder)


def test_a_link_is_not_the_file_that_it_points_to(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.folder / "recipe.yaml").rename(tmp_path / "recipe.yaml")
    (bundle.folder / "recipe.yaml").symlink_to(tmp_path / "recipe.yaml")
    with pytest.raises(TrustError, match=r"`recipe.yaml` is not a plain file"):
        verify_bundle(bundle.folder)


def test_a_linked_folder_is_not_followed(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.folder / "model").rename(tmp_path / "model")
    (bundle.folder / "model").symlink_to(tmp_path / "model")
    with pytest.raises(TrustError, match="`model` is not a plain file"):
        verify_bundle(bundle.folder)


def test_a_pipe_is_refused_without_waiting_for_it(bundle: Bundle) -> None:
    (bundle.folder / "recipe.yaml").unlink()
    os.mkfifo(bundle.folder / "recipe.yaml")
    with pytest.raises(TrustError, match="not a plain file"):
        verify_bundle(bundle.folder)


def test_a_huge_manifest_is_refused_unread(bundle: Bundle) -> None:
    with (bundle.folder / "manifest.json").open("r+b") as stream:
        stream.truncate(10**12)
    with pytest.raises(TrustError, match="larger than 1000000"):
        verify_bundle(bundle.folder)


def test_a_place_without_a_bundle_is_a_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no bundle in"):
        verify_bundle(tmp_path)
    with pytest.raises(UsageError, match="there is no bundle file"):
        verify_bundle(tmp_path / "digits.edgeopt")
