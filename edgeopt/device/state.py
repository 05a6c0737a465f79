"""What a device holds and uses, as one value in one small file: whatever is cut off, it is the old value or the new.

    installed ──activate──▶ current ──serves──▶ proven
                               │ fails to start MOST_STARTS times, or gives NaN
                               ▼
                             bad, and `previous` is current again

The counter only ever rises. It is written with a release, before that can be activated.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, Literal

from edgeopt.model import Value

FORMAT: Final = 1

#: starts in a row without an answer, after which the release before is taken
MOST_STARTS = 3


#: why the release before was taken: by hand, NaN or infinity, starts without an answer, a file that is not what it was
Reason = Literal["operator", "nonfinite", "starts", "damaged"]


class Installed(Value):
    """A release on the disk. `bad` says why it is not to be used again; empty where nothing is known against it."""

    name: str
    counter: int
    channel: str
    bad: str = ""


class Event(Value):
    """Something that an operator should hear of. `at` is seconds since 1970 by the clock of the device.

    With a reason, the release before was taken; `release` is then the one that was left.
    """

    at: float
    kind: Literal["install", "activate", "rollback", "fallback", "refused"]
    release: str
    text: str = ""
    reason: Reason | None = None


#: of `State.events`, the newest that are kept
KEPT_EVENTS = 50

#: of `State`: as if it had never been started
_FRESH: dict[str, Any] = {"starts": 0, "starting": ()}


class State(Value):
    """What a device holds: releases by the digest of their manifest, and which of them is used.

    Attributes:
        counter: the highest of all releases that were ever installed here.
        app: the name that all of them have.
        current, previous: what is used, and what was before it; neither is known to be bad.
        starts: how often a process that ran `current` ended, or began anew, without an answer, since it last gave one.
        starting: the processes that run `current` and have yet to give an answer, as `files.this_process` tells them.
        rollbacks: how often, ever, the release before was taken, by reason.
    """

    edgeopt_device: Literal[1] = FORMAT
    counter: int = 0
    app: str | None = None
    releases: dict[str, Installed] = {}
    current: str | None = None
    previous: str | None = None
    starts: int = 0
    starting: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    rollbacks: dict[Reason, int] = {}

    def with_release(self, digest: str, release: Installed) -> State:
        """It lies on the disk, maybe once more; nothing below its counter is taken any more."""
        if known := self.releases.get(digest):
            release = release.model_copy(update={"counter": max(known.counter, release.counter), "bad": known.bad})
        counter, releases = max(self.counter, release.counter), self.releases | {digest: release}
        return self.model_copy(update={"releases": releases, "counter": counter, "app": self.app or release.name})

    def activated(self, digest: str) -> State:
        """It is used from now on, and has yet to give an answer."""
        if digest == self.current:
            return self
        state = self.spoiled(digest, "")  # it may have failed before, and has passed now
        return state.model_copy(update={"current": digest, "previous": self.current, **_FRESH})

    def started(self, process: str) -> State:
        return self.model_copy(update={"starting": (*self.starting, process)})

    def failed(self, processes: Collection[str]) -> State:
        """These ended without an answer."""
        starting = tuple(one for one in self.starting if one not in processes)
        starts = self.starts + len(self.starting) - len(starting)
        return self.model_copy(update={"starts": starts, "starting": starting})

    def proven(self) -> State:
        """The current release gave an answer."""
        return self.model_copy(update=_FRESH)

    def rolled_back(self, why: str = "") -> State:
        """The release before is used again; with a reason, the one that was used is bad."""
        releases = dict(self.releases)
        if why and self.current in releases:
            releases[self.current] = releases[self.current].model_copy(update={"bad": why})
        after = {"current": self.previous, "previous": None, "releases": releases, **_FRESH}
        if not why:
            after["previous"] = self.current
        return self.model_copy(update=after)

    def spoiled(self, digest: str, why: str) -> State:
        """What is known against a release; empty: nothing any more."""
        spoiled = self.releases[digest].model_copy(update={"bad": why})
        previous = None if why and digest == self.previous else self.previous
        return self.model_copy(update={"releases": self.releases | {digest: spoiled}, "previous": previous})

    def without(self, digests: set[str]) -> State:
        kept = {digest: one for digest, one in self.releases.items() if digest not in digests}
        return self.model_copy(update={"releases": kept})

    def noting(self, event: Event) -> State:
        rollbacks = dict(self.rollbacks)
        if event.reason is not None:
            rollbacks[event.reason] = rollbacks.get(event.reason, 0) + 1
        return self.model_copy(update={"events": (*self.events, event)[-KEPT_EVENTS:], "rollbacks": rollbacks})
