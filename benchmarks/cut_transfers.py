"""Cut transfers to a device, over a real sshd on this machine, until enough were cut, and count what that did.

    python benchmarks/cut_transfers.py --cuts 200

A proxy between the two ends each connection after a random number of bytes. A transfer is cut one to four times, in the
greeting, in a command or in the bytes, then let through. Whatever stands under the final name is read all the while.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from edgeopt.bundle.signing import load_public_key, load_signer, make_key
from edgeopt.bundle.trust import Root, make_role, write_root
from edgeopt.device.home import Device, make_home
from edgeopt.errors import EdgeoptError
from edgeopt.transports import device_transport
from tests.sshd import CuttingProxy, Server, start_server, why_not

SIZE_BYTES = 2_000_000
MOST_CUTS = 4
#: of the cuts that fall into the greeting and the command, before any byte of the file
EARLY, EARLY_BYTES = 0.25, 6_000


@dataclass
class Tally:
    """What was counted."""

    transfers: int = 0
    cuts: int = 0
    arrived: int = 0
    torn: int = 0
    looks: int = 0
    sent_bytes: int = 0
    seconds: float = 0.0

    @property
    def is_sound(self) -> bool:
        return self.torn == 0 and self.arrived == self.transfers

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each figure."""
        again = self.sent_bytes / (self.transfers * SIZE_BYTES) if self.transfers else 0.0
        return [
            ("transfers", str(self.transfers)), ("cuts", str(self.cuts)), ("arrived whole", str(self.arrived)),
            ("torn files seen", f"{self.torn} in {self.looks} looks"),
            ("bytes sent", f"{again:.2f} × the file's"), ("seconds", f"{self.seconds:.0f}"),
        ]  # fmt: skip


def count_cut_transfers(cuts: int = 200, seed: int = 0) -> Tally:
    """Transfer files until `cuts` connections were cut.

    Raises:
        RuntimeError: no server runs here; says why.
    """
    if reason := why_not():
        raise RuntimeError(reason)
    chance, tally, begun = random.Random(seed), Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        home = _make_home(folder)
        server = start_server(folder / "sshd")
        try:
            while tally.cuts < cuts:
                _transfer(server, home, folder / "file", chance, tally)
        finally:
            server.stop()
    tally.seconds = time.monotonic() - begun
    return tally


def _make_home(folder: Path) -> Path:
    make_key(folder / "key")
    role = make_role([load_public_key(folder / "key.pub")], 1)
    write_root(folder / "root.json", Root(version=1, root=role, releases=role), [load_signer(folder / "key")])
    make_home(folder / "home", (folder / "root.json").read_bytes(), Device())
    return folder / "home"


def _transfer(server: Server, home: Path, file: Path, chance: random.Random, tally: Tally) -> None:
    """One file, of a content of its own, cut a few times."""
    content = chance.randbytes(SIZE_BYTES)
    file.write_bytes(content)
    limits = [
        chance.randrange(EARLY_BYTES if chance.random() < EARLY else SIZE_BYTES)
        for _ in range(chance.randint(1, MOST_CUTS))
    ]
    proxy, done = CuttingProxy(server.port, iter(limits)), threading.Event()
    final = home / "incoming" / f"file-{tally.transfers}"
    watcher = threading.Thread(target=_watch, args=(final, content, done, tally))
    watcher.start()
    tally.transfers += 1
    try:
        with (
            contextlib.suppress(EdgeoptError),
            device_transport(server.address(home, proxy.port), server.pins) as device,
        ):
            device.put(file, final.name)
    finally:
        done.set()
        watcher.join()
        proxy.close()
    tally.cuts += proxy.cuts
    tally.sent_bytes += proxy.passed_bytes
    if final.is_file() and final.read_bytes() == content:
        tally.arrived += 1
        final.unlink()


def _watch(path: Path, content: bytes, done: threading.Event, tally: Tally) -> None:
    """Look again and again at what stands under the final name."""
    while not done.wait(0.005):
        tally.looks += 1
        with contextlib.suppress(FileNotFoundError):
            tally.torn += path.read_bytes() != content


def main() -> int:
    """Print the table; 1 if anything was torn or did not arrive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tally = count_cut_transfers(arguments.cuts, arguments.seed)
    for name, value in tally.rows():
        print(f"{name:18} {value}")
    return 0 if tally.is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
