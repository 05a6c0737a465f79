"""The raw samples behind one target: what every side said of each image, every timed run, and what long runs showed.

They are kept beside the report, one file for each kind, and are enough to measure and judge again without the networks.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

from edgeopt.validation.accuracy import check_paired
from edgeopt.validation.energy_samples import EnergySamples
from edgeopt.validation.latency_samples import LatencySamples
from edgeopt.validation.predictions import Predictions, pack_predictions, unpack_predictions
from edgeopt.validation.sustained import SustainedSamples

ACCURACY_FILE, LATENCY_FILE = "accuracy.npz", "latency.npz"
SUSTAINED_FILE, ENERGY_FILE = "sustained.npz", "energy.npz"

#: what reading bytes that are no such samples raises
NO_SAMPLES = (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Evidence:
    """What was seen of the sides of a target, by the name of the side."""

    predictions: dict[str, Predictions]
    latency: LatencySamples | None = None
    sustained: SustainedSamples | None = None
    energy: EnergySamples | None = None

    def to_files(self) -> dict[str, bytes]:
        """File name → bytes; the same samples give the same bytes."""
        found = {ACCURACY_FILE: pack_predictions(self.predictions)}
        if self.latency is not None:
            found[LATENCY_FILE] = self.latency.to_npz()
        if self.sustained is not None:
            found[SUSTAINED_FILE] = self.sustained.to_npz()
        if self.energy is not None:
            found[ENERGY_FILE] = self.energy.to_npz()
        return found

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Evidence:
        """What `to_files` gave.

        Raises:
            ValueError: a file is not what it should be.
            DataError: the sides were not run on the same images.
        """
        try:
            predictions = unpack_predictions(files[ACCURACY_FILE]) if ACCURACY_FILE in files else {}
            latency = LatencySamples.from_npz(files[LATENCY_FILE]) if LATENCY_FILE in files else None
            sustained = SustainedSamples.from_npz(files[SUSTAINED_FILE]) if SUSTAINED_FILE in files else None
            energy = EnergySamples.from_npz(files[ENERGY_FILE]) if ENERGY_FILE in files else None
        except NO_SAMPLES as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        check_paired(list(predictions.values()))
        return cls(predictions, latency, sustained, energy)
