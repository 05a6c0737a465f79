"""Free the disk: remove releases that are neither used nor to go back to, and what uploads left."""

from __future__ import annotations

from edgeopt import files
from edgeopt.device.home import Home
from edgeopt.model import Value


class Collected(Value):
    """What was removed."""

    releases: tuple[str, ...]
    uploads: int
    freed_bytes: int


def collect(home: Home) -> Collected:
    """Remove all releases but the current, the one before and the newest that was never used, and all uploads.

    The state forgets them first: what is then left by a kill is cleared up as any leftover is.
    """
    with home.changing():
        state = home.state()
        fresh = {digest: one.counter for digest, one in state.releases.items() if not one.bad}
        newest = max(fresh, key=lambda digest: fresh[digest], default=None)
        gone = state.releases.keys() - {state.current, state.previous, newest}
        paths = [home.path_of(digest) for digest in sorted(gone)]
        uploads = sorted(home.incoming.iterdir()) if home.incoming.is_dir() else []
        freed = sum(file.stat().st_size for path in paths for file in path.rglob("*") if file.is_file())
        freed += sum(path.stat().st_size for path in uploads if path.is_file())
        if gone:
            home.write_state(state.without(set(gone)))
        for path in (*paths, *uploads):
            if path.exists():
                files.remove(path)
    return Collected(releases=tuple(sorted(gone)), uploads=len(uploads), freed_bytes=freed)
