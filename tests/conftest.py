"""What all tests share: golden files, and how Hypothesis searches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

GOLDENS = Path(__file__).parent / "goldens"

# The machines that run this are shared: time per example says nothing of the code.
settings.register_profile("edgeopt", deadline=None, print_blob=True)
settings.load_profile("edgeopt")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-goldens", action="store_true", help="rewrite the files in tests/goldens")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with `tests/goldens/<name>`, or rewrites that file under `--update-goldens`."""

    def compare(name: str, text: str) -> None:
        path = GOLDENS / name
        if request.config.getoption("--update-goldens"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf8")
        assert path.is_file(), f"no golden `{name}` yet: run pytest with --update-goldens and look at it"
        assert text == path.read_text(encoding="utf8"), f"`{name}` differs: look, then run with --update-goldens"

    return compare
