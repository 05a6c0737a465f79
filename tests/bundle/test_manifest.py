"""The manifest is canonical, and a hostile one is refused before anything acts on it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.bundle import Bundle
from edgeopt.bundle.manifest import Manifest
from edgeopt.errors import TrustError
from edgeopt.model import canonical_json


def changed(bundle: Bundle, **changes: Any) -> bytes:
    return canonical_json(json.loads(bundle.manifest.to_bytes()) | changes)


def listed(bundle: Bundle, *names: str) -> bytes:
    """The manifest with extra files of these names."""
    found = json.loads(bundle.manifest.to_bytes())["files"]
    extra = [{"path": name, "sha256": "0" * 64, "size_bytes": 1} for name in names]
    return changed(bundle, files=sorted([*found, *extra], key=lambda file: str(file["path"])))


def test_a_manifest_reads_back_as_it_was_written(bundle: Bundle) -> None:
    data = bundle.manifest.to_bytes()
    assert Manifest.parse(data) == bundle.manifest
    assert Manifest.parse(data).to_bytes() == data


def test_completing_twice_changes_nothing(bundle: Bundle) -> None:
    assert bundle.manifest.complete().digest() == bundle.manifest.digest()


@pytest.mark.parametrize("extra", ["model/z.bin", "model/deep/er/z.bin", "Z_0+1-2.bin"])
def test_a_plain_extra_name_is_no_fault(extra: str, bundle: Bundle) -> None:
    assert extra in {file.path for file in Manifest.parse(listed(bundle, extra)).files}


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "model/../x", "./x", "/etc/passwd", "//x", "model//x", "model/", ".hidden"),
        *("model/.x", "a\\b", "c:x", "a b", "a\n", "ä", "a\x00b", "-rf", "x" * 101, "a/b/c/d/e/f/g"),
        *("manifest.json", "MANIFEST.json"),
    ],
)  # fmt: skip
def test_a_name_that_could_lead_elsewhere_is_refused(name: str, bundle: Bundle) -> None:
    with pytest.raises(TrustError, match="the manifest is not sound"):
        Manifest.parse(listed(bundle, name))


@pytest.mark.parametrize(
    "names", [("a", "a"), ("a", "A"), ("model/MODEL.onnx",), ("model",), ("a", "a/b"), ("A", "a/b"), ("recipe.yaml/x",)]
)
def test_names_that_meet_in_one_place_are_refused(names: tuple[str, ...], bundle: Bundle) -> None:
    with pytest.raises(TrustError, match="the manifest is not sound"):
        Manifest.parse(listed(bundle, *names))


@pytest.mark.parametrize("text", ["a\nhint: run this", "\x1b[2J", "\u202ecod.exe", "x" * 500])
def test_what_a_stranger_has_written_is_told_on_one_short_line(text: str, bundle: Bundle) -> None:
    for hostile in (listed(bundle, text), changed(bundle, edgeopt_bundle=text), changed(bundle, **{text: 1})):
        with pytest.raises(TrustError) as caught:
            Manifest.parse(hostile)
        assert caught.value.message.isprintable()
        assert len(caught.value.message) < 250


def test_unsorted_files_are_refused(bundle: Bundle) -> None:
    found = json.loads(bundle.manifest.to_bytes())["files"]
    with pytest.raises(TrustError, match="not sorted"):
        Manifest.parse(changed(bundle, files=found[::-1]))


@pytest.mark.parametrize("missing", ["golden.npz", "recipe.yaml", "model/model.onnx"])
def test_a_file_that_every_bundle_has_must_be_listed(missing: str, bundle: Bundle) -> None:
    found = json.loads(bundle.manifest.to_bytes())["files"]
    with pytest.raises(TrustError, match=missing):
        Manifest.parse(changed(bundle, files=[file for file in found if file["path"] != missing]))


@pytest.mark.parametrize(
    "change", [{"sha256": "0" * 63}, {"sha256": "0" * 63 + "G"}, {"size_bytes": -1}, {"size_bytes": 5_000_000_000}]
)
def test_an_impossible_digest_or_size_is_refused(change: dict[str, Any], bundle: Bundle) -> None:
    found = json.loads(bundle.manifest.to_bytes())["files"]
    found[0] |= change
    with pytest.raises(TrustError, match="the manifest is not sound"):
        Manifest.parse(changed(bundle, files=found))


def test_an_artifact_whose_digest_is_not_the_listed_one_is_refused(bundle: Bundle) -> None:
    artifact = json.loads(bundle.manifest.to_bytes())["artifact"]
    artifact["files"][0]["sha256"] = "0" * 64
    with pytest.raises(TrustError, match="not listed as the artifact lists it"):
        Manifest.parse(changed(bundle, artifact=artifact))


def test_too_many_files_are_refused(bundle: Bundle) -> None:
    with pytest.raises(TrustError, match="at most 1000"):
        Manifest.parse(listed(bundle, *(f"extra/{number:04d}" for number in range(1000))))


def test_another_format_says_what_to_do(bundle: Bundle) -> None:
    with pytest.raises(TrustError, match="bundle format `2`, this edgeopt reads `1`") as caught:
        Manifest.parse(changed(bundle, edgeopt_bundle=2))
    assert "newer" in caught.value.hint


def test_an_unknown_field_is_refused(bundle: Bundle) -> None:
    with pytest.raises(TrustError, match="surprise"):
        Manifest.parse(changed(bundle, surprise=1))


def test_a_hidden_folder_for_the_artifact_is_refused(bundle: Bundle) -> None:
    artifact = json.loads(bundle.manifest.to_bytes())["artifact"] | {"folder": "/etc"}
    with pytest.raises(TrustError, match="canonical"):
        Manifest.parse(changed(bundle, artifact=artifact))


def test_a_second_value_for_a_key_is_refused(bundle: Bundle) -> None:
    data = bundle.manifest.to_bytes()
    with pytest.raises(TrustError, match="canonical"):
        Manifest.parse(data.replace(b'"name":"digits"', b'"name":"other","name":"digits"'))


def test_another_spelling_of_the_same_json_is_refused(bundle: Bundle) -> None:
    pretty = json.dumps(json.loads(bundle.manifest.to_bytes()), indent=1).encode()
    with pytest.raises(TrustError, match="canonical"):
        Manifest.parse(pretty)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"1", b"[" * 500_000, b"\xff\xfe", b'{"edgeopt_bundle":NaN}'])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(TrustError):
        Manifest.parse(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_json_brings_the_parser_down(value: Any) -> None:
    with pytest.raises(TrustError):
        Manifest.parse(json.dumps(value).encode())
