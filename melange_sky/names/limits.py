"""What a limit counts: an accelerator's GPUs, or instances on a cloud, in a region or of a type."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from melange_sky.errors import InputError, clip
from melange_sky.names.accelerators import (
    accelerator_hint,
    accelerator_name,
    accelerator_names,
    canonical_accelerator,
)
from melange_sky.names.clouds import CLOUDS, SAME_CLOUD, read_infra
from melange_sky.names.spelling import same_name

_INSTANCE_TYPE = re.compile(r"[A-Za-z0-9][\w.:+-]{1,99}\Z")
_LOOKS_SOLD = re.compile(r"[._]|-.*\d")


class LimitKind(Enum):
    """What the key of a limit names."""

    ACCELERATOR = "accelerator"
    CLOUD = "cloud"
    REGION = "region"
    INSTANCE_TYPE = "instance type"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitKey:
    """The key of one limit. `name` is canonical: ``H100``, ``aws``, ``aws/us-east-1``, ``g5.xlarge``.

    An accelerator's limit counts GPUs over all its counts and variants, any other instances.
    """

    kind: LimitKind
    name: str

    def __str__(self) -> str:
        """Return the name, as specs and plans write it."""
        return self.name

    @classmethod
    def of(cls, name: str) -> LimitKey:
        """Return the key of a canonical name: what is no accelerator, cloud or region is a type.

        >>> LimitKey.of("aws/us-east-1").kind
        <LimitKind.REGION: 'region'>
        """
        if name in accelerator_names():
            return cls(kind=LimitKind.ACCELERATOR, name=name)
        if name in CLOUDS:
            return cls(kind=LimitKind.CLOUD, name=name)
        if "/" in name:
            return cls(kind=LimitKind.REGION, name=name)
        return cls(kind=LimitKind.INSTANCE_TYPE, name=name)

    def counted(self, number: int) -> str:
        """Return so many of what is counted, in words.

        >>> LimitKey.of("H100").counted(2), LimitKey.of("aws").counted(1)
        ('2 H100 GPUs', '1 instance on aws')
        >>> LimitKey.of("g5.xlarge").counted(3)
        '3 instances of g5.xlarge'
        """
        plural = "" if number == 1 else "s"
        if self.kind is LimitKind.ACCELERATOR:
            return f"{number} {self.name} GPU{plural}"
        where = "of" if self.kind is LimitKind.INSTANCE_TYPE else "on"
        return f"{number} instance{plural} {where} {self.name}"


def read_limit_key(text: str) -> LimitKey:
    """Read the key of a limit as people write it; InputError says what is wrong.

    Whether an instance type is sold is seen when prices are read; here only a name that cannot be
    one is refused.
    """
    name = same_name(SAME_CLOUD.get(text.casefold(), text), (*accelerator_names(), *CLOUDS))
    if name is not None:
        return LimitKey.of(name)
    if "/" in text:
        return LimitKey(kind=LimitKind.REGION, name=str(read_infra(text)))
    accelerator, colon, _ = text.partition(":")
    if colon and same_name(accelerator, accelerator_names()):
        raise InputError("a limit counts GPUs of an accelerator over all counts: leave out ':N'")
    if canonical_accelerator(text) in accelerator_names():
        return LimitKey.of(accelerator_name(text))  # or raises with the right spelling
    if _INSTANCE_TYPE.match(text) and _LOOKS_SOLD.search(text):
        return LimitKey(kind=LimitKind.INSTANCE_TYPE, name=text)
    hint = accelerator_hint(text, [*accelerator_names(), *CLOUDS])
    raise InputError(
        f"'{clip(text)}' is no accelerator, cloud, cloud/region or instance type{hint}"
    )
