"""Names that a spec may use for accelerators, clouds, regions and limits, each with a suggestion."""

from __future__ import annotations

import re

from melange_sky.accelerators import accelerator_names
from melange_sky.errors import did_you_mean
from melange_sky.offers import parse_accelerator
from melange_sky.spec.values import AcceleratorChoice, Infra
from melange_sky.spec.yaml_source import clip

CLOUDS = (
    "aws",
    "azure",
    "cudo",
    "do",
    "fluidstack",
    "gcp",
    "hyperbolic",
    "ibm",
    "kubernetes",
    "lambda",
    "mithril",
    "nebius",
    "oci",
    "paperspace",
    "primeintellect",
    "runpod",
    "scp",
    "seeweb",
    "shadeform",
    "slurm",
    "ssh",
    "vast",
    "verda",
    "vsphere",
    "yotta",
)
"""Clouds of SkyPilot 0.14, as SkyPilot writes them in `infra`. Some have no price list: their prices are
the user's own (`--offers`)."""

_CLOUD_WORDS = {
    "google": "gcp",
    "amazon": "aws",
    "digitalocean": "do",
    "lambdalabs": "lambda",
    "oracle": "oci",
    "datacrunch": "verda",
    "microsoft": "azure",
    "k8s": "kubernetes",
}
_ACCELERATOR_WORDS = {
    "a100-40gb": "A100",
    "a100-40g": "A100",
    "a100-sxm4-40gb": "A100",
    "a100-80g": "A100-80GB",
    "a100-sxm4-80gb": "A100-80GB",
    "h100-80gb": "H100",
    "h100-sxm5": "H100",
    "h200-141gb": "H200",
    "v100-16gb": "V100",
    "rtx-4090": "RTX4090",
    "nvidia-l4": "L4",
    "nvidia-t4": "T4",
    "tesla-t4": "T4",
    "rtxa6000": "A6000",
    "rtx-a6000": "A6000",
    "gh200-96gb": "GH200",
}
_REGION = re.compile(r"[A-Za-z0-9][\w.-]{0,63}\Z")
_INSTANCE_TYPE = re.compile(r"[A-Za-z0-9][\w.:+-]{1,99}\Z")
_LOOKS_SOLD = re.compile(r"[._]|-.*\d")


def accelerator_name(text: str) -> str:
    """Return SkyPilot's canonical name, or a variant's; ValueError tells the right word for one that it does not use."""
    known = accelerator_names()
    folded = {name.casefold(): name for name in known}
    if text.casefold() in folded:
        return folded[text.casefold()]
    meant = _ACCELERATOR_WORDS.get(text.casefold().replace("_", "-").replace(" ", "-"))
    if meant is not None:
        raise ValueError(f"unknown accelerator '{clip(text)}': SkyPilot's name for it is '{meant}'")
    hint = did_you_mean(text, known) or f"; known: {', '.join(sorted(known))}"
    raise ValueError(f"unknown accelerator '{clip(text)}'{hint}")


def accelerator_choice(text: str) -> AcceleratorChoice:
    """Read ``NAME`` or ``NAME:COUNT``; ValueError says what is wrong."""
    try:
        name, count = parse_accelerator(text)
    except ValueError:
        raise ValueError(
            f"'{clip(text)}' must be NAME or NAME:COUNT with a count above 0"
        ) from None
    if count is not None and count != int(count):
        raise ValueError(f"'{clip(text)}': the count must be a whole number of GPUs")
    return AcceleratorChoice(
        name=accelerator_name(name),
        count=None if count is None else int(count),
    )


def infra(text: str) -> Infra:
    """Read ``CLOUD`` or ``CLOUD/REGION``; ValueError says what is wrong."""
    cloud, slash, region = text.partition("/")
    name = cloud_name(cloud)
    if not slash:
        return Infra(cloud=name)
    if "/" in region:
        raise ValueError(f"'{clip(text)}': write CLOUD or CLOUD/REGION; zones are left to SkyPilot")
    if not _REGION.match(region):
        raise ValueError(f"'{clip(text)}': '{clip(region)}' is not a region's name")
    return Infra(cloud=name, region=region)


def cloud_name(text: str) -> str:
    """Return SkyPilot's name of a cloud; ValueError with a suggestion for another word."""
    folded = text.casefold()
    if folded in CLOUDS:
        return folded
    meant = _CLOUD_WORDS.get(folded)
    hint = f" (did you mean '{meant}'?)" if meant else did_you_mean(text, CLOUDS)
    raise ValueError(f"unknown cloud '{clip(text)}'{hint or '; known: ' + ', '.join(CLOUDS)}")


def limit_key(text: str) -> str:
    """Return the canonical key of a limit: accelerator, cloud, cloud/region or instance type.

    Whether an instance type is sold is seen when prices are read; here only a name that cannot be
    one is refused.
    """
    folded = {name.casefold(): name for name in accelerator_names()}
    if text.casefold() in folded:
        return folded[text.casefold()]
    if text.casefold() in CLOUDS:
        return text.casefold()
    if "/" in text:
        place = infra(text)
        return f"{place.cloud}/{place.region}"
    if ":" in text and text.partition(":")[0].casefold() in folded:
        raise ValueError("a limit counts GPUs of an accelerator over all counts: leave ':N' away")
    if text.casefold() in _ACCELERATOR_WORDS:
        accelerator_name(text)
    if _INSTANCE_TYPE.match(text) and _LOOKS_SOLD.search(text):
        return text
    hint = did_you_mean(text, [*accelerator_names(), *CLOUDS])
    raise ValueError(
        f"'{clip(text)}' is no accelerator, cloud, cloud/region or instance type{hint}"
    )
