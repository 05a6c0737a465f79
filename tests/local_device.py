"""A device on this machine: a home in a folder, and its own edgeopt, run as a process for every command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgeopt.bundle.signing import load_public_key, load_signer, make_key
from edgeopt.bundle.trust import Root, make_role, write_root
from edgeopt.device.home import Device, make_home
from edgeopt.errors import BuildError, DeviceError, EdgeoptError, TrustError, UsageError
from edgeopt.transports import DeviceTransport, Pins, Progress

KINDS: dict[int, type[EdgeoptError]] = {2: UsageError, 4: TrustError, 5: BuildError}


class LocalTransport(DeviceTransport):
    """Copies in place of a network; all else is as it is on a device."""

    def __init__(self, home: Path, key: str) -> None:
        super().__init__(f"local://{home}", Pins(device_key=key))
        self.home, self.asked = home, list[str]()

    def send(self, bundle: Path, progress: Progress | None = None) -> str:
        return self.put(bundle, bundle.name)

    def put(self, file: Path, name: str, progress: Progress | None = None) -> str:
        place = self.home / "incoming" / name
        shutil.copyfile(file, place)
        return str(place)

    def discard(self, name: str) -> None:
        Path(name).unlink(missing_ok=True)

    def get(self, name: str, path: Path) -> None:
        shutil.copyfile(name, path)

    def run(self, *arguments: str, seconds: float = 600.0) -> Any:
        self.asked.append(arguments[0])
        command = [sys.executable, "-m", "edgeopt", "device", *arguments, "--home", str(self.home), "--json"]
        environ = os.environ | {"EDGEOPT_CACHE": str(self.home / "store")}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=seconds, check=False)
        if done.returncode:
            raise KINDS.get(done.returncode, DeviceError)(done.stderr.partition("\n")[0].removeprefix("error: "))
        return json.loads(done.stdout)


def make_device(folder: Path, **described: Any) -> LocalTransport:
    """A fresh device in `folder`/home, whose trust root is signed by `folder`/release.key."""
    folder.mkdir(parents=True, exist_ok=True)
    key = folder / "release.key"
    make_key(key)
    role = make_role([load_public_key(folder / "release.key.pub")], 1)
    write_root(folder / "root.json", Root(version=1, root=role, releases=role), [load_signer(key)])
    pinned = make_home(folder / "home", (folder / "root.json").read_bytes(), Device(**described))
    return LocalTransport(folder / "home", pinned)
