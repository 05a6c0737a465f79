"""A real SSH server on a free port of this machine, with keys of its own, and a proxy that cuts what goes through it.

`benchmarks/cut_transfers.py` uses them, too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeopt.transports import Pins

SEPARATION = Path("/run/sshd")
EDGEOPT = Path(sys.executable).with_name("edgeopt")

LOOPBACK = "127.0.0.1"

CONFIG = """\
Port {port}
ListenAddress {host}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/identity.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
LogLevel ERROR
PermitUserEnvironment yes
"""


def why_not() -> str:
    """What is missing for a server to run here; nothing if it can."""
    if shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        return "no sshd: apt-get install openssh-server"
    if importlib.util.find_spec("asyncssh") is None:
        return "no asyncssh: pip install 'edgeopt[ssh]'"
    if os.geteuid() == 0:
        try:
            SEPARATION.mkdir(mode=0o755, exist_ok=True)
        except OSError as error:
            return f"sshd needs {SEPARATION}: {error.strerror}"
    return ""


def make_ssh_key(path: Path) -> str:
    """Make an Ed25519 key for SSH; returns its public half as an inventory pins it."""
    path.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return " ".join(path.with_name(path.name + ".pub").read_text().split()[:2])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A running server; `pins` are what lets us in, and knows it."""

    folder: Path
    port: int
    host_key: str
    process: subprocess.Popen[bytes]
    host: str = LOOPBACK

    @property
    def identity(self) -> Path:
        return self.folder / "identity"

    @property
    def pins(self) -> Pins:
        return Pins(host_key=self.host_key, identity=self.identity, edgeopt=str(EDGEOPT))

    def address(self, home: Path, port: int | None = None) -> str:
        return f"ssh://{self.host}:{port or self.port}/{home}"

    def stop(self) -> None:
        """Kill it, and the processes of its connections, as a power cut would."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        self.process.kill()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def other_network() -> Iterator[tuple[str, tuple[str, ...]]]:
    """A network of its own for a device, and how a program is started there; this one where that is not permitted."""
    name, number = f"edgeopt-{os.getpid()}", os.getpid() % 250
    host, us = f"10.213.{number}.2", f"10.213.{number}.1/24"
    ends = (f"eo{os.getpid()}a", f"eo{os.getpid()}b")
    commands = [
        f"ip netns add {name}", f"ip link add {ends[0]} type veth peer name {ends[1]} netns {name}",
        f"ip addr add {us} dev {ends[0]}", f"ip link set {ends[0]} up",
        f"ip -n {name} addr add {host}/24 dev {ends[1]}", f"ip -n {name} link set {ends[1]} up",
    ]  # fmt: skip
    made = shutil.which("ip") is not None and all(
        subprocess.run(command.split(), capture_output=True, check=False).returncode == 0 for command in commands
    )
    try:
        yield (host, ("ip", "netns", "exec", name)) if made else (LOOPBACK, ())
    finally:
        if shutil.which("ip") is not None:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def start_server(folder: Path, host: str = LOOPBACK, within: Sequence[str] = ()) -> Server:
    """Start a server with fresh keys in `folder`, which listens on `host`; `within` is what starts it elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    host_key = make_ssh_key(folder / "host_key")
    make_ssh_key(folder / "identity")
    port = free_port()
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder, host=host))
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin") or "sshd"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*within, sshd, "-D", "-e", "-f", folder / "config"], stdin=subprocess.DEVNULL, stderr=log
        )
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
            return Server(folder, port, host_key, process, host)
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"sshd did not start: {(folder / 'log').read_text()}")


class CuttingProxy:
    """Passes connections on to a port, and cuts each after as many bytes to the server as `budget` gives next.

    Once `budget` gives no more, connections live.
    """

    def __init__(self, port: int, budget: Iterator[int]) -> None:
        self._target, self._budget = port, budget
        self.cuts = self.passed_bytes = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                limit = next(self._budget, None)
                for pair in ((client, server, limit, True), (server, client, None, False)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, limit: int | None, to_server: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                if limit is not None and passed + len(chunk) >= limit:
                    sink.sendall(chunk[: limit - passed])
                    self.cuts += 1
                    break
                sink.sendall(chunk)
                passed += len(chunk)
                self.passed_bytes += len(chunk) if to_server else 0
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests of a folder."""
    if reason := why_not():
        pytest.skip(reason)
    server = start_server(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()
