"""A device's folder: made whole or not at all, cleared up after whoever died in it, and trusting one root at a time."""

from __future__ import annotations

import multiprocessing
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeopt import files
from edgeopt.bundle.signing import load_signer
from edgeopt.bundle.trust import Root
from edgeopt.device.home import Device, Home, device_key, make_home
from edgeopt.device.install import install
from edgeopt.device.state import State
from edgeopt.errors import TrustError, UsageError
from tests.device.conftest import Releases
from tests.signers import Holders


def test_a_home_has_a_key_of_its_own_that_nobody_else_reads(make: Callable[..., Home]) -> None:
    one, other = make("one"), make("other")
    assert stat.S_IMODE(one.key.stat().st_mode) == 0o600
    assert device_key(one.folder) == load_signer(one.key).public_key.keyval["public"]
    assert device_key(one.folder) != device_key(other.folder)


def test_a_home_tells_what_it_was_made_with(make: Callable[..., Home], root: bytes) -> None:
    home = make(board="rpi5", channel="beta", app="digits")
    assert home.device() == Device(board="rpi5", channel="beta", app="digits")
    assert home.state() == State()
    assert home.root().version == 1
    assert (home.folder / "root.json").read_bytes() == root


def test_a_home_is_not_made_twice(home: Home, root: bytes) -> None:
    before = {path: path.read_bytes() for path in home.folder.iterdir() if path.is_file()}
    with pytest.raises(UsageError, match="is a device's folder already"):
        make_home(home.folder, root, Device())
    assert {path: path.read_bytes() for path in home.folder.iterdir() if path.is_file()} == before


def make_and_tell(folder: Path, root: bytes, told: Any) -> None:
    try:
        told.put(make_home(folder, root, Device()))
    except UsageError:
        told.put(None)


def test_of_two_that_make_a_home_at_once_one_does(root: bytes, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()
    makers = [context.Process(target=make_and_tell, args=(tmp_path / "home", root, told)) for _ in range(4)]
    for maker in makers:
        maker.start()
    keys = [told.get() for _ in makers]
    for maker in makers:
        maker.join()
    assert [key for key in keys if key is not None] == [device_key(tmp_path / "home")]


def test_a_folder_that_is_none_is_a_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no device's folder") as caught:
        Home(tmp_path)
    assert "edgeopt device init" in caught.value.hint


@pytest.mark.parametrize("data", [b"", b"{}", b"hello"])
def test_what_is_no_root_makes_no_home(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(TrustError):
        make_home(tmp_path / "home", data, Device())
    assert not (tmp_path / "home").exists()


def test_a_root_that_lacks_signatures_makes_no_home(holders: Holders, tmp_path: Path) -> None:
    described = Root(version=1, root=holders.role("ann", "ben", threshold=2), releases=holders.role("cat"))
    with pytest.raises(TrustError, match="not signed by 2"):
        make_home(tmp_path / "home", holders.write_root(tmp_path / "root.json", described, "ann"), Device())


def test_a_home_killed_while_it_is_made_is_made_by_the_next_try(root: bytes, tmp_path: Path) -> None:
    folder, points = tmp_path / "home", 0
    while killed_at(points, lambda: make_home(folder, root, Device())):
        with pytest.raises(UsageError, match="is no device's folder"):
            Home(folder)
        points += 1
    assert points > 10
    home = Home(folder)
    assert home.state() == State()
    assert load_signer(home.key).public_key.keyval["public"] == device_key(folder)
    assert not list(folder.glob(f"{files.TEMPORARY}*"))


def killed_at(point: int, act: Callable[[], object]) -> bool:
    """Runs an action in a process that is killed before its change number `point`; whether there was such a change."""
    child = os.fork()
    if child == 0:
        count = iter(range(point, -1, -1))

        def kill(operation: str, path: Path) -> None:
            if next(count) == 0:
                os.kill(os.getpid(), 9)

        files.observe = kill
        try:
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9


@pytest.mark.parametrize("name", ["state.json", "device.json"])
@pytest.mark.parametrize("content", [b"", b"{", b'{"edgeopt_device":2}', b'{"edgeopt_device":1,"more":1}', b"\xff"])
def test_a_file_that_holds_something_else_is_named(name: str, content: bytes, home: Home) -> None:
    (home.folder / name).write_bytes(content)
    with pytest.raises(TrustError, match=f"{name}` cannot be read") as caught:
        home.state() if name == "state.json" else home.device()
    assert caught.value.exit_code == 4


def test_an_unreadable_state_costs_no_release(home: Home, releases: Releases) -> None:
    digest = install(home, releases.make(1)).digest
    (home.folder / "state.json").write_bytes(b"torn")
    with pytest.raises(TrustError), home.changing():
        raise AssertionError("nothing may be changed then")
    assert home.bundle(digest).manifest.digest() == digest


def test_what_was_never_acknowledged_goes_with_the_next_change(home: Home, releases: Releases) -> None:
    digest = install(home, releases.make(1)).digest
    for name in ("staged", "0" * 64):
        (home.releases / name).mkdir()
        (home.releases / name / "half").touch()
    with home.changing():
        assert [path.name for path in home.releases.iterdir()] == [digest]


def test_a_release_is_hashed_anew_each_time(home: Home, releases: Releases) -> None:
    digest = install(home, releases.make(1)).digest
    assert home.bundle(digest).manifest.digest() == digest
    other = install(home, releases.make(2)).digest
    files.remove(home.path_of(digest))
    with pytest.raises(TrustError, match="is gone"):
        home.bundle(digest)
    home.path_of(other).rename(home.path_of(digest))
    with pytest.raises(TrustError, match="is another one than was installed"):
        home.bundle(digest)


def test_a_sector_that_cannot_be_read_is_named_as_damage(
    home: Home, releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = install(home, releases.make(1)).digest

    def fail(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(files, "hash_file", fail)
    with pytest.raises(TrustError, match="cannot be read: Input/output error"):
        home.bundle(digest)


@pytest.fixture
def next_root(holders: Holders, tmp_path: Path) -> bytes:
    """Ann still rules; Dan signs releases in place of Cat, whose key is revoked."""
    described = Root(version=2, root=holders.role("ann"), releases=holders.role("dan"))
    return holders.write_root(tmp_path / "root.2.json", described, "ann")


def test_after_a_change_of_keys_only_the_new_ones_count(home: Home, releases: Releases, next_root: bytes) -> None:
    install(home, releases.make(1))
    assert home.replace_root(next_root).version == 2
    with pytest.raises(TrustError, match="not signed by the key"):
        install(home, releases.make(2))
    assert install(home, releases.make(3, signers=("dan",))).release.counter == 3


def test_an_old_root_does_not_come_back(home: Home, root: bytes, next_root: bytes) -> None:
    home.replace_root(next_root)
    for data in (root, next_root):
        with pytest.raises(TrustError, match="follows on version 2"):
            home.replace_root(data)
    assert home.root().version == 2


def test_a_root_of_somebody_else_changes_nothing(home: Home, holders: Holders, root: bytes, tmp_path: Path) -> None:
    mine = Root(version=2, root=holders.role("eve"), releases=holders.role("eve"))
    with pytest.raises(TrustError, match="not signed by the key"):
        home.replace_root(holders.write_root(tmp_path / "mine.json", mine, "eve"))
    assert (home.folder / "root.json").read_bytes() == root


@pytest.mark.parametrize("channel", ["", "a b", "../x", "x" * 65])
def test_a_channel_has_a_plain_name(channel: str) -> None:
    with pytest.raises(ValueError, match="channel"):
        Device(channel=channel)
