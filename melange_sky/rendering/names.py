"""Names of services, their files and the gateway: stable from plan to plan, valid, unique."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from melange_sky.errors import InputError

if TYPE_CHECKING:
    from melange_sky.plans import Allocation, ModelPlan, Plan

SERVICE_NAME_PATTERN = re.compile(r"[a-zA-Z]([-_.a-zA-Z0-9]*[a-zA-Z0-9])?")
"""What SkyPilot accepts as a service name (CLUSTER_NAME_VALID_REGEX)."""

_LONGEST_PLAN_NAME = 40
_LONGEST_OPTION_PART = 44
_GATEWAY_SUFFIX = "-gateway"


def service_name(plan: ModelPlan, allocation: Allocation) -> str:
    """Return the SkyServe name of an allocation; it depends on the names of plan and option alone.

    So the next plan finds the running service of the same option again. An option name that does not
    survive as it is (other characters, too long) gets a digest of itself, which keeps names apart.
    """
    if len(plan.name) > _LONGEST_PLAN_NAME or not SERVICE_NAME_PATTERN.fullmatch(plan.name):
        raise InputError(
            f"the plan's name must start with a letter, hold only letters, digits, '-', '_' and '.', "
            f"and have at most {_LONGEST_PLAN_NAME} characters, as it names SkyServe services"
        )
    return f"{plan.name}-{slug(allocation.candidate.option.name)}"


def gateway_name(plan: Plan) -> str:
    """Return the name of the gateway's cluster: after the plan, with a digest where that is cut.

    Two plans must never share it: a launch hands the second plan to the gateway of the first.
    """
    longest = _LONGEST_PLAN_NAME - len(_GATEWAY_SUFFIX)
    name = plan.name if len(plan.name) <= longest else _cut(plan.name, plan.name, longest)
    return name + _GATEWAY_SUFFIX


def file_name(service: str) -> str:
    """Return the name of a service's file."""
    return f"{service}.sky.yaml"


def slug(option: str) -> str:
    """Return `option` in lower-case letters, digits, dots and dashes; with a digest if that loses any.

    >>> slug("a10g-1-aws-g5.xlarge"), slug("A100-80GB:2")
    ('a10g-1-aws-g5.xlarge', 'a100-80gb-2-5d9737')
    """
    shown = re.sub(r"[^a-z0-9.]+", "-", option.lower()).strip("-.")
    if shown == option and len(shown) <= _LONGEST_OPTION_PART:
        return shown
    return _cut(shown, option, _LONGEST_OPTION_PART).lstrip("-")


def _cut(shown: str, whole: str, longest: int) -> str:
    """Return the start of `shown` with a digest of `whole`, in at most `longest` characters."""
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{shown[: longest - 7].rstrip('-_.')}-{digest}"
