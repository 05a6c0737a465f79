"""Use another release: after its smoke test, by one file that replaces another; and go back."""

from __future__ import annotations

from edgeopt.bundle.release import verify_release
from edgeopt.device.busy import hold_board
from edgeopt.device.home import Home, event
from edgeopt.device.smoke import SmokeResult, run_smoke
from edgeopt.device.state import State
from edgeopt.errors import DeviceError, TrustError, UsageError
from edgeopt.model import Value


class Activation(Value):
    """What is used now; `smoke` is None where it was used already."""

    digest: str
    counter: int
    smoke: SmokeResult | None = None


def activate(home: Home, digest: str | None = None, max_ms: float | None = None) -> Activation:
    """Use an installed release from the next start on, if it passes its smoke test.

    Args:
        digest: of its manifest, or the first digits of it; None: the newest that is installed.
        max_ms: the p90 of one batch that is allowed, in place of the manifest's.

    Raises:
        UsageError: no such release is installed.
        TrustError: it is older than another that was installed, not what was installed, or signed by nobody whom the
            root of today believes.
        DeviceError: it fails its smoke test; what was used stays in use, and it is not tried again unless it is named.
            Or another job holds the board, and its time would be nobody's.
        MissingError: its runtime is not installed, or the disk is full, which is no fault of the release.
    """
    with hold_board(), home.changing():
        state = home.state()
        found = _find(state, digest)
        if found == state.current:
            return Activation(digest=found, counter=state.releases[found].counter)
        # Where nothing is used yet, nothing is gone back from: all but an older one may be bad.
        if state.current and state.releases[found].counter < state.counter and found != state.previous:
            what = f"release {found[:12]} has counter {state.releases[found].counter}, {state.counter} was installed"
            raise TrustError(what, "activate the newest; `edgeopt device rollback` goes back to the one before")
        bundle = home.bundle(found)
        verify_release(
            bundle.release, bundle.manifest, home.root()
        )  # a key may have been revoked since it was installed
        try:
            smoke = run_smoke(bundle, max_ms)
        except DeviceError as error:
            spoiled = state.spoiled(found, error.message)
            home.write_state(spoiled.noting(event("refused", found, error.message)))
            raise
        counter = state.releases[found].counter
        home.write_state(state.activated(found).noting(event("activate", found, f"counter {counter}")))
    return Activation(digest=found, counter=counter, smoke=smoke)


def roll_back(home: Home, why: str = "") -> str:
    """Use the release before again; with a reason, the one that is used now is never taken by itself again.

    Returns:
        The digest of what is used now.

    Raises:
        UsageError: there was none before.
        TrustError: it is not what was installed.
    """
    with home.changing():
        state = home.state()
        if state.previous is None:
            raise UsageError("there is no release to go back to", "`edgeopt device status` shows what is installed")
        home.bundle(state.previous)
        back = state.rolled_back(why)
        said = event("fallback" if why else "rollback", state.current or "", why, "operator")
        home.write_state(back.noting(said))
    return state.previous


def _find(state: State, digest: str | None) -> str:
    if digest is None:
        fit = {name: one.counter for name, one in state.releases.items() if not one.bad}
        if not fit:
            hint = "`edgeopt device install BUNDLE` installs one; `edgeopt device status` shows what is bad and why"
            raise UsageError("no release is installed that is known to be good", hint)
        return max(fit, key=lambda name: (fit[name], name))
    found = [name for name in state.releases if name.startswith(digest)]
    if len(found) != 1:
        what = "several releases begin" if found else "no installed release begins"
        raise UsageError(f"{what} with `{digest}`", "`edgeopt device status` lists them")
    return found[0]
