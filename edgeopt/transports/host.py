"""Where a host is, and a connection to it by SSH once it has shown the very key that is known for it.

A key that is not known is never trusted for having come first: people compare it once, and pin it in the inventory or
in `~/.ssh/known_hosts`. Names, ports, users and jump hosts of `~/.ssh/config` hold as they do for `ssh`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from edgeopt.errors import DeviceError, EdgeoptError, TrustError, UsageError
from edgeopt.transports import Pins

if TYPE_CHECKING:
    import asyncssh

#: until a host answers, and until it has let us in
CONNECT_SECONDS, LOGIN_SECONDS = 15.0, 30.0
#: a connection that answers none of these is dead
KEEPALIVE_SECONDS, KEEPALIVES = 10.0, 3

KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")

#: kinds of host keys; all of them are taken, so that one which is not pinned is seen and refused
KEY_KINDS = (
    "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "rsa-sha2-512", "rsa-sha2-256",
)  # fmt: skip

_EXAMPLE = "write it as ssh://user@host/app, or with a port as ssh://user@host:2222/app"


class CutError(Exception):
    """The connection was lost, or could not be made just now: another try may succeed."""


@dataclass(frozen=True)
class Place:
    """A folder of a host. `home` is relative to the login folder unless it begins with a slash."""

    host: str
    port: int | None
    user: str | None
    home: str

    @property
    def name(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"


def parse_place(address: str) -> Place:
    """The place that `ssh://user@host:port/app` names; `//app` in it is `/app` from the root of the disk.

    Raises:
        UsageError: it names none.
    """
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"`{address}` is no address", _EXAMPLE) from error
    home = unquote(parts.path[1:])
    if not parts.hostname or parts.hostname.startswith("-") or parts.query or parts.fragment or "\0" in home:
        raise UsageError(f"`{address}` is no address", _EXAMPLE)
    if parts.password is not None:
        raise UsageError(f"`{parts.hostname}` is named with a password", "log in with a key: name it as `identity`")
    if not home.strip("/"):
        hint = f"{_EXAMPLE}; a name alone is looked up in an inventory"
        raise UsageError(f"`{address}` names no folder on the device", hint)
    return Place(parts.hostname, port, unquote(parts.username) if parts.username else None, home)


async def connect(place: Place, pins: Pins) -> asyncssh.SSHClientConnection:
    """A connection to the host.

    Raises:
        TrustError: it shows another key than is known for it.
        DeviceError: its key is not known, or it does not let us in.
        UsageError: a pinned key or the identity cannot be read.
        CutError: it cannot be reached now.
    """
    import asyncssh

    check = _KeyCheck(place, pins)

    class Client(asyncssh.SSHClient):
        def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
            check.shown = key  # asked only for a key that is not among the known ones
            return False

    given: dict[str, Any] = {"port": place.port, "username": place.user, **_identity(pins), **_kinds(pins)}
    try:
        return await asyncssh.connect(
            place.host, client_factory=Client, known_hosts=check.find_known, connect_timeout=CONNECT_SECONDS,
            login_timeout=LOGIN_SECONDS, keepalive_interval=KEEPALIVE_SECONDS, keepalive_count_max=KEEPALIVES,
            **{name: value for name, value in given.items() if value is not None},
        )  # fmt: skip
    except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed) as error:
        raise check.refusal(error) from error
    except asyncssh.PermissionDenied as error:
        who = f"`{place.user}`" if place.user else "this user"
        hint = "give the key with `identity`, or add it to the agent; its public half belongs into `authorized_keys`"
        raise DeviceError(f"`{place.name}` does not let {who} in", hint) from error
    except asyncssh.KeyImportError as error:
        hint = "a key that is locked belongs into the agent: `ssh-add`"
        raise UsageError(f"the key to log in to `{place.name}` with cannot be read: {error}", hint) from error
    except socket.gaierror as error:
        raise DeviceError(f"there is no host `{place.host}`: {error.strerror}", "check the address") from error
    except (TimeoutError, asyncio.TimeoutError) as error:  # two names of one thing from Python 3.11 on
        raise CutError(f"no answer in {CONNECT_SECONDS:.0f} seconds") from error
    except (OSError, asyncssh.Error) as error:
        raise CutError(tell(error)) from error


def _kinds(pins: Pins) -> dict[str, Any]:
    """Ask for the kind of the pinned key first: a host that has keys of several kinds shows one."""
    if pins.host_key is None:
        return {}
    pinned = pins.host_key.split()[0].replace("ssh-rsa", "rsa-sha2-512")
    return {"server_host_key_algs": list(dict.fromkeys([pinned, *KEY_KINDS]))}


def tell(error: BaseException) -> str:
    """What a library says of a connection, in a few lower-case words."""
    number = error.errno if isinstance(error, OSError) else None
    text = (os.strerror(number) if number and number > 0 else str(error)) or type(error).__name__
    return text[:1].lower() + text[1:].rstrip(".")


def _identity(pins: Pins) -> dict[str, Any]:
    if pins.identity is None:
        return {}
    path = pins.identity.expanduser()
    if not path.is_file():
        raise UsageError(f"there is no key `{path}` to log in with", "`identity` names the private one")
    return {"client_keys": [str(path)], "agent_path": None}


class _KeyCheck:
    """What is known of a host's key, and what it showed."""

    def __init__(self, place: Place, pins: Pins) -> None:
        self._place, self._pins = place, pins
        self._is_known = pins.host_key is not None
        self.shown: asyncssh.SSHKey | None = None

    def find_known(self, host: str, addr: str, port: int | None) -> Sequence[Any]:
        """The keys that the host may show, those of its authorities, and those that were revoked."""
        import asyncssh

        if self._pins.host_key is not None:
            try:
                return [asyncssh.import_public_key(self._pins.host_key)], [], []
            except asyncssh.KeyImportError as error:
                raise _refuse_pin(self._place, error) from error
        paths = [str(path) for name in KNOWN_HOSTS if (path := Path(name).expanduser()).is_file()]
        found = asyncssh.match_known_hosts(asyncssh.read_known_hosts(paths), host, addr, port)[:3]
        self._is_known = any(found)
        return found

    def refusal(self, error: Exception) -> EdgeoptError:
        """Why there is no connection to a host that showed a key which is not known, or none of the known kinds."""
        name, key = self._place.name, self.shown
        if self._is_known:
            found = key.get_fingerprint() if key else tell(error)
            hint = "if the device was set up anew, pin its new key; if not, somebody else answers in its place"
            return TrustError(f"`{name}` shows another key than is known for it: {found}", hint)
        if key is None:
            return DeviceError(
                f"`{name}` and this host agree on no way to talk: {tell(error)}", "update its SSH server"
            )
        shown = " ".join(key.export_public_key().decode().split()[:2])
        hint = (
            "compare it with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the device, then pin it: "
            f"`host_key: {shown}` in the inventory, or a line in `~/.ssh/known_hosts`"
        )
        return DeviceError(f"the key of `{name}` is not known: {key.get_fingerprint()}", hint)


def _refuse_pin(place: Place, error: Exception) -> UsageError:
    hint = "as in `/etc/ssh/ssh_host_ed25519_key.pub` there: `ssh-ed25519 AAAA…`"
    return UsageError(f"the key that is pinned for `{place.name}` cannot be read: {error}", hint)
