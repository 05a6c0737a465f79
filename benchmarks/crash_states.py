"""What a power cut may leave of a file system, given the system calls that were made until then.

    disk = Disk(folder)
    for call in record(act):
        disk.apply(call)
        for state in disk.states(most=400, seed=0):
            write_tree(state, elsewhere)

Nothing is on the disk but what was synced: a file's content by an fsync of the file, a name by one of its folder. Of
the rest anything may be there. Each name that changed has one of the values that it had since its folder was synced,
each on its own: this is stricter than any file system, which at least keeps the two halves of a rename together. A file
with unsynced content is as it was, complete, half of it, zeros, or garbage.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.syscalls import Call

#: relative path → content; None for a folder
Tree = Mapping[str, bytes | None]


@dataclass(eq=False)
class File:
    """`synced` is what is surely on the disk; empty for a new file, whose name may be there before its content."""

    content: bytes = b""
    synced: bytes = b""

    def sync(self) -> None:
        self.synced = self.content

    def options(self) -> list[bytes]:
        if self.content == self.synced:
            return [self.content]
        length = len(self.content)
        garbage = random.Random(length).randbytes(length)
        return list(dict.fromkeys([self.synced, self.content[: length // 2], bytes(length), garbage, self.content]))


@dataclass(eq=False)
class Folder:
    """For each name the values that it had since the folder was synced, the newest last; None: no such name."""

    names: dict[str, list[File | Folder | None]] = field(default_factory=dict)

    def sync(self) -> None:
        self.names = {name: values[-1:] for name, values in self.names.items() if values[-1] is not None}

    def put(self, name: str, node: File | Folder | None) -> None:
        self.names.setdefault(name, [None]).append(node)

    def get(self, name: str) -> File | Folder | None:
        return self.names.get(name, [None])[-1]


Node = File | Folder


class Disk:
    """A folder with all that is in it on the disk, to which calls are then applied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = _read(folder)

    def apply(self, call: Call) -> bool:
        """Follow a call; returns whether it changes what a power cut would leave.

        Raises:
            RuntimeError: it changes something in a way that is not known here.
        """
        if call.result < 0 or not call.touches(self.folder) or not (call.is_mutating() or "sync" in call.name):
            return False
        follow = getattr(self, f"_{call.name}", None)
        if follow is None:
            raise RuntimeError(f"no model of `{call.name}`")
        follow(call)
        return True

    def states(self, most: int, seed: int) -> Iterator[Tree]:
        """The trees that a power cut now may leave: all of them, or `most` drawn at random where there are more."""
        choices = list(_choices(self.root))
        options = [range(count) for _, _, count in choices]
        picks: Iterator[tuple[int, ...]] = itertools.product(*options)
        if math.prod(map(len, options)) > most:
            draw = random.Random(seed)
            extremes = [tuple(0 for _ in options), tuple(len(one) - 1 for one in options)]
            drawn = (tuple(draw.randrange(len(one)) for one in options) for _ in range(most - len(extremes)))
            picks = itertools.chain(extremes, drawn)
        for pick in picks:
            chosen = {(id(node), name): at for (node, name, _), at in zip(choices, pick, strict=True)}
            yield dict(_tree(self.root, "", chosen))

    def latest(self) -> Tree:
        """What a program sees now."""
        return dict(_tree(self.root, "", {}))

    # one method for each system call

    def _openat(self, call: Call) -> None:
        parent, name = self._place(call.path())
        node = parent.get(name)
        if node is None:
            parent.put(name, File())
        elif isinstance(node, File) and "O_TRUNC" in str(call.arguments):
            node.content = b""

    _open = _creat = _openat

    def _mkdir(self, call: Call) -> None:
        parent, name = self._place(call.path())
        parent.put(name, Folder())

    _mkdirat = _mkdir

    def _write(self, call: Call) -> None:
        node, data = self._node(call.path()), call.arguments[1]
        assert isinstance(node, File)
        assert isinstance(data, bytes)
        node.content += data[: call.result]

    def _fsync(self, call: Call) -> None:
        self._node(call.path()).sync()

    _fdatasync = _fsync

    def _rename(self, call: Call) -> None:
        (parent, name), (to, new) = self._place(call.path(0)), self._place(call.path(1))
        node = parent.get(name)
        to.put(new, node)
        parent.put(name, None)

    def _renameat2(self, call: Call) -> None:
        assert "EXCHANGE" in str(call.arguments[-1])
        (one, name), (two, other) = self._place(call.path(0)), self._place(call.path(2))
        first, second = one.get(name), two.get(other)
        one.put(name, second)
        two.put(other, first)

    def _unlink(self, call: Call) -> None:
        parent, name = self._place(call.path())
        parent.put(name, None)

    _unlinkat = _rmdir = _unlink

    def _fchmod(self, call: Call) -> None:
        """Modes are no matter here."""

    def _place(self, path: Path) -> tuple[Folder, str]:
        parent = self._node(path.parent)
        assert isinstance(parent, Folder), path
        return parent, path.name

    def _node(self, path: Path) -> Node:
        node: Node | None = self.root
        for part in path.relative_to(self.folder).parts:
            assert isinstance(node, Folder), path
            node = node.get(part)
        assert node is not None, path
        return node


def write_tree(tree: Tree, folder: Path) -> None:
    """Make it, in place of what `folder` does not hold yet."""
    folder.mkdir()
    for name, content in sorted(tree.items()):
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)


def _read(path: Path) -> Folder:
    folder = Folder()
    for child in path.iterdir():
        content = b"" if child.is_dir() else child.read_bytes()
        folder.names[child.name] = [_read(child) if child.is_dir() else File(content, content)]
    return folder


def _choices(node: Node, seen: set[int] | None = None) -> Iterator[tuple[Node, str, int]]:
    """What is open: node, name in it (empty for a file's content), how many options."""
    seen = set() if seen is None else seen
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, File):
        if len(node.options()) > 1:
            yield node, "", len(node.options())
        return
    for name, values in node.names.items():
        if len(values) > 1:
            yield node, name, len(values)
        for child in values:
            if child is not None:
                yield from _choices(child, seen)


def _tree(folder: Folder, prefix: str, chosen: Mapping[tuple[int, str], int]) -> Iterator[tuple[str, bytes | None]]:
    """What lies in `folder` where each choice is made as in `chosen`, else the newest."""
    for name, values in folder.names.items():
        node = values[chosen.get((id(folder), name), -1)]
        if isinstance(node, File):
            yield prefix + name, node.options()[chosen.get((id(node), ""), -1)]
        elif node is not None:
            yield prefix + name, None
            yield from _tree(node, f"{prefix}{name}/", chosen)
