"""Who we are to a registry, and whom we tell.

A name and a password come from the environment or from Docker's own file. They go to the registry itself, over TLS,
or, where it asks for a token, to its token service: on the same host, or one of the same domain. A registry that was
broken into can so not have them sent elsewhere; where somebody else sends us on, nobody is told anything.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgeopt.errors import UsageError
from edgeopt.transports.oci import is_loopback

USER, PASSWORD = "EDGEOPT_REGISTRY_USER", "EDGEOPT_REGISTRY_PASSWORD"

SIGN_IN = f"set {USER} and {PASSWORD}, or run `docker login` without a credential helper: none is asked"

CONFIG_LIMIT_BYTES = 1_000_000

_TOKEN = re.compile(r"[!-~]{1,16384}")


class Credentials(NamedTuple):
    """A name and a password for one registry."""

    user: str
    password: str

    def basic(self) -> str:
        """As a header's value."""
        return f"Basic {base64.b64encode(f'{self.user}:{self.password}'.encode()).decode()}"


class Challenge(NamedTuple):
    """How a registry wants us to say who we are."""

    scheme: str
    fields: dict[str, str]


def find_credentials(host: str) -> Credentials | None:
    """Those for a registry: of the environment, else of Docker's `config.json`; None: there are none.

    Raises:
        UsageError: they cannot be read.
    """
    given = os.environ.get(USER), os.environ.get(PASSWORD)
    if all(given):
        return Credentials(*map(str, given))
    if any(given):
        raise UsageError(f"{USER if given[0] else PASSWORD} is set without the other", f"set {USER} and {PASSWORD}")
    return _of_docker(host)


def _of_docker(host: str) -> Credentials | None:
    path = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        content = stream.read(CONFIG_LIMIT_BYTES)
    try:
        entries: dict[str, Any] = json.loads(content).get("auths") or {}
        found = [entry.get("auth") for name, entry in entries.items() if _host_of(name) == host]
        user, _, password = (
            base64.b64decode(found[0] or "", validate=True).decode().partition(":") if found else ("",) * 3
        )
    except (ValueError, AttributeError, TypeError, RecursionError, binascii.Error) as error:
        raise UsageError(f"`{path}` is not what `docker login` writes", f"mend it, or {SIGN_IN}") from error
    return Credentials(user, password) if user and password else None


def _host_of(name: str) -> str:
    """`https://host/v1/`, as older ones wrote it, and `host`."""
    return name.partition("://")[2].partition("/")[0] if "://" in name else name.partition("/")[0]


def read_challenge(headers: Sequence[str]) -> Challenge | None:
    """What the headers `WWW-Authenticate` ask for: a token before a password."""
    found = [
        Challenge(scheme.lower(), dict(re.findall(r'(\w{1,40})="([^"]{0,2000})"', rest)))
        for scheme, _, rest in (header.strip().partition(" ") for header in headers)
    ]
    return next((one for scheme in ("bearer", "basic") for one in found if one.scheme == scheme), None)


def may_be_told(realm: str, host: str) -> bool:
    """Whether the password for the registry `host` may go to the token service on `realm`: hosts, without ports."""
    if realm == host or (is_loopback(realm) and is_loopback(host)):
        return True
    domain = host.partition(".")[2]
    return "." in domain and not _is_address(host) and (realm == domain or realm.endswith(f".{domain}"))


def _is_address(host: str) -> bool:
    return host.startswith("[") or host.replace(".", "").isdigit()


def read_token(content: bytes) -> str | None:
    """The token in the answer of a token service."""
    try:
        answer = json.loads(content)
        token = answer.get("token") or answer.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        return None
    return token if isinstance(token, str) and _TOKEN.fullmatch(token) else None
