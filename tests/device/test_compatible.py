"""What a bundle asks of a device, part by part: every difference is told, and what fits is not."""

from __future__ import annotations

import platform

import pytest

from edgeopt import environment
from edgeopt.device.compatible import find_differences

HERE = platform.machine()


def differences(board: str | None = None, **compatible: str) -> list[str]:
    return list(find_differences(compatible, board))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Distributions and their versions, in place of what is installed here."""
    versions: dict[str, str] = {}
    monkeypatch.setattr(environment, "library_version", versions.get)
    return versions


def test_nothing_asked_for_fits_anywhere() -> None:
    assert differences() == []
    assert differences(board="rpi5") == []


@pytest.mark.parametrize(("board", "shown"), [(None, "none"), ("rpi4", "rpi4"), ("RPI5", "RPI5")])
def test_another_board_or_none_does_not_fit(board: str | None, shown: str) -> None:
    assert list(find_differences({"board": "rpi5"}, board)) == [f"it is for the board `rpi5`, and this is `{shown}`"]


def test_another_machine_does_not_fit() -> None:
    assert differences(machine=HERE, isa=HERE) == []
    assert differences(machine="sparc") == [f"it is for sparc, and this is {HERE}"]
    assert differences(isa="sparc") == [f"it is for sparc, and this is {HERE}"]


@pytest.mark.parametrize("has", [True, False])
def test_weights_for_vnni_need_it(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "has_integer_dot_product", lambda: has)
    found = differences(isa=f"{HERE} vnni")
    assert found == ([] if has else ["its weights need a CPU with VNNI, and this one has none"])


@pytest.mark.parametrize("has", [True, False])
def test_amx_is_needed_where_it_is_named(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "cpu", lambda: ("some", ("avx2", "amx_int8") if has else ("avx2",)))
    assert bool(differences(isa=f"{HERE} amx")) is not has


@pytest.mark.parametrize(
    ("wanted", "found", "fits"),
    [
        ("1.20.1", "1.20.1", True), ("1.20.1", "1.20.0", True), ("1.20.1", "1.21.0", True), ("1.20", "2.0", True),
        ("1.20.1", "1.19.9", False), ("1.9", "1.10", True), ("1.10", "1.9", False), (">=1.23", "1.22", False),
        ("1.20", "unknown", False),
    ],
)  # fmt: skip
def test_a_runtime_is_as_new_as_the_one_that_was_proven(
    wanted: str, found: str, fits: bool, installed: dict[str, str]
) -> None:
    installed["onnxruntime"] = found
    assert differences(onnxruntime=wanted) == (
        [] if fits else [f"it needs onnxruntime {wanted}, and {found} is installed"]
    )


def test_any_wheel_that_brings_a_runtime_will_do(installed: dict[str, str]) -> None:
    installed["onnxruntime-gpu"] = "1.24.0"
    assert differences(onnxruntime="1.23.0") == []


def test_a_missing_runtime_is_named(installed: dict[str, str]) -> None:
    assert differences(openvino="2026.4") == ["it needs openvino 2026.4, which is not installed"]


@pytest.mark.parametrize(("found", "fits"), [("10.13.2", True), ("10.14.0", False), ("11.1", False), ("10.12", False)])
def test_an_engine_is_of_one_release_of_tensorrt(found: str, fits: bool, installed: dict[str, str]) -> None:
    installed["tensorrt-cu12"] = found
    assert bool(differences(tensorrt="10.13.0")) is not fits


def test_all_differences_are_told_together(installed: dict[str, str]) -> None:
    assert len(differences(board=None, machine="sparc", isa="sparc", torch="2.1", channel_block="8")) == 3
