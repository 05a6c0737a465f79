"""`edgeopt keys`: keys that vouch for reports."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

#: opens a locked key where nobody can be asked
PASSPHRASE = "EDGEOPT_PASSPHRASE"


@click.group()
def command() -> None:
    """Make keys to sign with.

    \b
    Example:
      edgeopt keys new release.key
    """


@command.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--passphrase", "lock", is_flag=True, help=f"Lock it by a passphrase: {PASSPHRASE}, or what you type.")
def new(path: Path, lock: bool) -> None:
    """Make an Ed25519 key: PATH to sign with, PATH.pub to verify with.

    Keep PATH to yourself; PATH.pub goes to whoever is to believe you.

    \b
    Example:
      edgeopt keys new release.key --passphrase
    """
    from edgeopt.bundle.signing import PUBLIC, make_key

    passphrase = None
    if lock:
        passphrase = (os.environ.get(PASSPHRASE) or _ask("passphrase", confirm=True)).encode()
    name = make_key(path, passphrase)
    click.echo(f"{path}{PUBLIC}: Ed25519 {name[:12]}")


def open_signer(path: Path) -> Signer:
    """The private key at `path`; where it is locked, the passphrase is in the environment, or is asked for."""
    from edgeopt.bundle.signing import is_locked, load_signer

    if not is_locked(path):
        return load_signer(path)
    passphrase = os.environ.get(PASSPHRASE)
    if passphrase is None and sys.stdin is not None and sys.stdin.isatty():
        passphrase = _ask(f"passphrase of {path}", confirm=False)
    return load_signer(path, None if passphrase is None else passphrase.encode())


def _ask(what: str, *, confirm: bool) -> str:
    typed: str = click.prompt(what, hide_input=True, confirmation_prompt=confirm, err=True)
    return typed
