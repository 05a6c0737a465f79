"""The folder on a device that holds one application: what it trusts, what is installed, which of that is used.

    device.json       what this device is: its board, its channel, the application
    device.key        its own key, which measurements are signed with; `device.key.pub` goes into the inventory
    root.json         whose signatures count
    state.json        the state: see `edgeopt.device.state`
    incoming/         bundles on their way in
    releases/<sha256 of the manifest>/
    lock              held by whatever changes something here

Every change of state is one file that replaces another, so there is nothing to repair after a power cut: what lies in
`releases` and is not in the state was never acknowledged, and goes with the next change.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import Field, ValidationError

from edgeopt import files
from edgeopt.bundle import Bundle
from edgeopt.bundle.release import CHANNEL
from edgeopt.bundle.signing import load_public_key, make_key, public_value
from edgeopt.bundle.trust import Root, verify_root
from edgeopt.bundle.verify import load_bundle
from edgeopt.device.state import Event, Reason, State
from edgeopt.errors import TrustError, UsageError
from edgeopt.model import Value, canonical_json

FORMAT: Final = 1

DEVICE_FILE, STATE_FILE, ROOT_FILE, KEY_FILE, LOCK_FILE = "device.json", "state.json", "root.json", "device.key", "lock"
RELEASES, INCOMING = "releases", "incoming"

INIT = "`edgeopt device init` makes one"

Read = TypeVar("Read", bound=Value)


class Device(Value):
    """What a device is.

    `app` is the name of the only bundles that it takes; where it is none, the first bundle gives it: see `State.app`.
    """

    edgeopt_device: Literal[1] = FORMAT
    board: str | None = None
    channel: str = Field(default="stable", pattern=f"^{CHANNEL}$")
    app: str | None = None


class Home:
    """An application's folder on a device.

    Raises:
        UsageError: `device init` was never run there.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / DEVICE_FILE).is_file():
            raise UsageError(f"`{folder}` is no device's folder", INIT)
        self.folder = folder.absolute()

    @property
    def incoming(self) -> Path:
        return self.folder / INCOMING

    @property
    def releases(self) -> Path:
        return self.folder / RELEASES

    @property
    def key(self) -> Path:
        return self.folder / KEY_FILE

    def device(self) -> Device:
        return self._load(DEVICE_FILE, Device)

    def root(self) -> Root:
        """Whose signatures count here.

        Raises:
            TrustError: what lies there is no root.
        """
        return verify_root((self.folder / ROOT_FILE).read_bytes())

    def state(self) -> State:
        """What is installed and used.

        Raises:
            TrustError: the file holds something else.
        """
        return self._load(STATE_FILE, State)

    def write_state(self, state: State) -> None:
        files.write_bytes(self.folder / STATE_FILE, canonical_json(state.model_dump(mode="json")))

    def write_device(self, device: Device) -> None:
        files.write_bytes(self.folder / DEVICE_FILE, canonical_json(device.model_dump(mode="json")))

    def replace_root(self, data: bytes) -> Root:
        """Trust the next root.

        Raises:
            TrustError: too few keys of the root that is trusted, or of the new one, have signed it.
        """
        with self.changing():
            root = verify_root(data, self.root())
            files.write_bytes(self.folder / ROOT_FILE, data)
        return root

    def path_of(self, digest: str) -> Path:
        return self.releases / digest

    def bundle(self, digest: str) -> Bundle:
        """An installed release, every file of it hashed anew.

        Raises:
            TrustError: it is not what was installed.
        """
        try:
            bundle = load_bundle(self.path_of(digest))
        except UsageError as error:
            raise TrustError(f"release {digest[:12]} is gone from `{self.releases}`", "install it again") from error
        except OSError as error:  # a bad sector is as bad as a changed one
            raise TrustError(f"release {digest[:12]} cannot be read: {error.strerror}", "install it again") from error
        if bundle.manifest.digest() != digest:
            raise TrustError(f"release {digest[:12]} is another one than was installed", "install it again")
        return bundle

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock, and clear up first what a process that died has left.

        What it has written and not come to sync is made durable: whoever finds its work done may say so.
        """
        with files.lock(self.folder / LOCK_FILE):
            files.sync_folder(self.folder)
            for place in (self.folder, self.incoming):
                files.sweep(place)
            self._drop_unacknowledged()
            yield

    def _drop_unacknowledged(self) -> None:
        """Nobody but who holds the lock writes among the releases: all else there is left over, from any boot."""
        known = self.state().releases
        for path in self.releases.iterdir() if self.releases.is_dir() else ():
            if path.name not in known:
                files.remove(path)

    def _load(self, name: str, kind: type[Read]) -> Read:
        try:
            return kind.model_validate_json((self.folder / name).read_bytes())
        except (OSError, ValidationError) as error:
            raise TrustError(f"`{self.folder / name}` cannot be read", f"restore it, or start anew: {INIT}") from error


def make_home(folder: Path, root: bytes, device: Device) -> str:
    """Make a device's folder, with a key of its own.

    Returns:
        The public key, as 64 hexadecimal digits: what an inventory pins.

    Raises:
        UsageError: there is one already.
        TrustError: `root` is no root that its own keys vouch for.
    """
    verify_root(root)
    folder = folder.absolute()
    files.make_folder(folder)
    # a run that was killed may have made some of the folders, and not come to sync them
    for parent in filter(_is_ours, folder.parents):
        files.sync_folder(parent)
    with files.lock(folder / LOCK_FILE):
        if (folder / DEVICE_FILE).exists():
            raise UsageError(f"`{folder}` is a device's folder already", "its releases stay; choose another folder")
        files.sweep(folder)
        # a run that was cut off may have left some of it, and nobody has been told its key
        for name in (KEY_FILE, f"{KEY_FILE}.pub"):
            if (folder / name).exists():
                files.remove(folder / name)
        make_key(folder / KEY_FILE)
        files.write_bytes(folder / ROOT_FILE, root)
        files.write_bytes(folder / STATE_FILE, canonical_json(State().model_dump(mode="json")))
        for name in (RELEASES, INCOMING):
            files.make_folder(folder / name)
        Home.write_device(_Unborn(folder), device)  # last: it says that all the rest is there
    return device_key(folder)


def _is_ours(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.W_OK)


class _Unborn(Home):
    """A home that is being made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder


def device_key(folder: Path) -> str:
    """The device's public key, as 64 hexadecimal digits."""
    return public_value(load_public_key(folder / f"{KEY_FILE}.pub"))


def event(kind: str, release: str, text: str = "", reason: Reason | None = None) -> Event:
    """Something that happened now."""
    at = round(time.time(), 3)
    return Event(at=at, kind=kind, release=release, text=text, reason=reason)  # type: ignore[arg-type]
