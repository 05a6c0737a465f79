"""What is used, what to go back to and what is to be used next stay; all else goes, and is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeopt import files
from edgeopt.device.collect import collect
from edgeopt.device.home import Home
from edgeopt.device.install import install
from tests.device.conftest import Releases


@pytest.fixture
def digests(home: Home, releases: Releases) -> list[str]:
    """Five releases, of which the third is used and the second was before it."""
    found = [install(home, releases.make(counter)).digest for counter in range(1, 6)]
    home.write_state(home.state().activated(found[1]).activated(found[2]))
    return found


def on_disk(home: Home) -> set[str]:
    return {path.name for path in home.releases.iterdir()}


def test_used_previous_and_newest_stay_and_the_rest_goes(home: Home, digests: list[str]) -> None:
    sizes = [sum(file.stat().st_size for file in home.path_of(digests[i]).rglob("*") if file.is_file()) for i in (0, 3)]
    found = collect(home)
    assert set(found.releases) == {digests[0], digests[3]}
    assert found.freed_bytes == sum(sizes) > 0
    assert on_disk(home) == home.state().releases.keys() == {digests[1], digests[2], digests[4]}
    assert home.state().counter == 5


def test_a_bad_newest_one_goes_and_its_counter_stays(home: Home, digests: list[str]) -> None:
    home.write_state(home.state().spoiled(digests[4], "it gives NaN"))
    collect(home)
    assert on_disk(home) == {digests[1], digests[2], digests[3]}
    assert home.state().counter == 5


def test_a_second_time_there_is_nothing_to_do(home: Home, digests: list[str]) -> None:
    collect(home)
    before = (home.folder / "state.json").read_bytes()
    again = collect(home)
    assert (again.releases, again.uploads, again.freed_bytes) == ((), 0, 0)
    assert (home.folder / "state.json").read_bytes() == before


def test_uploads_go_whole_or_half(home: Home) -> None:
    (home.incoming / "half.part").write_bytes(b"x" * 1000)
    (home.incoming / "whole.edgeopt").write_bytes(b"x" * 500)
    found = collect(home)
    assert (found.uploads, found.freed_bytes) == (2, 1500)
    assert list(home.incoming.iterdir()) == []


def test_an_empty_device_has_nothing_to_free(home: Home) -> None:
    assert collect(home).releases == ()


def test_cut_off_after_it_forgot_them_the_next_change_frees_them(
    home: Home, digests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(operation: str, path: Path) -> None:
        if operation == "remove":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "observe", cut)
        with pytest.raises(KeyboardInterrupt):
            collect(home)
    assert len(on_disk(home)) == 5
    with home.changing():
        assert on_disk(home) == home.state().releases.keys() == {digests[1], digests[2], digests[4]}
