"""A signature beside the report: somebody vouches for it, and through the digests in it for every raw sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeopt import files
from edgeopt.bundle.signing import sign, verify
from edgeopt.errors import TrustError
from edgeopt.model import canonical_json
from edgeopt.report import REPORT_FILE

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

SIGNATURE_FILE = "report.sig"
PAYLOAD_TYPE = "application/vnd.edgeopt.report+json"


def sign_report(folder: Path, signer: Signer) -> Path:
    """Sign the report in `folder`; returns the signature's file."""
    path = folder / SIGNATURE_FILE
    files.write_bytes(path, sign(_statement(folder / REPORT_FILE), PAYLOAD_TYPE, [signer]))
    return path


def verify_report(report: Path, key: Key) -> None:
    """See that `key` has signed a `report.json`, or the one in a folder, as it stands.

    Raises:
        TrustError: it has not, or the report was changed since.
    """
    report = report / REPORT_FILE if report.is_dir() else report
    path = report.with_name(SIGNATURE_FILE)
    if not path.is_file():
        raise TrustError(
            f"`{report}` is not signed: no `{path.name}`", "`edgeopt compile --sign KEY` signs what it makes"
        )
    try:
        signed = verify(path.read_bytes(), PAYLOAD_TYPE, [key])
    except TrustError as error:
        raise TrustError(f"`{path}`: {error.message}", error.hint) from error
    if signed != _statement(report):
        raise TrustError(f"`{report}` is not the report that was signed", "it was changed after that")


def _statement(report: Path) -> bytes:
    return canonical_json({"report_sha256": files.hash_file(report)})
