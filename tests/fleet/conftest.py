"""What is shipped to."""

from __future__ import annotations

from tests.behind_ssh import bundle, holders, impatience, place, releases, root, server

__all__ = ["bundle", "holders", "impatience", "place", "releases", "root", "server"]
