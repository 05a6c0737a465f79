"""What is let in, and in which order it lands: whatever is refused leaves the device as it was."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeopt import files
from edgeopt.device.home import Home
from edgeopt.device.install import PLAUSIBLE, install
from edgeopt.errors import DiskError, EdgeoptError, TrustError, UsageError
from tests.device.conftest import Releases, digest_of


def at(text: str) -> Callable[[], datetime.datetime]:
    return lambda: datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.timezone.utc)


def tree(home: Home) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.folder.rglob("*") if path.is_file()}


@pytest.fixture
def refused(home: Home) -> Callable[..., EdgeoptError]:
    """Asserts that a bundle is refused and leaves no trace, and gives the error."""

    def refuse(bundle: Path, **options: Any) -> EdgeoptError:
        before = tree(home)
        with pytest.raises(TrustError) as caught:
            install(home, bundle, **options)
        assert tree(home) == before
        assert caught.value.exit_code == 4
        assert caught.value.hint
        return caught.value

    return refuse


def test_a_release_lands_whole_under_its_digest_and_is_not_used_yet(home: Home, releases: Releases) -> None:
    bundle = releases.make(7)
    found = install(home, bundle)
    assert (found.digest, found.is_new, found.note) == (digest_of(bundle), True, "")
    state = home.state()
    assert (state.counter, state.app, state.current) == (7, "digits", None)
    assert state.releases[found.digest].counter == 7
    assert home.bundle(found.digest).release is not None
    assert [path.name for path in home.releases.iterdir()] == [found.digest]


def test_the_same_again_changes_nothing(home: Home, releases: Releases) -> None:
    bundle = releases.make(7)
    install(home, bundle)
    before = home.state()
    assert install(home, bundle).is_new is False
    assert home.state() == before


def test_what_was_damaged_is_made_whole_again_even_if_it_is_an_older_one(home: Home, releases: Releases) -> None:
    bundle = releases.make(7)
    digest = install(home, bundle).digest
    install(home, releases.make(8))
    (home.path_of(digest) / "model" / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(TrustError):
        home.bundle(digest)
    assert install(home, bundle).is_new is False
    assert home.bundle(digest).manifest.digest() == digest
    assert home.state().counter == 8


def test_an_older_signature_of_what_is_installed_does_not_lower_its_counter(home: Home, releases: Releases) -> None:
    first = releases.make(2)
    again = releases.holders.sign(first, releases.folder / "again.edgeopt", "cat", counter=9)
    digest = install(home, again).digest
    assert install(home, first).digest == digest
    assert home.state().releases[digest].counter == 9
    assert home.state().counter == 9


def test_a_rollback_is_refused(home: Home, releases: Releases, refused: Callable[..., EdgeoptError]) -> None:
    install(home, releases.make(7))
    error = refused(releases.make(6))
    assert error.message == "the bundle has counter 6, and 7 was installed before"


def test_another_release_with_the_same_counter_is_refused(
    home: Home, releases: Releases, refused: Callable[..., EdgeoptError]
) -> None:
    install(home, releases.make(7))
    refused(releases.make(7, "other"))


def test_the_counter_outlives_the_release_that_raised_it(
    home: Home, releases: Releases, refused: Callable[..., EdgeoptError]
) -> None:
    old, new = releases.make(6), releases.make(7)
    digest = install(home, new).digest
    home.write_state(home.state().without({digest}))
    with home.changing():
        pass  # what is not in the state goes
    assert not home.path_of(digest).exists()
    assert refused(new).message == "the bundle has counter 7, and 7 was installed before"
    refused(old)


def test_a_bundle_of_a_stranger_or_of_nobody_is_refused(
    home: Home, releases: Releases, refused: Callable[..., EdgeoptError]
) -> None:
    assert "not signed by the key" in refused(releases.make(1, signers=("eve",))).message
    assert "not signed by the key" in refused(releases.make(1, signers=("ann",))).message
    releases.make(2)
    assert refused(releases.folder / "digits-sound-2.edgeopt").message == "the bundle is not signed"


def test_a_bundle_for_another_channel_is_refused(
    home: Home, releases: Releases, refused: Callable[..., EdgeoptError]
) -> None:
    error = refused(releases.make(1, channel="beta"))
    assert error.message == "the bundle was released for channel `beta`, and this device follows `stable`"
    assert "`--channel stable`" in error.hint


def test_the_first_bundle_says_which_application_this_is(
    home: Home, releases: Releases, refused: Callable[..., EdgeoptError]
) -> None:
    install(home, releases.make(1))
    error = refused(releases.make(2, name="faces"))
    assert error.message == "the bundle is `faces`, and this device runs `digits`"


def test_a_device_made_for_one_application_takes_no_other(make: Callable[..., Home], releases: Releases) -> None:
    home = make("faces", app="faces")
    with pytest.raises(TrustError, match="this device runs `faces`"):
        install(home, releases.make(1))


@pytest.mark.parametrize(
    ("compatible", "what"),
    [
        ({"board": "orin"}, "it is for the board `orin`, and this is `none`"),
        ({"machine": "riscv"}, f"it is for riscv, and this is {platform.machine()}"),
        ({"onnxruntime": "99.0"}, "it needs onnxruntime 99.0"),
        ({"board": "orin", "machine": "riscv"}, "orin.*; it is for riscv"),
    ],
)
def test_a_bundle_for_another_device_is_refused(
    compatible: dict[str, str], what: str, releases: Releases, home: Home
) -> None:
    with pytest.raises(TrustError, match=f"the bundle is not for this device: .*{what}"):
        install(home, releases.make(1, compatible=compatible))
    assert not list(home.releases.iterdir())


def test_a_bundle_for_this_board_is_let_in(make: Callable[..., Home], releases: Releases) -> None:
    bundle = releases.make(1, compatible={"board": "rpi5", "machine": platform.machine()})
    assert install(make("rpi5", board="rpi5"), bundle).is_new


def test_an_expired_one_is_refused_and_on_its_last_day_let_in(
    home: Home, releases: Releases, refused: Callable[..., EdgeoptError]
) -> None:
    bundle = releases.make(1, not_after="2027-01-31")
    error = refused(bundle, now=at("2027-02-01T00:00:00"))
    assert error.message == "the bundle was not to be installed after 2027-01-31, and it is 2027-02-01"
    assert install(home, bundle, at("2027-01-31T23:59:59")).note == ""


def test_a_clock_that_was_never_set_is_told_and_the_counter_still_counts(
    home: Home, releases: Releases, refused: Callable[..., EdgeoptError]
) -> None:
    bundle = releases.make(5, not_after="2026-12-31")
    assert "1970-01-01, which cannot be" in install(home, bundle, at("1970-01-01T00:03:00")).note
    refused(releases.make(4, not_after="2099-12-31"), now=at("1970-01-01T00:03:00"))


def test_the_clock_of_whoever_built_this_is_plausible() -> None:
    assert datetime.datetime.now(datetime.timezone.utc).date() >= PLAUSIBLE


def test_a_damaged_or_cut_bundle_is_refused(releases: Releases, refused: Callable[..., EdgeoptError]) -> None:
    bundle = releases.make(1)
    data = bundle.read_bytes()
    for hostile in (data[:-1], data + b"x", data[:-300], data.replace(b"digits", b"digitz"), b""):
        bundle.write_bytes(hostile)
        refused(bundle)


def test_a_bundle_that_is_not_there_is_a_wrong_usage(home: Home, tmp_path: Path) -> None:
    for place in (tmp_path / "none.edgeopt", tmp_path):
        with pytest.raises(UsageError, match="there is no bundle file"):
            install(home, place)


def test_a_full_disk_at_any_write_leaves_the_state_and_no_leftovers(
    home: Home, releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(home, releases.make(1))
    bundle, before, failures = releases.make(2), tree(home), 0
    for point in range(100):
        with monkeypatch.context() as patch:
            patch.setattr(files, "observe", full_from(point))
            try:
                install(home, bundle)
                break
            except DiskError:
                failures += 1
        with home.changing():
            assert tree(home) == before
    assert failures > 8
    assert home.state().counter == 2


def full_from(point: int) -> Callable[[str, Path], None]:
    """A disk that is full from its change number `point` on; removing goes on working."""
    counted: Iterator[int] = iter(range(1_000_000))

    def observe(operation: str, path: Path) -> None:
        if operation != "remove" and next(counted) >= point:
            raise OSError(28, "No space left on device", str(path))

    return observe
