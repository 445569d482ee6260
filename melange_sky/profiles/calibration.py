"""Constants fitted on the user's own replica, by probes or by its traffic: `<home>/profiles/*.calibration.json`."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.capacities import Origin
from melange_sky.settings import profiles_dir
from melange_sky.steps import ErrorBand, Scales

if TYPE_CHECKING:
    from melange_sky.profiles.query import CapacityQuery

SCHEMA = "melange-sky-calibration/1"
SUFFIX = ".calibration.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """By what the estimates' constants of one model on one replica were off, and how sure that is.

    `low`, `high`: band of true ÷ estimated throughput after the correction. `origin` is "calibrated" where `probes`
    were sent, "observed" where it was learnt from so many minutes of traffic.
    """

    model: str
    accelerator: str
    tensor_parallel: int
    engine: str
    generation: str
    engine_version: str | None
    scales: Scales
    low: float
    high: float
    probes: int
    seconds: float
    measured_at: str
    origin: str = Origin.CALIBRATED.value

    @property
    def band(self) -> ErrorBand:
        """The band with where it comes from."""
        is_seen = self.origin == Origin.OBSERVED.value
        what = "minutes of traffic" if is_seen else "probes"
        basis = f"{self.probes} {what} of this model on this GPU, {self.measured_at[:10]}"
        return ErrorBand(low=self.low, high=self.high, basis=basis)


def save_calibration(calibration: Calibration, folder: Path) -> Path:
    """Write a calibration in place of an earlier one of the same replica; return its path."""
    model = calibration.model.replace("/", "--")
    name = f"{model}-{calibration.accelerator}-tp{calibration.tensor_parallel}-{calibration.engine}"
    if calibration.origin != Origin.CALIBRATED.value:
        name = f"{name}-{calibration.origin}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.lower()}{SUFFIX}"
    document = {"schema": SCHEMA, **dataclasses.asdict(calibration)}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path


def calibration_of(
    query: CapacityQuery, accelerator: str, tensor_parallel: int
) -> Calibration | None:
    """Return the latest calibration of the query's model on such a group, None for none."""
    if not query.measured:
        return None
    found = [
        known
        for known in _calibrations(profiles_dir())
        if known.model.casefold() == query.model.name.casefold()
        and (known.accelerator, known.tensor_parallel) == (accelerator, tensor_parallel)
        and (known.engine, known.generation) == (query.engine.name, query.generation)
    ]
    return max(found, key=lambda known: known.measured_at, default=None)


def _calibrations(folder: Path) -> tuple[Calibration, ...]:
    if not folder.is_dir():
        return ()
    files = sorted(folder.glob("*" + SUFFIX))
    return _read(tuple((file, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=4)
def _read(stamps: tuple[tuple[Path, int], ...]) -> tuple[Calibration, ...]:
    found = []
    for file, _ in stamps:
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            if document.pop("schema") != SCHEMA:
                raise ValueError("another schema")
            scales = Scales(**document.pop("scales"))
            found.append(Calibration(scales=scales, **document))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("%s is left out: %s", file, str(error)[:200])
    return tuple(found)
