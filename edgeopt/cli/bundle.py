"""`edgeopt bundle`: look at what ships, prove that it is whole, make the one file again, sign it, compress it."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def command() -> None:
    """Verify, show, pack, sign or compress a bundle.

    \b
    Example:
      edgeopt bundle verify build/digits/x86/digits.edgeopt
    """


@command.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--root", type=click.Path(path_type=Path), help="The trust root that must have signed it.")
def verify(bundle: Path, root: Path | None) -> None:
    """Check every file of BUNDLE against its manifest.

    BUNDLE is a file or a folder. With a trust root its signature is checked, too; that it has expired is told.

    \b
    Example:
      edgeopt bundle verify build/digits/x86/digits.edgeopt --root root.json
    """
    import datetime

    from edgeopt.bundle.trust import load_root
    from edgeopt.bundle.verify import verify_bundle

    found = verify_bundle(bundle, None if root is None else load_root(root))
    if found.release is not None and found.release.is_expired(datetime.datetime.now(datetime.timezone.utc)):
        click.echo(f"note: no device installs it after {found.release.not_after}", err=True)
    click.echo(f"{bundle}: {len(found.manifest.files)} files, all as the manifest says; {found.signature}")
    click.echo(f"sha256 {found.manifest.digest()}")


@command.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest as JSON.")
def show(bundle: Path, as_json: bool) -> None:
    """Show what BUNDLE is and what was judged of it.

    \b
    Example:
      edgeopt bundle show build/digits/x86/digits.edgeopt
    """
    from edgeopt.bundle.verify import verify_bundle

    manifest = verify_bundle(bundle).manifest
    if as_json:
        click.echo(json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False))
        return
    click.echo(f"{manifest.name} for {manifest.target}: {manifest.candidate}")
    for spec in (*manifest.artifact.inputs, *manifest.artifact.outputs):
        click.echo(f"  {spec.name:20} {spec.dtype} {list(spec.shape)}")
    for name, needed in sorted(manifest.compatible.items()):
        click.echo(f"  needs {name:14} {needed}")
    for file in manifest.files:
        click.echo(f"  {file.path:30} {file.size_bytes:12,} bytes  sha256 {file.sha256[:16]}…")
    for verdict in manifest.verdicts:
        click.echo(f"  {verdict['verdict']:12} {verdict['budget']}: {verdict['sentence']}")


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
def pack(folder: Path, file: Path) -> None:
    """Pack the bundle in FOLDER into one FILE.

    The same bundle gives the same bytes.

    \b
    Example:
      edgeopt bundle pack build/digits/x86/bundle digits.edgeopt
    """
    from edgeopt.bundle.pack import pack_file

    bundle = pack_file(folder, file)
    click.echo(f"{file}: {len(bundle.manifest.files)} files")


@command.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", "keys", required=True, multiple=True, type=click.Path(path_type=Path), help="A private key.")
@click.option("--counter", required=True, type=int, help="Higher than that of any release before.")
@click.option("--channel", default="stable", show_default=True, help="Which devices may take it.")
@click.option("--not-after", metavar="DATE", help="The last day, in UTC, to install it on, such as 2027-01-31.")
@click.option(
    "--allow",
    multiple=True,
    type=click.Choice(["fail", "inconclusive", "unmeasured"]),
    help="Sign it though a verdict is not `pass` but this.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Leave BUNDLE as it is, and write the signed one here.")
def sign(
    bundle: Path, keys: tuple[Path, ...], counter: int, channel: str, not_after: str | None, allow: tuple[str, ...],
    out: Path | None,
) -> None:  # fmt: skip
    """Sign BUNDLE as a release.

    What is signed is its manifest, which lists every file of it, under a counter that no device lets fall, for a
    channel. Where several keys are needed, each holder signs in turn under the same terms.

    \b
    Example:
      edgeopt bundle sign build/digits/x86/digits.edgeopt --key release.key --counter 7
    """
    from edgeopt.bundle.sign import Terms, sign_bundle
    from edgeopt.cli.keys import open_signer

    terms = Terms(counter=counter, channel=channel, not_after=not_after, allow=allow)
    release = sign_bundle(bundle, out or bundle, terms, [open_signer(key) for key in keys])
    click.echo(f"{out or bundle}: counter {release.counter}, channel {release.channel}, {release.tell_expiry()}")


@command.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path), required=False)
def compress(bundle: Path, file: Path | None) -> None:
    """Compress the file BUNDLE for the way, into FILE or beside it.

    Whatever takes a bundle's file takes the compressed one as well, and unpacks the very bytes that were signed. The
    same bundle gives the same bytes. `xz -d` makes it BUNDLE again.

    \b
    Example:
      edgeopt bundle compress build/digits/x86/digits.edgeopt
    """
    from edgeopt.bundle.pack import compress_file
    from edgeopt.compression import SUFFIX

    path = file or bundle.with_name(bundle.name + SUFFIX)
    before = bundle.stat().st_size
    compress_file(bundle, path)
    after = path.stat().st_size
    click.echo(f"{path}: {before:,} → {after:,} bytes, {100 * after / before:.0f} %")
