"""A release is used once it has passed its smoke test here, and whatever fails leaves in use what was used."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edgeopt.bundle.golden import Golden
from edgeopt.bundle.manifest import Smoke
from edgeopt.device import smoke
from edgeopt.device.activate import activate, roll_back
from edgeopt.device.home import Home
from edgeopt.device.install import install
from edgeopt.device.start import begin_start, fall_back
from edgeopt.errors import DeviceError, MissingError, TrustError, UsageError
from tests.device.conftest import IMAGES, Releases, digest_of

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


@pytest.fixture
def used(home: Home, releases: Releases, doomed: None) -> str:
    """The digest of a good release with counter 1, which is in use."""
    install(home, releases.make(1, fate="ok"))
    return activate(home).digest


def test_a_sound_release_passes_and_is_used(home: Home, releases: Releases) -> None:
    bundle = releases.make(1, "close", batch=3)
    install(home, bundle)
    assert home.state().current is None
    found = activate(home)
    assert found.digest == digest_of(bundle) == home.state().current
    assert found.smoke is not None
    assert found.smoke.samples == 2
    assert 0 < found.smoke.difference < 0.001
    assert found.smoke.p90_ms > 0
    assert [one.kind for one in home.state().events] == ["install", "activate"]


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("nan", "NaN or infinity"), ("infinite", "NaN or infinity"), ("nan_for_negatives", "NaN or infinity"),
        ("wider", "another shape"), ("other", r"differ by 13\.3 % of their span, 5 % are allowed"),
        ("unfit", "the smoke test failed: ONNX Runtime cannot run"),
    ],
)  # fmt: skip
def test_a_release_that_computes_something_else_is_refused_and_known_as_bad(
    kind: str, what: str, home: Home, used: str, releases: Releases
) -> None:
    bad = install(home, releases.make(2, kind)).digest
    with pytest.raises(DeviceError, match=what) as caught:
        activate(home)
    assert caught.value.exit_code == 6
    state = home.state()
    assert (state.current, state.previous, state.counter) == (used, None, 2)
    assert state.releases[bad].bad == caught.value.message
    assert state.events[-1].kind == "refused"


@pytest.mark.parametrize(("fate", "what"), [("error", "crashed with SIGSEGV"), ("hang", "did not answer within 2 s")])
def test_a_release_that_takes_its_process_down_takes_nothing_else_down(
    fate: str, what: str, home: Home, used: str, releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "SECONDS", 2.0)
    install(home, releases.make(2, fate=fate))
    with pytest.raises(DeviceError, match=f"the smoke test failed: the process of `smoke test` {what}"):
        activate(home)
    assert home.state().current == used


def test_a_graph_without_an_end_is_ended(
    home: Home, used: str, releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "SECONDS", 3.0)
    install(home, releases.make(2, "endless"))
    with pytest.raises(DeviceError, match="did not answer within 3 s"):
        activate(home)
    assert home.state().current == used


def test_one_slower_than_its_budget_is_refused_and_a_wider_one_lets_it_in(home: Home, releases: Releases) -> None:
    install(home, releases.make(1, smoke=Smoke(p90_ms=1e-6)))
    with pytest.raises(DeviceError, match="ms, at most 1e-06 ms are allowed"):
        activate(home)
    digest = next(iter(home.state().releases))
    with pytest.raises(DeviceError, match="at most 1e-07 ms"):
        activate(home, digest, max_ms=1e-7)
    assert activate(home, digest, max_ms=10_000).digest == digest
    assert home.state().releases[digest].bad == ""


def test_its_own_tolerance_counts(home: Home, releases: Releases) -> None:
    install(home, releases.make(1, "other", smoke=Smoke(tolerance=0.2)))
    assert activate(home).smoke is not None


def test_golden_samples_that_prove_nothing_pass_nothing(home: Home, releases: Releases) -> None:
    install(home, releases.make(1, golden=()))
    with pytest.raises(DeviceError, match="no golden samples"):
        activate(home)
    broken = tuple(Golden({"image": image}, {"scores": image * np.float32(np.nan)}) for image in IMAGES)
    install(home, releases.make(2, "nan", golden=broken))
    with pytest.raises(DeviceError, match="NaN"):
        activate(home)


def test_a_missing_runtime_says_nothing_against_the_release(
    home: Home, used: str, releases: Releases, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(home, releases.make(2))
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "onnxruntime.py").write_text("raise ModuleNotFoundError('gone', name='onnxruntime')\n")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path / "hidden"), *sys.path])
        with pytest.raises(MissingError, match="ONNX Runtime is not installed") as caught:
            activate(home)
    assert "edgeopt[cpu]" in caught.value.hint
    state = home.state()
    assert state.current == used
    assert not any(one.bad for one in state.releases.values())
    assert activate(home).counter == 2


def test_what_is_bad_is_not_taken_by_itself_again_but_may_be_named(home: Home, used: str, releases: Releases) -> None:
    bad = install(home, releases.make(2, fate="ok", smoke=Smoke(p90_ms=1e-6))).digest
    with pytest.raises(DeviceError):
        activate(home)
    assert activate(home).digest == used  # in use already: the newest that is not bad
    assert activate(home, bad[:8], max_ms=10_000).digest == bad == home.state().current
    assert home.state().releases[bad].bad == ""


def test_the_one_in_use_is_not_tested_again(home: Home, used: str) -> None:
    before = home.state()
    found = activate(home)
    assert (found.digest, found.smoke) == (used, None)
    assert home.state() == before


def test_no_older_release_is_used_but_the_one_before(home: Home, used: str, releases: Releases) -> None:
    second, third = (install(home, releases.make(counter, fate="ok")).digest for counter in (2, 3))
    activate(home)
    assert (home.state().current, home.state().previous) == (third, used)
    with pytest.raises(TrustError, match="has counter 2, 3 was installed") as caught:
        activate(home, second)
    assert caught.value.exit_code == 4
    assert activate(home, used).counter == 1
    assert (home.state().current, home.state().previous, home.state().counter) == (used, third, 3)


@pytest.mark.usefixtures("doomed")
def test_where_nothing_is_used_yet_an_older_one_may_be_if_all_newer_are_bad(home: Home, releases: Releases) -> None:
    good = install(home, releases.make(1, fate="ok")).digest
    install(home, releases.make(2, fate="error"))
    with pytest.raises(DeviceError):
        activate(home)
    assert activate(home).digest == good
    assert home.state().counter == 2


def test_a_damaged_release_is_not_activated(home: Home, used: str, releases: Releases) -> None:
    digest = install(home, releases.make(2, fate="ok")).digest
    model = home.path_of(digest) / "model" / "model.onnx"
    model.write_bytes(b"no")
    with pytest.raises(TrustError, match="is not what its manifest says"):
        activate(home)
    assert home.state().current == used


@pytest.mark.parametrize("named", ["", "f" * 64, "no digest"])
def test_what_names_no_one_release_is_a_wrong_usage(named: str, home: Home, used: str, releases: Releases) -> None:
    install(home, releases.make(2, fate="ok"))
    with pytest.raises(UsageError, match="begin"):
        activate(home, named)
    assert home.state().current == used


def test_nothing_installed_is_a_wrong_usage(home: Home) -> None:
    with pytest.raises(UsageError, match="no release is installed that is known to be good") as caught:
        activate(home)
    assert "edgeopt device install" in caught.value.hint


def test_going_back_and_forth_needs_no_reason_and_accuses_nobody(home: Home, used: str, releases: Releases) -> None:
    install(home, releases.make(2, fate="ok"))
    second = activate(home).digest
    assert roll_back(home) == used == home.state().current
    assert roll_back(home) == second == home.state().current
    assert not any(one.bad for one in home.state().releases.values())


def test_going_back_for_a_reason_ends_there(home: Home, used: str, releases: Releases) -> None:
    install(home, releases.make(2, fate="ok"))
    second = activate(home).digest
    assert roll_back(home, "wrong labels") == used
    state = home.state()
    assert (state.releases[second].bad, state.previous, state.counter) == ("wrong labels", None, 2)
    assert (state.events[-1].release, state.events[-1].text) == (second, "wrong labels")
    with pytest.raises(UsageError, match="no release to go back to"):
        roll_back(home)
    assert activate(home).digest == used
    assert begin_start(home).manifest.digest() == used


def test_what_failed_here_since_is_never_gone_back_to(home: Home, used: str, releases: Releases) -> None:
    install(home, releases.make(2, fate="ok"))
    second = activate(home).digest
    roll_back(home)
    with pytest.raises(DeviceError):
        activate(home, second, max_ms=1e-9)
    assert home.state().previous is None
    assert fall_back(home, used, "it gives NaN") is False
    assert home.state().current == used


def test_nobody_goes_back_to_a_damaged_release(home: Home, used: str, releases: Releases) -> None:
    install(home, releases.make(2, fate="ok"))
    second = activate(home).digest
    (home.path_of(used) / "recipe.yaml").unlink()
    with pytest.raises(TrustError, match="is missing"):
        roll_back(home)
    assert home.state().current == second
