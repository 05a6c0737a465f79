"""`edgeopt keys`: keys that vouch for reports and bundles, and the root that says whose count."""

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


@command.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--release",
    "releases",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="KEY.pub",
    help="A public key that may sign bundles.",
)
@click.option("--threshold", default=1, show_default=True, help="How many of those must sign a bundle.")
@click.option(
    "--root",
    "roots",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="KEY.pub",
    help="A public key that may sign the next root; without any, those of --release.",
)
@click.option("--root-threshold", default=1, show_default=True, help="How many of those must sign a root.")
@click.option("--after", type=click.Path(path_type=Path), help="The root that this one replaces.")
@click.option("--key", "keys", required=True, multiple=True, type=click.Path(path_type=Path), help="A private key.")
def root(
    path: Path, releases: tuple[Path, ...], threshold: int, roots: tuple[Path, ...], root_threshold: int,
    after: Path | None, keys: tuple[Path, ...],
) -> None:  # fmt: skip
    """Make the trust root PATH: whose signatures devices believe.

    A root that replaces another is signed by as many keys of both as each asks for. Where their holders sit apart,
    each runs the same command with a key of their own: the signatures gather in PATH.

    \b
    Example:
      edgeopt keys root root.json --release release.key.pub --key release.key
    """
    from edgeopt.bundle.signing import load_public_key
    from edgeopt.bundle.trust import Root, load_root, make_role, write_root

    version = 1 if after is None else load_root(after).version + 1
    signing = make_role([load_public_key(key) for key in releases], threshold)
    ruling = make_role([load_public_key(key) for key in roots or releases], root_threshold)
    made = Root(version=version, root=ruling, releases=signing)
    write_root(path, made, [open_signer(key) for key in keys])
    click.echo(f"{path}: version {version}, {threshold} of {len(releases)} keys sign bundles")


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
