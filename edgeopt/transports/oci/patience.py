"""How often something is tried that a cut or a busy server spoiled."""

from __future__ import annotations

import random
import time

from edgeopt.errors import DeviceError

#: tries in a row that bring nothing, and the pauses between them
TRIES = 5
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 8.0
#: what a server may ask us to wait
LONGEST_WAIT_SECONDS = 60.0


class CutError(DeviceError):
    """Something that another try may mend. `wait_seconds` is how long the server asked us to wait before it."""

    def __init__(self, message: str, wait_seconds: float = 0.0) -> None:
        super().__init__(message, "check the network, then run it again: it goes on where it was cut")
        self.wait_seconds = wait_seconds


class Patience:
    """Lasts until `TRIES` times in a row have brought nothing."""

    def __init__(self) -> None:
        self._failed = 0

    def progressed(self) -> None:
        self._failed = 0

    def wait(self, error: CutError) -> None:
        """Wait until the next try, of random length, so that a fleet does not come back all at once.

        Raises:
            CutError: that one, if it was the last.
        """
        self._failed += 1
        if self._failed >= TRIES:
            raise error
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**self._failed) * random.uniform(0.5, 1.0)
        time.sleep(max(pause, min(error.wait_seconds, LONGEST_WAIT_SECONDS)))
