"""Ways to a device, or to where devices fetch from: one file per scheme of an address, found by its name.

    folder:///mnt/stick                     a mounted disk, where whoever owns the device takes it on
    ssh://user@host/app, ssh://name         a device that is reached; its edgeopt installs, activates and measures
    registry://host/name                    an OCI registry

To add one, write `transports/<scheme>.py` with a class of that name in CamelCase.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import Field

from edgeopt.bundle.archive import is_compressed, open_archive
from edgeopt.bundle.release import read_release
from edgeopt.bundle.verify import verify_bundle
from edgeopt.errors import TrustError, UsageError, did_you_mean
from edgeopt.model import Value
from edgeopt.registry import names, resolve  # by name: `registry` is a transport, too

#: what a transfer tells: bytes that are there, of how many
Progress = Callable[[int, int], None]

Opened = TypeVar("Opened", bound="Transport")


class Pins(Value):
    """What an inventory knows of a device, so that nobody else can pass for it."""

    host_key: str | None = Field(default=None, description="as in `known_hosts`, without the host: `ssh-ed25519 AAAA…`")
    device_key: str | None = Field(default=None, description="what `edgeopt device init` printed there")
    identity: Path | None = Field(default=None, description="the private key to log in with; default: the agent's")
    edgeopt: str | None = Field(default=None, description="where its edgeopt is; default: on its `PATH`")


class Transport(ABC):
    """A way to one place, open from `__enter__` to `__exit__`."""

    def __init__(self, address: str, pins: Pins) -> None:
        self.address, self.pins = address, pins

    @abstractmethod
    def send(self, bundle: Path, progress: Progress | None = None) -> str:
        """Bring a bundle file there, whole or not at all; what was sent before a cut is not sent again.

        Returns:
            What it is called there.

        Raises:
            DeviceError: it cannot be reached, or the transfer failed.
        """

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


class DeviceTransport(Transport):
    """A way to a device whose own edgeopt can be asked to do something."""

    @abstractmethod
    def run(self, *arguments: str, seconds: float = 600.0) -> Any:
        """Run `edgeopt device <arguments> --json` there, for its home, and give what it printed.

        Raises:
            EdgeoptError: what it said, with its exit code: a release that is not trusted there is a `TrustError` here.
            DeviceError: it cannot be reached, or does not answer in time.
        """

    @abstractmethod
    def put(self, file: Path, name: str, progress: Progress | None = None) -> str:
        """Bring a file into the home's `incoming` under `name`, resumed where it was cut; returns its path there."""

    @abstractmethod
    def discard(self, name: str) -> None:
        """Remove a file there, by the path that `put` gave; it may be gone already."""

    @abstractmethod
    def get(self, name: str, path: Path) -> None:
        """Fetch a file from there, by the path that it has there."""


def open_transport(address: str, pins: Pins | None = None) -> Transport:
    """The way to an address; open it with `with`.

    Raises:
        UsageError: it is no address, or there is no such scheme.
        MissingError: what the scheme needs is not installed.
    """
    scheme = urlsplit(address).scheme
    known = names("transports")
    if scheme not in known:
        what = f"there is no transport `{scheme}`" if scheme else f"`{address}` is no address"
        raise UsageError(what, did_you_mean(scheme, known) if scheme else "write it as ssh://user@host/app")
    found: Transport = resolve("transports", scheme)(address, pins or Pins())
    return found


def device_transport(address: str, pins: Pins | None = None) -> DeviceTransport:
    """As `open_transport`, for a device that can be asked to do something.

    Raises:
        UsageError: what lies there only keeps files.
    """
    found = open_transport(address, pins)
    if not isinstance(found, DeviceTransport):
        raise UsageError(f"`{address}` keeps files and runs nothing", "name a device, such as ssh://user@host/app")
    return found


def shipped_name(bundle: Path) -> str:
    """What a bundle file is called where it goes: `<name>-<counter>-<first digits of its manifest's digest>.edgeopt`.

    A compressed one is called `….edgeopt.xz`.

    Raises:
        UsageError: there is no such file.
        TrustError: nobody has signed it, or it is not what its manifest says: no device would take it.
    """
    manifest = verify_bundle(bundle).manifest
    with open_archive(bundle) as archive:
        if archive.release is None:
            raise TrustError(f"`{bundle}` is not signed", "`edgeopt bundle sign` signs it; no device takes it before")
        release = read_release(archive.release)
    name = f"{release.name}-{release.counter}-{manifest.digest()[:12]}.edgeopt"
    return f"{name}.xz" if is_compressed(bundle) else name
