"""Packing: what goes in comes out, the same content gives the same bytes, and nothing half made is left."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeopt.bundle import Bundle
from edgeopt.bundle.manifest import Manifest
from edgeopt.bundle.pack import Contents, pack_bundle, pack_file
from edgeopt.bundle.unpack import unpack_bundle
from edgeopt.errors import BuildError, EdgeoptError, TrustError


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_packed_comes_out_again(contents: Contents, bundle: Bundle, file: Path, tmp_path: Path) -> None:
    unpacked = unpack_bundle(file, tmp_path / "unpacked")
    assert unpacked.manifest == bundle.manifest
    assert tree(unpacked.folder) == tree(bundle.folder)
    assert unpacked.artifact.digest() == contents.artifact.digest()
    assert (unpacked.artifact.folder / "model.onnx").read_bytes() == bytes(range(256)) * 9
    assert unpacked.manifest.preprocess == contents.preprocess
    assert unpacked.manifest.classes == ("null", "één", "two")
    np.testing.assert_array_equal(unpacked.golden()[1].outputs["logits"], np.arange(10, dtype=np.float32))


def test_the_manifest_lists_every_other_file(bundle: Bundle) -> None:
    assert {file.path for file in bundle.manifest.files} | {"manifest.json"} == set(tree(bundle.folder))


def test_the_same_content_gives_the_same_bytes(file: Path, pack_again: Callable[..., bytes]) -> None:
    assert pack_again() == file.read_bytes()


def test_how_long_the_build_took_is_not_content(
    contents: Contents, file: Path, pack_again: Callable[..., bytes]
) -> None:
    slower = contents.artifact.model_copy(update={"facts": {"build_seconds": 99.0}})
    assert pack_again(artifact=slower) == file.read_bytes()


def test_the_bytes_depend_on_no_clock_locale_or_folder(bundle: Bundle, file: Path, tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from edgeopt.bundle.pack import pack_file
        pack_file(Path(sys.argv[1]), Path(sys.argv[2]))"""
    environ = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", code, bundle.folder.name, "elsewhere.edgeopt"]
    subprocess.run(command, env=environ, cwd=tmp_path, check=True)
    assert (tmp_path / "elsewhere.edgeopt").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("change", [{"recipe": b"edgeopt: 1\n"}, {"classes": None}, {"golden": ()}, {"verdicts": ()}])
def test_other_content_gives_other_bytes(
    change: dict[str, object], file: Path, pack_again: Callable[..., bytes]
) -> None:
    assert pack_again(**change) != file.read_bytes()


def test_any_zip_tool_opens_the_file(bundle: Bundle, file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["manifest.json", *(listed.path for listed in bundle.manifest.files)]
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {oct(entry.external_attr >> 16) for entry in archive.infolist()} == {"0o100644"}
        assert Manifest.parse(archive.read("manifest.json")) == bundle.manifest


def test_a_file_that_changed_after_it_was_measured_is_not_packed(contents: Contents, tmp_path: Path) -> None:
    (contents.artifact.folder / "model.onnx").write_bytes(b"another model")
    with pytest.raises(TrustError, match="changed after they were measured"):
        pack_bundle(contents, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_folder_that_was_changed_is_not_packed(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.folder / "recipe.yaml").write_bytes(b"edgeopt: 2\n")
    with pytest.raises(TrustError, match=r"recipe\.yaml"):
        pack_file(bundle.folder, tmp_path / "digits.edgeopt")
    assert not (tmp_path / "digits.edgeopt").exists()


def test_an_artifact_larger_than_a_bundle_may_be_is_named(contents: Contents, tmp_path: Path) -> None:
    large = contents.artifact.files[0].model_copy(update={"size_bytes": 5_000_000_000})
    artifact = contents.artifact.model_copy(update={"files": (large,)})
    with pytest.raises(BuildError, match="at most 4000000000"):
        pack_bundle(replace(contents, artifact=artifact), tmp_path / "bundle")


def test_measurements_larger_than_a_manifest_may_be_are_named(contents: Contents, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="the manifest of `onnxruntime_cpu/int8` is larger"):
        pack_bundle(replace(contents, measurements=({"note": "x" * 1_000_000},)), tmp_path / "bundle")


def test_a_full_disk_at_any_write_leaves_the_old_bundle_and_nothing_else(
    contents: Contents, bundle: Bundle, tmp_path: Path, fail_at_each_write: Callable[..., Iterator[EdgeoptError]]
) -> None:
    before, beside = tree(bundle.folder), sorted(path.name for path in tmp_path.iterdir())
    failures = 0
    for error in fail_at_each_write(lambda: pack_bundle(replace(contents, recipe=b"new\n"), bundle.folder)):
        assert error.exit_code == 5
        assert "no space left" in error.message
        assert tree(bundle.folder) == before
        assert sorted(path.name for path in tmp_path.iterdir()) == beside
        failures += 1
    assert failures > 10
    assert (bundle.folder / "recipe.yaml").read_bytes() == b"new\n"
