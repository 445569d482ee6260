"""Clouds and their regions, as SkyPilot names them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.errors import InputError, clip, did_you_mean
from melange_sky.names.spelling import same_name

if TYPE_CHECKING:
    from collections.abc import Iterable

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

UNHOSTED_CLOUDS: tuple[str, ...] = ("kubernetes", "ssh", "slurm", "vsphere")
"""SkyPilot infrastructures without a hosted price catalog: the user's own (`--offers`)."""

CLOUDS: tuple[str, ...] = (*HOSTED_CLOUDS, *UNHOSTED_CLOUDS)
"""Every cloud of SkyPilot 0.14, as it is written in `infra`."""

MARKETPLACES = frozenset(
    {"runpod", "vast", "shadeform", "primeintellect", "fluidstack", "cudo", "hyperbolic", "yotta"}
)
"""Clouds that sell any whole number of GPUs, not only powers of two."""

_OTHER_WORDS = {
    "google": "gcp",
    "amazon": "aws",
    "digitalocean": "do",
    "lambdalabs": "lambda",
    "oracle": "oci",
    "datacrunch": "verda",
    "microsoft": "azure",
}

SAME_CLOUD = {"k8s": "kubernetes"}
"""Other names by which SkyPilot itself takes a cloud, in `infra` and `cloud`."""

CONTEXT_CLOUDS = frozenset({"kubernetes", "ssh"})
"""Infrastructures whose regions are contexts or node pools, which may bear any name."""

_CONTEXT = re.compile(r"[^\s\x00-\x1f]{1,253}\Z")
_REGION = re.compile(r"[A-Za-z0-9][\w.-]{0,63}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Infra:
    """A cloud, or one region of it where `region` is given. Cloud names are SkyPilot's, lower case."""

    cloud: str
    region: str | None = None

    def __str__(self) -> str:
        """Return ``cloud`` or ``cloud/region``."""
        return f"{self.cloud}/{self.region}" if self.region else self.cloud


def cloud_name(text: str, also: Iterable[str] = ()) -> str:
    """Return SkyPilot's name of a cloud, or the one of `also`, case aside.

    Raises InputError with a suggestion for another word.
    """
    clouds = sorted({*CLOUDS, *also})
    name = same_name(SAME_CLOUD.get(text.casefold(), text), clouds)
    if name is not None:
        return name
    meant = _OTHER_WORDS.get(text.casefold())
    hint = f" (did you mean '{meant}'?)" if meant else did_you_mean(text, clouds)
    raise InputError(f"unknown cloud '{clip(text)}'{hint or '; known: ' + ', '.join(clouds)}")


def read_infra(text: str) -> Infra:
    """Read ``CLOUD`` or ``CLOUD/REGION``; InputError says what is wrong."""
    cloud, slash, region = text.partition("/")
    name = cloud_name(cloud)
    if not slash or region == "*":
        return Infra(cloud=name)
    if name in CONTEXT_CLOUDS and _CONTEXT.match(region):
        return Infra(cloud=name, region=region)
    if "/" in region:
        raise InputError(f"'{clip(text)}': write CLOUD or CLOUD/REGION; zones are left to SkyPilot")
    if not _REGION.match(region):
        raise InputError(f"'{clip(text)}': '{clip(region)}' is not a region's name")
    return Infra(cloud=name, region=region)


def split_infra(text: str) -> tuple[tuple[str, str | None], ...]:
    """Split ``aws,gcp/us-central1`` into (cloud, region or None) pairs.

    Raises InputError for a malformed part; `check_clouds` says which clouds there are, once the
    user's own offers are read.

    >>> split_infra("aws,gcp/us-central1")
    (('aws', None), ('gcp', 'us-central1'))
    """
    pairs: list[tuple[str, str | None]] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        cloud, slash, region = part.partition("/")
        cloud = SAME_CLOUD.get(cloud.casefold(), cloud.casefold())
        named = "/" not in region or cloud in CONTEXT_CLOUDS
        if slash and (not region or not named):
            raise InputError(f"'{clip(part)}' is not CLOUD or CLOUD/REGION")
        pairs.append((cloud, None if region in ("", "*") else region))
    return tuple(pairs)


def regions_of(infra: tuple[tuple[str, str | None], ...], cloud: str) -> frozenset[str] | None:
    """Return the regions of a cloud that (cloud, region or None) pairs name, None for all of them.

    >>> regions_of((("aws", "us-east-1"), ("gcp", None)), "aws")
    frozenset({'us-east-1'})
    """
    regions = {region for name, region in infra if name == cloud}
    named = frozenset(region for region in regions if region is not None)
    return None if None in regions or not named else named


def check_clouds(clouds: Iterable[str], also: Iterable[str] = ()) -> None:
    """Raise InputError naming every cloud that is neither SkyPilot's nor in `also`."""
    problems: list[str] = []
    for cloud in dict.fromkeys(clouds):
        try:
            cloud_name(cloud, also)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(*problems)
