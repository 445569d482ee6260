"""What a fleet must keep to besides serving its rate: limits, budget, reservations, redundancy, spot."""

from __future__ import annotations

from dataclasses import dataclass

from melange_sky.names.limits import LimitKey


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceGroup:
    """So many instances of every option that matches: already paid, or asked for as a minimum.

    Single instances of a cloud are counted: a replica over several nodes takes as many.
    `accelerator` is SkyPilot's name; `accelerator_count` per instance, `cloud`, `region`, `zone` and
    `instance_type` narrow the match and are None where any will do.
    """

    accelerator: str
    instances: int
    accelerator_count: int | None = None
    cloud: str | None = None
    region: str | None = None
    instance_type: str | None = None
    zone: str | None = None

    def label(self) -> str:
        """Return the group in words, such as ``2 x A100-80GB:1 on gcp/us-central1``."""
        count = "" if self.accelerator_count is None else f":{self.accelerator_count}"
        place = "/".join(part for part in (self.cloud, self.region, self.zone) if part)
        return f"{self.instances} x {self.accelerator}{count}" + (f" on {place}" if place else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotPolicy:
    """How far spot instances are trusted.

    At most `max_fraction` of each model's rate runs on spot. An instance is interrupted
    `interruption_rate` times per hour and needs `recovery_s` seconds to come back, so that on
    average 1 / (1 + interruption_rate × recovery_s / 3600) of it is there to serve.
    """

    max_fraction: float = 1.0
    interruption_rate: float = 0.0
    recovery_s: float = 300.0

    def availability_fraction(self, nodes: int = 1) -> float:
        """Return the fraction of a replica's capacity that can be counted on.

        A replica over several spot instances is lost with any of them.
        """
        return 1.0 / (1.0 + nodes * self.interruption_rate * self.recovery_s / 3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """What a fleet must keep to besides serving its rate. The defaults ask for nothing.

    `limits` maps an accelerator to its most GPUs over all counts, and a cloud, region or instance
    type to its most instances. `fixed` is capacity already paid for: it costs nothing and so is
    used first. `minimum` must be in the fleet. With `spare` N, any N instances of a model may be
    lost and the rest is still a plan for its whole rate, headroom included. `min_replicas` counts
    the instances of each model. The shares bound the part of each model's rate on one region or
    cloud. `max_option_types` and `min_option_types` bound how many options each model runs on, each
    counted from its first instance on. Limits, budget, fixed and minimum span all models together.
    """

    limits: tuple[tuple[LimitKey, int], ...] = ()
    budget_usd_per_hour: float | None = None
    fixed: tuple[InstanceGroup, ...] = ()
    minimum: tuple[InstanceGroup, ...] = ()
    spare: int = 0
    min_replicas: int = 0
    max_share_per_region: float | None = None
    max_share_per_cloud: float | None = None
    spot: SpotPolicy | None = None
    max_option_types: int | None = None
    min_option_types: int = 0

    def available_fraction(self, *, use_spot: bool, nodes: int = 1) -> float:
        """Return the fraction of a replica's capacity that interruptions of its nodes leave."""
        if not use_spot or self.spot is None:
            return 1.0
        return self.spot.availability_fraction(nodes)
