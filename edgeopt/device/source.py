"""Where a predictor gets the bundle that it opens: a fixed one, or a device's, which may go back."""

from __future__ import annotations

import contextlib
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path

from edgeopt import files
from edgeopt.bundle import Bundle
from edgeopt.bundle.release import verify_release
from edgeopt.bundle.trust import Root, load_root
from edgeopt.bundle.unpack import unpack_bundle
from edgeopt.bundle.verify import load_bundle
from edgeopt.device.home import DEVICE_FILE, Home
from edgeopt.device.start import begin_start, confirm_start, fall_back
from edgeopt.errors import UsageError

UNPACKED = "bundle"


class Source(ABC):
    """What gives a predictor its bundle, and hears how that fares."""

    #: the device's folder, where it is one
    home: Home | None = None

    @abstractmethod
    def bundle(self) -> Bundle:
        """The one to open, verified."""

    def confirm(self, digest: str) -> None:
        """It can start."""
        return

    def go_back(self, digest: str, why: str) -> bool:
        """It failed; returns whether there is another one, which `bundle` gives from now on."""
        return False

    def gives(self, digest: str) -> bool:
        """Whether that is the one to have open, and none was activated in its place."""
        return True

    def close(self) -> None:
        """Free what was unpacked."""
        return


class HomeSource(Source):
    """The release that is active on a device, or the one before."""

    def __init__(self, home: Home) -> None:
        self.home: Home = home

    def bundle(self) -> Bundle:
        return begin_start(self.home)

    def confirm(self, digest: str) -> None:
        confirm_start(self.home, digest)

    def go_back(self, digest: str, why: str) -> bool:
        return fall_back(self.home, digest, why)

    def gives(self, digest: str) -> bool:
        return self.home.state().current == digest


class BundleSource(Source):
    """A bundle's folder, or its one file, which is unpacked for as long as it is open."""

    def __init__(self, path: Path, root: Root | None) -> None:
        self._stack = contextlib.ExitStack()
        if path.is_dir():
            self._bundle = load_bundle(path)
            if root is not None:
                verify_release(self._bundle.release, self._bundle.manifest, root)
            return
        folder = self._stack.enter_context(files.scratch(Path(tempfile.gettempdir())))
        try:
            self._bundle = unpack_bundle(
                path, folder / UNPACKED,
                lambda release, manifest: None if root is None else verify_release(release, manifest, root),
            )  # fmt: skip
        except BaseException:
            self._stack.close()
            raise

    def bundle(self) -> Bundle:
        return self._bundle

    def close(self) -> None:
        self._stack.close()


def find_source(path: Path, root: Root | Path | None) -> Source:
    """What lies at `path`: a device's folder, a bundle's folder or a `.edgeopt` file.

    Raises:
        UsageError: none of them does, or a root is given for a device, which has its own.
        TrustError: the bundle is not what its manifest says, or not signed as the root asks for.
    """
    if (path / DEVICE_FILE).is_file():
        if root is not None:
            raise UsageError(f"`{path}` is a device's folder, and has a root of its own", "leave the root out")
        return HomeSource(Home(path))
    return BundleSource(path, load_root(root) if isinstance(root, Path) else root)
