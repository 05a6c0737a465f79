"""Targets of a draft: kinds by name, backends that are here, and what is said of those that are not."""

from __future__ import annotations

import platform

import pytest

from edgeopt import registry
from edgeopt.drafting import targets
from edgeopt.drafting.targets import KINDS, TENSORRT, Kind, find_targets
from edgeopt.errors import MissingError, UsageError
from edgeopt.recipe.draft import TargetDraft


def one(text: str) -> TargetDraft:
    (found,) = find_targets([text])
    return found


@pytest.fixture
def intel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.mark.usefixtures("intel")
def test_this_machine_is_the_target_unless_another_is_named() -> None:
    pytest.importorskip("openvino")
    first = find_targets([])[0]
    assert (first.name, list(first.backends), list(first.isa)) == ("x86", ["onnxruntime_cpu", "openvino_cpu"], [])
    assert [target.name for target in find_targets(["raspberrypi", "x86"])] == ["raspberrypi", "x86"]


@pytest.mark.usefixtures("intel")
@pytest.mark.parametrize("name", ["arm64", "raspberrypi"])
def test_another_cpu_says_what_it_has_and_where_it_is_timed(name: str) -> None:
    found = one(name)
    assert (list(found.backends), list(found.isa)) == (["onnxruntime_cpu"], ["asimd"])
    assert any("add asimddp" in note for note in found.notes)
    assert any("times are taken on the machine that compiles" in note for note in found.notes)


def test_on_an_arm_machine_its_own_kind_needs_no_isa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert find_targets([])[0].name == "arm64"
    assert list(one("raspberrypi").isa) == []
    assert list(one("x86").isa) == ["avx2"]


@pytest.mark.usefixtures("intel")
def test_a_backend_that_is_not_installed_here_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        targets, "_missing", lambda name: "it is not here; install it" if name == "openvino_cpu" else ""
    )
    found = one("x86")
    assert (list(found.backends), list(found.notes)) == (
        ["onnxruntime_cpu"], ["not here: openvino_cpu, it is not here; install it"],
    )  # fmt: skip


def test_a_backend_that_edgeopt_does_not_have_is_told_and_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "npu", Kind(("npu_runtime", "onnxruntime_cpu")))
    found = one("npu")
    assert list(found.backends) == ["onnxruntime_cpu"]
    assert list(found.notes) == ["not here: npu_runtime, which this edgeopt does not have"]
    monkeypatch.setitem(KINDS, "npu", Kind(("npu_runtime",)))
    with pytest.raises(MissingError, match="no backend for `npu` is here: `npu_runtime`: which this edgeopt") as caught:
        find_targets(["npu"])
    assert caught.value.hint == "or name one: `--target npu=BACKEND`"


@pytest.mark.parametrize("name", ["orin", "jetson", "tensorrt"])
def test_a_jetson_takes_tensorrt_where_edgeopt_has_it(name: str) -> None:
    if TENSORRT in registry.names("backends"):
        assert list(one(name).backends) == [TENSORRT]
    else:
        with pytest.raises(MissingError, match="`tensorrt`: which this edgeopt does not have"):
            one(name)


def test_named_backends_are_taken_for_any_name() -> None:
    assert one("desk=onnxruntime_cpu") == TargetDraft("desk", ["onnxruntime_cpu"])


@pytest.mark.parametrize(
    ("texts", "message", "hint"),
    [
        (["raspberypi"], "`raspberypi` is no kind of target", "did you mean `raspberrypi`?; another takes"),
        (["litert"], "`litert` is no kind of target", "known: arm64, jetson, orin, raspberrypi, tensorrt, x86"),
        (["a=onnxruntime_cp"], "unknown backend `onnxruntime_cp`", "did you mean `onnxruntime_cpu`?"),
        (["a=null"], "`null` cannot be a target's backend here: it runs no integers", "`edgeopt backends`"),
        (["a=torch_eager"], "`torch_eager` cannot be a target's backend here: it runs torch", "`edgeopt backends`"),
        (["a=onnxruntime_cpu", "a=openvino_cpu"], "two targets are called `a`", "name each apart"),
    ],
)  # fmt: skip
def test_what_is_no_target_is_refused(texts: list[str], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_targets(texts)
    assert message in caught.value.message
    assert hint in caught.value.hint
