"""A name is found by its file or its entry point, and one that is not comes with the closest that is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgeopt.passes
from edgeopt import registry
from edgeopt.errors import MissingError, UsageError


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed distribution that adds passes by entry points: a good one, a broken one, and no pass at all."""
    (tmp_path / "acme_passes.py").write_text(
        "from edgeopt.passes import Pass, PassResult\n"
        "class Sharpen(Pass):\n"
        "    accepts = produces = 'onnx'\n"
        "    def apply(self, model, context): return PassResult(model, False)\n"
    )
    (tmp_path / "acme_broken.py").write_text("import a_library_that_is_not_installed\n")
    metadata = tmp_path / "acme-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[edgeopt.passes]\nsharpen = acme_passes:Sharpen\nblunt = acme_broken:Blunt\nno_pass = acme_passes:PassResult\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    clear()
    yield tmp_path
    clear()
    sys.modules.pop("acme_passes", None)


def clear() -> None:
    registry.names.cache_clear()
    registry._entry_points.cache_clear()


@pytest.mark.parametrize(
    ("name", "expected"), [("quantize_int8", "QuantizeInt8"), ("npz", "Npz"), ("cast_fp16", "CastFp16")]
)
def test_the_class_of_a_name_is_its_camel_case(name: str, expected: str) -> None:
    assert registry.class_name(name) == expected


@pytest.mark.parametrize("kind", registry.INTERFACES)
def test_every_file_of_a_kind_is_known_by_its_name(kind: str) -> None:
    assert registry.names(kind), f"no file in edgeopt/{kind} holds a {registry.INTERFACES[kind]}"
    for name in registry.names(kind):
        found = registry.resolve(kind, name)
        assert found.__name__ == registry.class_name(name)
        assert registry.module_of(kind, name) == f"edgeopt.{kind}.{name}"


def test_the_machinery_beside_the_formats_is_no_format() -> None:
    assert "preprocess" not in registry.names("data")
    with pytest.raises(UsageError, match="unknown data format `preprocess`"):
        registry.resolve("data", "preprocess")


@pytest.mark.parametrize(
    ("kind", "name", "message", "hint"),
    [
        ("passes", "prune_chanels", "unknown pass `prune_chanels`", "did you mean `prune_channels`?"),
        ("backends", "onnxruntime_gpu", "unknown backend `onnxruntime_gpu`", "did you mean `onnxruntime_cpu`?"),
        ("sources", "xyzzy", "unknown source `xyzzy`", "known: onnx_file, torch_factory"),
        ("data", "nppz", "unknown data format `nppz`", "did you mean `npz`?"),
    ],
)
def test_an_unknown_name_comes_with_the_closest_known_one(kind: str, name: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        registry.resolve(kind, name)
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    "name", ["", "__init__", "..errors", "os.path", "a b", "passes", "edgeopt.passes", "é", "__main__"]
)
def test_a_name_never_leads_out_of_its_folder(name: str) -> None:
    with pytest.raises(UsageError, match="unknown pass"):
        registry.resolve("passes", name)


def test_a_third_party_adds_a_pass_by_an_entry_point(third_party: Path) -> None:
    found = registry.resolve("passes", "sharpen")
    assert issubclass(found, edgeopt.passes.Pass)
    assert "sharpen" in registry.names("passes")
    assert registry.module_of("passes", "sharpen") == "acme_passes"


def test_a_third_partys_broken_pass_fails_only_those_who_name_it(third_party: Path) -> None:
    assert registry.resolve("passes", "sharpen")
    assert "blunt" in registry.names("passes")
    with pytest.raises(MissingError, match=r"`blunt` from `acme_broken:Blunt` cannot be loaded: .*not_installed"):
        registry.resolve("passes", "blunt")


def test_a_third_partys_class_must_be_of_its_kind(third_party: Path) -> None:
    with pytest.raises(MissingError, match="`no_pass` from `acme_passes:PassResult` is no Pass"):
        registry.resolve("passes", "no_pass")
