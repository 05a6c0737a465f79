"""Cut the power at every moment of a device's life: is what was acknowledged there, and does it go on?

    found = cut_everywhere(tell_life(publisher, scratch), scratch, most=400)

The system calls of a real run are recorded; after each, all that a file system may then have on the disk is made in a
fresh folder, looked at, started and taken one step further, as after another boot.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.crash_states import Disk, Tree, write_tree
from benchmarks.operations import Act, Look, look_at_device, quick_smoke, start_device
from benchmarks.shipments import Publisher, make_root
from benchmarks.syscalls import Call, killed_before, record
from edgeopt import files
from edgeopt.device.activate import activate, roll_back
from edgeopt.device.collect import collect
from edgeopt.device.home import DEVICE_FILE, RELEASES, Device, Home, device_key, make_home
from edgeopt.device.install import install
from edgeopt.errors import EdgeoptError

#: where the device's folder lies in the folder that is watched: neither is there at first
HOME = "apps/digits"
ACKNOWLEDGED = b"acknowledged"


@dataclass(frozen=True)
class Story:
    """Steps in one folder, each acknowledged before the next begins. `look` says what has come of them so far."""

    steps: Sequence[Act]
    look: Look = look_at_device
    start: Act = start_device


@dataclass
class Found:
    """What came of it: states that were looked at, each another one, and a line for each fault."""

    enumerated: int = 0
    states: int = 0
    broken: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    failed_next: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    def faults(self) -> list[str]:
        return [*self.broken, *self.lost, *self.failed_next, *self.leftovers]


def tell_life(publisher: Publisher) -> Story:
    """A device from its making on: three releases, one step back, a clearing up, another root, a repair."""
    first, second, third = (publisher.publish(counter) for counter in (1, 2, 3))
    root = make_root(publisher.folder / "second.json", publisher.keys, publisher.keys, version=2)

    def init(place: Path) -> None:
        if (place / DEVICE_FILE).exists():  # whoever was killed after that had done it
            with Home(place).changing():
                return
        make_home(place, publisher.root.read_bytes(), Device())

    def take(bundle: Path) -> list[Act]:
        return [lambda place: install(Home(place), bundle), lambda place: activate(Home(place))]

    def repair(place: Path) -> None:
        install(Home(place), third)

    def trust(place: Path) -> None:
        home = Home(place)
        if home.root().version == 2:
            with home.changing():
                return
        home.replace_root(root.read_bytes())

    steps: list[Act] = [init, *take(first), *take(second), *take(third), repair]
    return Story([*steps, lambda place: roll_back(Home(place)), lambda place: collect(Home(place)), trust])


def cut_everywhere(story: Story, scratch: Path, *, most: int, synced: bool = True) -> Found:
    """Tell a story, and cut the power after each of its system calls.

    Args:
        most: states to look at after one call, drawn at random where there are more.
        synced: False: with fsync turned off, which must not go unnoticed.
    """
    ground = _ground(scratch)
    disk, shadow, warm = Disk(ground), Disk(ground), _ground(scratch)
    with quick_smoke():
        _tell(story, warm)  # loads what is loaded late
        calls = record(lambda: _tell(story, ground, synced=synced))
        expected = list(_expect(shadow, calls, story.look, scratch))
        search = _Search(story, scratch, expected, device_key(ground / HOME))
        done = 0
        for number, call in enumerate(calls):
            if _is_acknowledgement(call):
                done += 1
            elif disk.apply(call):
                search.look_at(disk, done, f"step {done + 1}, call {number} {call.name}", most)
    return search.found


def cut_after_a_kill(story: Story, scratch: Path, *, most: int) -> Found:
    """Kill each step of a story at each call, run it again, and cut the power once that is acknowledged."""
    found, before = Found(), _ground(scratch)
    with quick_smoke():
        for number, step in enumerate(story.steps):
            after = Path(shutil.copytree(before, _ground(scratch), dirs_exist_ok=True))
            step(after / HOME)  # loads what is loaded late, too
            recorded = Path(shutil.copytree(before, _ground(scratch), dirs_exist_ok=True))
            for call in record(functools.partial(step, recorded / HOME)):
                if call.touches(recorded) and (call.is_mutating() or "sync" in call.name):
                    ground = Path(shutil.copytree(before, _ground(scratch), dirs_exist_ok=True))
                    disk, act = Disk(ground), functools.partial(step, ground / HOME)
                    for made in (*killed_before(call, act), *record(act)):
                        disk.apply(made)
                    rest = Story(story.steps[number : number + 1], story.look, story.start)
                    expected = [story.look(before / HOME), story.look(ground / HOME)]
                    search = _Search(rest, scratch, expected, device_key(ground / HOME), found)
                    search.look_at(disk, 1, f"step {number + 1}, killed before {call.name} {call.number}", most)
            before = after
    return found


class _Search:
    """Looks at states, each once.

    `expected` holds what `look` says before the first step and after each; `key` is the one that the device was made
    with.
    """

    def __init__(
        self, story: Story, scratch: Path, expected: Sequence[object], key: str, found: Found | None = None
    ) -> None:
        self._story, self._scratch, self._expected, self._key = story, scratch, expected, key
        self._seen: set[tuple[int, int]] = set()
        self.found = Found() if found is None else found

    def look_at(self, disk: Disk, done: int, when: str, most: int) -> None:
        """All states that a cut may leave now, after `done` steps were acknowledged."""
        for tree in disk.states(most, seed=len(self._seen)):
            self.found.enumerated += 1
            mark = done, hash(frozenset(tree.items()))
            if mark not in self._seen:
                self._seen.add(mark)
                self.found.states += 1
                with _booted(tree, self._scratch) as place:
                    self._examine(place, done, when)

    def _examine(self, place: Path, done: int, when: str) -> None:
        old, new = self._expected[done], self._expected[min(done + 1, len(self._story.steps))]
        try:
            seen = self._story.look(place)
            is_same = not done or device_key(place) == self._key
        except (EdgeoptError, OSError) as error:
            self.found.broken.append(f"{when}: {error}")
            return
        if seen not in (old, new) or not is_same:
            kind = self.found.lost if done and seen in self._expected[:done] else self.found.broken
            kind.append(f"{when}: {'an earlier state' if kind is self.found.lost else 'another state than any'}")
            return
        at = done if seen == old else done + 1
        try:
            if seen is not None:
                self._story.start(place)
            if at < len(self._story.steps):
                self._story.steps[at](place)
                if self._story.look(place) != self._expected[at + 1]:
                    self.found.failed_next.append(f"{when}: the next step leaves something else")
        except (EdgeoptError, OSError) as error:
            self.found.failed_next.append(f"{when}: {error}")
        self.found.leftovers += [f"{when}: {path.name}" for path in (place / RELEASES).glob(f"{files.TEMPORARY}*")]


_numbers = itertools.count()


def _ground(scratch: Path) -> Path:
    ground = scratch / f"ground-{next(_numbers)}"
    ground.mkdir()
    return ground


def _tell(story: Story, ground: Path, *, synced: bool = True) -> None:
    """Run all steps, each followed by a word of its own to nobody: what a recording is divided by."""
    if not synced:
        os.fsync = lambda descriptor: None  # type: ignore[assignment]  # in the child that is recorded
    with Path(os.devnull).open("wb", buffering=0) as nobody:
        for step in story.steps:
            step(ground / HOME)
            nobody.write(ACKNOWLEDGED)


def _is_acknowledgement(call: Call) -> bool:
    return call.name == "write" and call.arguments[1] == ACKNOWLEDGED


def _expect(shadow: Disk, calls: Sequence[Call], look: Look, scratch: Path) -> Iterator[object]:
    """What `look` says before the first step and after each, where nothing happens."""
    for call in (None, *calls):
        if call is None or _is_acknowledgement(call):
            with _booted(shadow.latest(), scratch) as place:
                yield look(place)
        else:
            shadow.apply(call)


@contextlib.contextmanager
def _booted(tree: Tree, scratch: Path) -> Iterator[Path]:
    """The device's folder in such a state, after another boot: the numbers of processes mean nothing any more."""
    ground, place = scratch / "state", files._place
    write_tree(tree, ground)
    files._place = lambda: "f" * 12  # type: ignore[assignment]
    try:
        yield ground / HOME
    finally:
        files._place = place
        shutil.rmtree(ground)
