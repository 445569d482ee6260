"""Accelerators by name: SkyPilot's own, what clouds list apart of them, and every other spelling."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from melange_sky.accelerators import AcceleratorSpec, accelerator_table
from melange_sky.errors import InputError, clip, did_you_mean
from melange_sky.names.spelling import fold, same_name

if TYPE_CHECKING:
    from collections.abc import Iterable

VARIANTS: dict[str, str] = {"H100-SXM": "H100", "H200-SXM": "H200", "A100-80GB-SXM": "A100-80GB"}
"""Names under which some clouds list a GPU apart → the accelerator whose figures it has."""

_SPELLINGS: dict[str, str] = {
    "a100sxm440gb": "A100",
    "a100pcie40gb": "A100",
    "a100sxm480gb": "A100-80GB",
    "a100pcie80gb": "A100-80GB",
    "a10080gbpcie": "A100-80GB",
    "h100sxm5": "H100",
    "h100sxm580gb": "H100",
    "h10080gbhbm3": "H100",
    "h100nvlink80gb": "H100",
    "gh200480gb": "GH200",
    "h200sxm5": "H200",
    "v100sxm216gb": "V100",
    "v100sxm232gb": "V100-32GB",
    "rtxa6000": "A6000",
    "rtx6000adageneration": "RTX6000-Ada",
    "rtxpro6000blackwellserveredition": "RTXPRO6000",
    "mi300xoam": "MI300X",
    "mi325xoam": "MI325X",
}
"""Folded spellings of other tools → canonical name, beyond those that `_spellings` makes by itself."""

_MAKERS = re.compile(r"^(nvidia|amd)?(geforce|tesla|instinct)?")
_LABEL = re.compile(r"((nvidia|tesla)-|amd_|[a-z]+[0-9]+_nvlink_)[\w.-]+\Z", re.IGNORECASE)
"""How nodes of a Kubernetes cluster are labelled: by GPU feature discovery (NVIDIA-A100-SXM4-80GB, Tesla-T4),
GKE (nvidia-tesla-t4, nvidia-l4), AMD's labeller and CoreWeave. SkyPilot 0.14 reads the same labels
(`sky/provision/kubernetes/utils.py`, its label formatters)."""
_SLICE = re.compile(r"-(MIG-.*|SHARED)\Z", re.IGNORECASE)
_STATED_MEMORY = re.compile(r"[-_ ](\d+) ?gb?\Z", re.IGNORECASE)

_PER_CLOUD: dict[tuple[str, str], str] = {
    ("seeweb", "A100"): "A100-80GB",  # Seeweb's A100 has 80 GB
}


@lru_cache(maxsize=1)
def accelerator_names() -> tuple[str, ...]:
    """Return every name that may be asked for: accelerators with figures, and their variants."""
    return (*accelerator_table(), *VARIANTS)


@lru_cache(maxsize=256)
def names_of(accelerator: str) -> tuple[str, ...]:
    """Return the names under which clouds list an accelerator: its own, and its variants'.

    >>> names_of("H100"), names_of("H100-SXM")
    (('H100', 'H100-SXM'), ('H100-SXM',))
    """
    return (accelerator, *(name for name, base in VARIANTS.items() if base == accelerator))


@lru_cache(maxsize=1)
def _spellings() -> dict[str, str]:
    """Return folded spelling → canonical name: each name itself, or followed by its memory (80G, 80GB).

    A name that is itself canonical is never taken for another's: A100-80GB is not "A100, 80 GB".
    """
    spellings = dict(_SPELLINGS)
    for name in accelerator_names():
        memory_gib = accelerator_table()[VARIANTS.get(name, name)].memory_gib
        spellings |= {f"{fold(name)}{memory_gib:g}{unit}": name for unit in ("g", "gb")}
        if name.endswith("GB"):
            spellings[fold(name).removesuffix("b")] = name
    return spellings | {fold(name): name for name in accelerator_names()}


@lru_cache(maxsize=4096)
def canonical_accelerator(name: str, cloud: str | None = None) -> str:
    """Return SkyPilot's canonical name of an accelerator; an unknown name stays as it is.

    For the lists of price sources, each of which has its own spelling.

    >>> canonical_accelerator("RTX-PRO-6000"), canonical_accelerator("NVIDIA A100-SXM4-40GB")
    ('RTXPRO6000', 'A100')
    >>> canonical_accelerator("A100", "seeweb"), canonical_accelerator("Trainium2")
    ('A100-80GB', 'Trainium2')
    >>> canonical_accelerator("h100_sxm"), canonical_accelerator("H100-80GB")
    ('H100-SXM', 'H100')
    """
    name = name.strip()
    if cloud is not None and (cloud, name) in _PER_CLOUD:
        return _PER_CLOUD[cloud, name]
    folded = fold(name)
    return _spellings().get(folded) or _spellings().get(_MAKERS.sub("", folded), name)


def accelerator_name(text: str, also: Iterable[str] = ()) -> str:
    """Return SkyPilot's canonical name, a variant's, or the one of `also`, case aside.

    For what people write. The label of a Kubernetes node counts as its GPU's name, as it does for SkyPilot.
    Raises InputError for any other word: another spelling is never guessed, the message says the right one.
    """
    known = sorted({*accelerator_names(), *also})
    name = same_name(text, known)
    if name is not None:
        return name
    meant = canonical_accelerator(text)
    if meant in known and _LABEL.match(text):
        return meant
    if _LABEL.match(text) and _SLICE.search(text):
        raise InputError(f"'{clip(text)}' is a part of a GPU; a replica needs whole GPUs")
    if meant in known:
        raise InputError(f"unknown accelerator '{clip(text)}': SkyPilot's name for it is '{meant}'")
    hint = accelerator_hint(text, known) or f"; known: {', '.join(known)}"
    raise InputError(f"unknown accelerator '{clip(text)}'{hint}")


def accelerator_hint(text: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` or nothing; never a card of another memory than `text` states.

    >>> accelerator_hint("A100-60GB", ["A100", "A100-80GB"]), accelerator_hint("H10O", ["H100"])
    ('', " (did you mean 'H100'?)")
    """
    stated = _STATED_MEMORY.search(text)
    if stated is not None:
        gib = float(stated[1])
        known = [name for name in known if _memory_gib(name) in (None, gib)]
        text = text[: stated.start()]
    return did_you_mean(text, known)


def _memory_gib(name: str) -> float | None:
    figures = accelerator_table().get(VARIANTS.get(name, name))
    return None if figures is None else figures.memory_gib


def find_accelerator(name: str) -> AcceleratorSpec:
    """Return the figures of `name`, case aside: of a variant those of its accelerator.

    An unknown name raises InputError with a suggestion.
    """
    canonical = accelerator_name(name)
    return accelerator_table()[VARIANTS.get(canonical, canonical)]
