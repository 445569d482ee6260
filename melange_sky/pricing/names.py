"""Names: SkyPilot's clouds and accelerators, and the other spellings that price sources use."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from melange_sky.accelerators import VARIANTS, accelerator_names
from melange_sky.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from melange_sky.offers import Offer

UNHOSTED_CLOUDS: tuple[str, ...] = ("kubernetes", "ssh", "slurm", "vsphere")
"""SkyPilot infrastructures without a hosted price catalog: the user's own."""

HOSTED_CLOUDS: tuple[str, ...] = (
    "aws",
    "azure",
    "gcp",
    "ibm",
    "lambda",
    "scp",
    "oci",
    "runpod",
    "vast",
    "cudo",
    "fluidstack",
    "paperspace",
    "primeintellect",
    "do",
    "nebius",
    "hyperbolic",
    "seeweb",
    "shadeform",
    "yotta",
    "mithril",
    "verda",
)
"""Clouds of SkyPilot 0.14 with a hosted catalog (`sky/skylet/constants.py`, ALL_CLOUDS)."""

KNOWN_CLOUDS: tuple[str, ...] = (*HOSTED_CLOUDS, *UNHOSTED_CLOUDS)

MARKETPLACES = frozenset(
    {"runpod", "vast", "shadeform", "primeintellect", "fluidstack", "cudo", "hyperbolic", "yotta"}
)
"""Clouds that sell any whole number of GPUs, not only powers of two."""

_SPELLINGS: dict[str, str] = {
    "rtxa6000": "A6000",
    "rtx6000ada": "RTX6000-Ada",
    "rtxpro600096gb": "RTXPRO6000",
    "a10080gb": "A100-80GB",
    "v10032gb": "V100-32GB",
}
"""Folded spelling → canonical name, beyond those that only differ in case and punctuation."""

_PER_CLOUD: dict[tuple[str, str], str] = {
    ("seeweb", "A100"): "A100-80GB",  # Seeweb's A100 has 80 GB
}


def fold(name: str) -> str:
    """Return the name in lower case without punctuation.

    >>> fold("RTX-PRO-6000"), fold("RTX PRO 6000 96GB")
    ('rtxpro6000', 'rtxpro600096gb')
    """
    return re.sub(r"[^a-z0-9]", "", name.casefold())


@lru_cache(maxsize=4096)
def canonical_accelerator(name: str, cloud: str | None = None) -> str:
    """Return SkyPilot's canonical name of an accelerator; an unknown name stays as it is.

    >>> canonical_accelerator("RTX-PRO-6000"), canonical_accelerator("a10g")
    ('RTXPRO6000', 'A10G')
    >>> canonical_accelerator("A100", "seeweb"), canonical_accelerator("Trainium2")
    ('A100-80GB', 'Trainium2')
    >>> canonical_accelerator("h100_sxm")
    'H100-SXM'
    """
    name = name.strip()
    if cloud is not None and (cloud, name) in _PER_CLOUD:
        return _PER_CLOUD[cloud, name]
    folded = fold(name)
    return _SPELLINGS.get(folded) or _folded_table().get(folded, name)


@lru_cache(maxsize=1)
def _folded_table() -> dict[str, str]:
    return {fold(name): name for name in accelerator_names()}


def figures_name(offer: Offer) -> str:
    """Return the name under which `accelerators.csv` has the figures of an offer's very GPU.

    SkyPilot's "H100" is SXM, PCIe or NVL; the instance type tells (Azure's NC H100 v5 is the NVL of
    94 GB, Lambda and RunPod name theirs).
    """
    if offer.accelerator != "H100":
        return VARIANTS.get(offer.accelerator, offer.accelerator)
    if offer.cloud == "azure" and offer.instance_type.startswith(_AZURE_NVL):
        return "H100-NVL"
    if "pcie" in offer.instance_type.casefold() or offer.cloud == "runpod":
        return "H100-PCIe"
    return "H100"


_AZURE_NVL = ("Standard_NC40ads_H100", "Standard_NC80adis_H100", "Standard_NCC40ads_H100")


def parse_infra(text: str) -> tuple[tuple[str, str | None], ...]:
    """Split ``aws,gcp/us-central1`` into (cloud, region or None) pairs.

    Raises InputError for a malformed part; `check_clouds` knows which clouds there are.

    >>> parse_infra("aws,gcp/us-central1")
    (('aws', None), ('gcp', 'us-central1'))
    """
    pairs: list[tuple[str, str | None]] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        cloud, slash, region = part.partition("/")
        if slash and (not region or "/" in region):
            raise InputError(f"'{part[:80]}' is not CLOUD or CLOUD/REGION")
        pairs.append((cloud.casefold(), region or None))
    return tuple(pairs)


def asked_regions(infra: tuple[tuple[str, str | None], ...], cloud: str) -> frozenset[str] | None:
    """Return the regions of a cloud that (cloud, region or None) pairs name, None for all of them.

    >>> asked_regions((("aws", "us-east-1"), ("gcp", None)), "aws")
    frozenset({'us-east-1'})
    """
    regions = {region for name, region in infra if name == cloud}
    named = frozenset(region for region in regions if region is not None)
    return None if None in regions or not named else named


def check_clouds(clouds: tuple[str, ...], also: tuple[str, ...] = ()) -> None:
    """Raise InputError naming every cloud that is neither SkyPilot's nor in `also`."""
    known = {*KNOWN_CLOUDS, *also}
    problems = [
        f"unknown cloud '{cloud[:80]}'{did_you_mean(cloud, known)}; known: {', '.join(sorted(known))}"
        for cloud in dict.fromkeys(clouds)
        if cloud not in known
    ]
    if problems:
        raise InputError(*problems)
