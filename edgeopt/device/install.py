"""Take a bundle in: signature, manifest, device, counter; then the files, streamed; then it is there, whole, or not."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

from edgeopt import files
from edgeopt.bundle.manifest import Manifest
from edgeopt.bundle.release import Release, verify_release
from edgeopt.bundle.unpack import unpack_bundle
from edgeopt.device.compatible import find_differences
from edgeopt.device.home import Device, Home, event
from edgeopt.device.state import Installed, State
from edgeopt.errors import TrustError
from edgeopt.model import Value

#: a clock that shows an earlier day was never set: this code is younger
PLAUSIBLE = datetime.date(2026, 11, 1)

STAGED = "staged"


class Installation(Value):
    """What was installed: the digest of its manifest is its name. `note` is what somebody should look at."""

    digest: str
    release: Release
    is_new: bool
    note: str = ""


def install(home: Home, path: Path, now: Callable[[], datetime.datetime] | None = None) -> Installation:
    """Install the bundle file at `path`, and use nothing of it yet; what is installed already is made whole again.

    Args:
        now: the clock that expiry is told by.

    Raises:
        UsageError: there is no such file.
        TrustError: it is not signed, not sound, not for this device, expired, or older than what was installed.
        MissingError: the disk is full.
    """
    notes: list[str] = []
    found: list[tuple[str, Release]] = []
    clock = now or (lambda: datetime.datetime.now(datetime.timezone.utc))

    with home.changing():
        state, device = home.state(), home.device()

        def admit(envelope: bytes | None, manifest: Manifest) -> None:
            release = verify_release(envelope, manifest, home.root())
            _check_device(manifest, release, device, device.app or state.app)
            _check_age(release, manifest.digest(), state)
            notes.extend(_check_expiry(release, clock()))
            found.append((manifest.digest(), release))

        # what is staged there and goes no further is cleared up by the next change
        staged = home.releases / STAGED
        unpack_bundle(path, staged, admit)
        digest, release = found[0]
        is_new = digest not in state.releases
        files.publish(staged, home.path_of(digest))  # in place of what is there, which may have been damaged
        entry = Installed(name=release.name, counter=release.counter, channel=release.channel)
        after = state.with_release(digest, entry)
        home.write_state(after.noting(event("install", digest, f"counter {release.counter}")) if is_new else after)
    return Installation(digest=digest, release=release, is_new=is_new, note="; ".join(notes))


def _check_device(manifest: Manifest, release: Release, device: Device, app: str | None) -> None:
    if app not in (None, release.name):
        raise TrustError(f"the bundle is `{release.name}`, and this device runs `{app}`", "ship it elsewhere")
    if release.channel != device.channel:
        what = f"the bundle was released for channel `{release.channel}`, and this device follows `{device.channel}`"
        raise TrustError(what, f"sign it with `--channel {device.channel}` when it is ready for that")
    differences = list(find_differences(manifest.compatible, device.board))
    if differences:
        hint = "compile for this device, or install here what the bundle needs"
        raise TrustError(f"the bundle is not for this device: {'; '.join(differences)}", hint)


def _check_age(release: Release, digest: str, state: State) -> None:
    if digest not in state.releases and release.counter <= state.counter:
        what = f"the bundle has counter {release.counter}, and {state.counter} was installed before"
        raise TrustError(what, "`edgeopt device rollback` goes back; a new release takes a higher counter")


def _check_expiry(release: Release, now: datetime.datetime) -> list[str]:
    if now.date() < PLAUSIBLE:
        return [f"the clock shows {now.date()}, which cannot be: whether the bundle has expired was not looked at"]
    if release.is_expired(now):
        what = f"the bundle was not to be installed after {release.not_after}, and it is {now.date()}"
        raise TrustError(what, "get a newer release; if the clock is wrong, set it")
    return []
