"""What a process that runs the model asks for: the release to open, verified, or the one before where it fails.

A process is noted before the model opens, until it has given an answer: so a release that kills the process, however
that happens, is left after a few tries, with nobody there to notice. Those that live and are still starting, as many at
once as there may be, count for nothing.
"""

from __future__ import annotations

from edgeopt import files
from edgeopt.bundle import Bundle
from edgeopt.device.home import Home, event
from edgeopt.device.state import MOST_STARTS, Reason, State
from edgeopt.errors import DeviceError, TrustError


def begin_start(home: Home) -> Bundle:
    """The release to run, every file of it hashed; the one before where it is damaged or has failed to start.

    Raises:
        DeviceError: no release is active.
        TrustError: the only one is damaged.
    """
    process = files.this_process()
    with home.changing():
        state = home.state()
        if state.current is None:
            raise DeviceError(f"no release is active in `{home.folder}`", "`edgeopt device activate` takes the newest")
        state = state.failed([one for one in state.starting if one == process or files.has_ended(one)])
        if state.starts >= MOST_STARTS and state.previous is not None:
            state = _fall_back(home, state, f"{state.starts} starts in a row gave no answer", "starts")
        try:
            bundle = home.bundle(state.current or "")
        except TrustError as error:
            if state.previous is None:
                raise
            state = _fall_back(home, state, error.message, "damaged")
            bundle = home.bundle(state.current or "")
        home.write_state(state.started(process))
    return bundle


def confirm_start(home: Home, digest: str) -> None:
    """A release gave an answer, so it can start."""
    with home.changing():
        state = home.state()
        if state.current == digest and (state.starts or state.starting):
            home.write_state(state.proven())


def fall_back(home: Home, digest: str, why: str, reason: Reason = "nonfinite") -> bool:
    """Use the release before, because this one has failed; returns whether there is one.

    A release that is not used any more, or the only one, changes nothing but the events.
    """
    with home.changing():
        state = home.state()
        if state.current != digest:
            return state.current is not None
        if state.previous is None:
            said = event("refused", digest, f"{why}; there is none to go back to")
            if not state.events or state.events[-1].model_copy(update={"at": said.at}) != said:  # once is enough
                home.write_state(state.noting(said))
            return False
        _fall_back(home, state, why, reason)
    return True


def _fall_back(home: Home, state: State, why: str, reason: Reason) -> State:
    state = state.rolled_back(why).noting(event("fallback", state.current or "", why, reason))
    home.write_state(state)
    return state
