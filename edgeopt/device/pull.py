"""Fetch a bundle from a registry, as a device does by itself: nobody has to reach it, and a timer is enough.

What a registry says of a bundle is proven by nobody, and only saves a fetch: what is installed already is not fetched
again. What was fetched is believed as any other bundle is, by its signature, when it is installed.
"""

from __future__ import annotations

from edgeopt import files
from edgeopt.device.home import Home
from edgeopt.device.install import Installation, install
from edgeopt.device.state import State
from edgeopt.errors import UsageError
from edgeopt.model import Value
from edgeopt.transports import Progress, open_transport
from edgeopt.transports.oci import COUNTER, MANIFEST, Image
from edgeopt.transports.registry import Registry


class Pulled(Value):
    """What came of it: where the bundle lies, or how it was installed; neither where it was installed already."""

    path: str | None = None
    installation: Installation | None = None


def pull(home: Home, address: str, progress: Progress | None = None, *, and_install: bool = False) -> Pulled:
    """Fetch the bundle at `address` into the home's `incoming`; where that names no tag, the one of the home's channel.

    Args:
        and_install: install it, too, unless it is, and leave nothing in `incoming`.

    Raises:
        UsageError: there is no registry at that address, or something else than a bundle in it.
        DeviceError: the registry cannot be reached, or has no such thing.
        TrustError: what came is not what its digest says, or is not to be installed here.
    """
    with _open(address) as registry:
        image = registry.look(home.device().channel)
        if and_install and _is_installed(image, home.state()):
            return Pulled()
        path = registry.fetch(image, home.incoming, progress)
    if not and_install:
        return Pulled(path=str(path))
    try:
        return Pulled(installation=install(home, path))
    finally:
        files.remove(path)  # one that is refused would be fetched and refused again from the same bytes


def _open(address: str) -> Registry:
    found = open_transport(address)
    if not isinstance(found, Registry):
        raise UsageError(f"`{address}` is no registry", "write it as registry://host/team/digits")
    return found


def _is_installed(image: Image, state: State) -> bool:
    """Whether it is, if it is what it says. A lie keeps a device where it is, as a registry that is off does."""
    known = state.releases.get(image.annotations.get(MANIFEST, ""))
    return known is not None and str(known.counter) == image.annotations.get(COUNTER)
