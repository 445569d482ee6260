"""Mixes of request sizes by name: shipped distributions, files of `melange-sky workload`, or traces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.errors import InputError, clip, did_you_mean
from melange_sky.spec.demand import load_distribution, shipped_distributions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from melange_sky.spec.histogram import Histogram


def read_mixes(named: Iterable[str], labels: Iterable[str]) -> dict[str, Histogram]:
    """Return the sizes of each label out of texts LABEL=FILE.

    Raises InputError where a text names no file, a label is not in the demand or one of it has no sizes.
    """
    wanted = [label for label in labels if label]
    found: dict[str, Histogram] = {}
    for text in named:
        label, equals, name = text.partition("=")
        if not equals or not label.strip() or not name.strip():
            raise InputError(f"--mix: '{clip(text)}' must be LABEL=FILE, such as night=night.yaml")
        label = label.strip()
        if label not in wanted:
            there = f"; its mixes are {', '.join(wanted)}" if wanted else ", which names no mix"
            raise InputError(
                f"--mix: the demand has no mix '{clip(label)}'{did_you_mean(label, wanted) or there}"
            )
        if label in found:
            raise InputError(f"--mix: '{clip(label)}' is given twice")
        found[label] = _sizes(name.strip())
    missing = [label for label in wanted if label not in found]
    if missing:
        raise InputError(
            f"the demand's mix '{clip(missing[0])}' has no sizes: give --mix {clip(missing[0])}=FILE, a trace or what "
            "`melange-sky workload` writes"
        )
    return found


def _sizes(name: str) -> Histogram:
    shipped = shipped_distributions()
    if name in shipped:
        return load_distribution(shipped[name])
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return load_distribution(path)
    from melange_sky.spec.trace_files import histogram_of_trace

    return histogram_of_trace(path)
