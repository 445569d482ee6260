"""What a user's spec adds to every service in SkyPilot's own words, but for what the plan decides.

The same checks run when a spec is read, which adds file and line, and when a plan is rendered. Whether
SkyPilot takes what is left is for its own parser to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from melange_sky.engines import name_problem, text_problem
from melange_sky.errors import InputError, clip, did_you_mean
from melange_sky.names.accelerators import accelerator_name, names_of
from melange_sky.offers import parse_accelerator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from melange_sky.capacities import DeploymentOption

KEY = "sky"
PER_ACCELERATOR = "per_accelerator"

TASK_KEYS = (
    "resources",
    "service",
    "envs",
    "secrets",
    "managed_secrets",
    "volumes",
    "volume_mounts",
    "file_mounts",
    "workdir",
    "setup",
    "config",
    "event_callback",
    "api_server_access",
    "inputs",
    "outputs",
)
"""Keys of SkyPilot's task (`get_task_schema` of 0.14) that a plan leaves open; a test compares them."""

SKY_KEYS = tuple(
    key for key in TASK_KEYS if key not in ("resources", "service", "envs", "secrets", "setup")
)
"""Those of which a plan itself writes none into a service."""

_MAPPINGS = ("resources", "service", "envs", "volumes", "file_mounts", "config")

_ROOM = "the plan chooses it: resources.{} of the spec narrows the choice"
_HOST = "it comes with the instance type that the plan chooses"
_PORT = "replicas listen on the plan's port, which it opens itself"

DECIDED: dict[tuple[str, ...], str] = {
    ("name",): "the plan names its services: name of the spec",
    ("run",): "the plan starts the engine: engine.args of the spec adds flags",
    ("num_nodes",): "the plan decides it: resources.max_nodes_per_replica of the spec",
    ("pool",): "pools take batch jobs, and a plan makes services",
    ("file_mounts_mapping",): "belongs to SkyPilot",
    ("resources", "accelerators"): _ROOM.format("accelerators"),
    ("resources", "infra"): _ROOM.format("infra"),
    ("resources", "cloud"): _ROOM.format("infra"),
    ("resources", "region"): _ROOM.format("infra"),
    ("resources", "zone"): "zones are left to SkyPilot",
    ("resources", "instance_type"): _ROOM.format("accelerators"),
    ("resources", "use_spot"): _ROOM.format("use_spot"),
    ("resources", "any_of"): _ROOM.format("accelerators"),
    ("resources", "ordered"): _ROOM.format("accelerators"),
    ("resources", "cpus"): _HOST,
    ("resources", "memory"): _HOST,
    ("resources", "ports"): _PORT,
    ("resources", "job_recovery"): "SkyServe brings lost replicas back itself",
    (
        "resources",
        "max_hourly_cost",
    ): "SkyPilot ignores it beside an instance type: resources.budget_usd_per_hour of the spec bounds the fleet",
    ("service", "replicas"): "the plan decides how many replicas run",
    ("service", "replica_policy"): "the plan decides how many replicas run",
    ("service", "ports"): _PORT,
    ("service", "pool"): "pools take batch jobs, and a plan makes services",
    ("service", "workers"): "pools take batch jobs, and a plan makes services",
}
"""What the plan decides, and why a spec cannot say it under `sky`."""

FILLER_MEMORY = "1+"
"""Said so that SkyPilot fills in nothing: with an instance type alone it writes its catalog's figure into
the stored service, and a correction of that figure would replace every replica. Any size satisfies it."""

RESTARTING = ("file_mounts", "workdir")
"""What makes SkyServe replace every replica at each update, changed or not (`update_version`)."""

_MANAGED = "secrets:"
_SECRET_HEADER = re.compile(r"authorization|cookie|token|secret|key", re.IGNORECASE)
_DEEPEST = 20
_WRITTEN = (
    "a secret's value would be written to files: leave it empty (null), and set it in the environment for"
    " `apply`, or give --secret to `sky serve`"
)

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SkyFields:
    """A spec's block `sky`: `task` for every service, `per_accelerator` on top of it, by ``NAME[:N]``.

    Values are plain data as YAML has it.
    """

    task: Mapping[str, Any] = field(default_factory=dict)
    per_accelerator: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, block: Mapping[str, Any]) -> SkyFields:
        """Return the fields of a block without problems."""
        own = block.get(PER_ACCELERATOR) or {}
        task = {key: value for key, value in block.items() if key != PER_ACCELERATOR}
        return cls(task=_long_form(task), per_accelerator={k: _long_form(own[k]) for k in own})

    def over(self, below: SkyFields) -> SkyFields:
        """Return these fields on top of others, key by key."""
        keys = dict.fromkeys((*below.per_accelerator, *self.per_accelerator))
        none: Mapping[str, Any] = {}
        return SkyFields(
            task=merged_with(below.task, self.task),
            per_accelerator={
                key: merged_with(
                    below.per_accelerator.get(key, none), self.per_accelerator.get(key, none)
                )
                for key in keys
            },
        )

    def block(self) -> dict[str, Any]:
        """Return the fields as the block that they were read from."""
        own = {PER_ACCELERATOR: self.per_accelerator} if self.per_accelerator else {}
        return {**self.task, **own}

    def of(self, option: DeploymentOption) -> dict[str, Any]:
        """Return what an option's service gets: what is said of its accelerator wins, of its count most."""
        parts = sorted(self.per_accelerator.items(), key=lambda part: ":" in part[0])
        merged = deepcopy(dict(self.task))
        for key, fields in parts:
            name, count = parse_accelerator(key)
            if option.accelerator in names_of(accelerator_name(name, {name})) and count in (
                None,
                option.accelerator_count,
            ):
                merged = merged_with(merged, fields)
        return merged

    def variants(self) -> Iterator[tuple[str | None, dict[str, Any]]]:
        """Yield what is merged for any accelerator (None), then for each that has a part of its own."""
        yield None, deepcopy(dict(self.task))
        for key, fields in self.per_accelerator.items():
            yield key, merged_with(deepcopy(dict(self.task)), fields)

    @property
    def restarting(self) -> tuple[str, ...]:
        """The keys that make SkyServe replace all replicas at each update."""
        parts = [self.task, *self.per_accelerator.values()]
        return tuple(key for key in RESTARTING if any(part.get(key) for part in parts))


def _long_form(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of fields with SkyPilot's short form of a probe, its path, written out."""
    long = deepcopy(dict(fields))
    service = long.get("service")
    if isinstance(service, dict) and isinstance(service.get("readiness_probe"), str):
        service["readiness_probe"] = {"path": service["readiness_probe"]}
    return long


def merged_with(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return both, mappings merged key by key, anything else from `above`.

    >>> merged_with({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = merged_with(old, value)
        else:
            merged[key] = deepcopy(value)
    return merged


def sky_problems(block: object, at: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield everything in a block `sky` that no plan can carry, with the path to it."""
    if not isinstance(block, Mapping):
        yield at, "must be a mapping of SkyPilot's own fields, such as resources: {labels: …}"
        return
    yield from _plain_problems(block, at)
    for key in block:
        if key == PER_ACCELERATOR and not at:
            yield from _own_problems(block[key])
        elif (key,) not in DECIDED and key not in TASK_KEYS:
            hint = did_you_mean(str(key), TASK_KEYS) or f"; known: {', '.join(TASK_KEYS)}"
            yield (*at, key), f"is no field of SkyPilot's services{hint}"
    yield from _kind_problems(block, at)
    for path, reason in DECIDED.items():
        value: Any = block
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            yield (*at, *path), reason
    yield from _internal_problems(block.get("resources"), (*at, "resources"))
    yield from _env_problems(block.get("envs"), (*at, "envs"))
    yield from _secret_problems(block.get("secrets"), (*at, "secrets"))
    yield from _probe_problems(block.get("service"), (*at, "service"))


def check_sky(fields: SkyFields) -> None:
    """Raise InputError with every problem of fields that come from a plan."""
    lines = [
        f"{'.'.join(map(str, (KEY, *path)))[:200]}: {what}"
        for path, what in sky_problems(fields.block())
    ]
    if lines:
        raise InputError(*lines)


def secret_names(fields: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the secrets of merged fields in SkyPilot's form of a mapping, all without a value."""
    secrets = fields.get("secrets") or {}
    return {
        str(name): (secrets[name] if isinstance(secrets, Mapping) else None) for name in secrets
    }


def is_given_at_launch(name: str) -> bool:
    """Return whether a secret's value comes with `--secret`, not from SkyPilot's own store."""
    return not name.startswith(_MANAGED)


def place_of(key: str) -> str | None:
    """Return where under `sky` one of SkyPilot's own fields goes, None for what is none or decided.

    >>> place_of("labels"), place_of("volumes"), place_of("replicas")
    ('sky: {resources: {labels: …}}', 'sky: {volumes: …}', None)
    """
    if key in TASK_KEYS and key != "resources":
        return f"sky: {{{key}: …}}"
    return f"sky: {{resources: {{{key}: …}}}}" if key in RESOURCE_KEYS else None


RESOURCE_KEYS = (
    "labels",
    "image_id",
    "disk_size",
    "disk_tier",
    "network_tier",
    "local_disk",
    "autostop",
    "accelerator_args",
    "priority",
    "priority_class",
)
"""Keys of SkyPilot's `resources` that a plan leaves open (`_get_single_resources_schema` of 0.14)."""


def reason_of(key: str) -> str | None:
    """Return why one of SkyPilot's own fields is for the plan to decide, None for any other word."""
    for path, reason in DECIDED.items():
        if path[-1] == key:
            return reason
    return None


def _own_problems(own: object) -> Iterator[tuple[Path, str]]:
    if own is None:
        return
    if not isinstance(own, Mapping):
        yield (PER_ACCELERATOR,), "must be a mapping of NAME or NAME:COUNT to fields"
        return
    for key, fields in own.items():
        path = (PER_ACCELERATOR, key)
        try:
            name, _ = parse_accelerator(str(key))
            accelerator_name(name)
        except InputError as error:
            yield path, str(error)
        except ValueError:
            yield path, f"'{clip(str(key))}' must be NAME or NAME:COUNT with a count above 0"
        yield from sky_problems(fields, path)


def _kind_problems(block: Mapping[str, Any], at: Path) -> Iterator[tuple[Path, str]]:
    """Yield what is no mapping or no text where a plan has to look into it; the rest is SkyPilot's to say."""
    for key in _MAPPINGS:
        if block.get(key) is not None and not isinstance(block[key], Mapping):
            yield (*at, key), "must be a mapping of keys to values"
    if block.get("setup") is not None and not isinstance(block["setup"], str):
        yield (*at, "setup"), "must be text"


def _plain_problems(value: object, at: Path) -> Iterator[tuple[Path, str]]:
    """Yield what a file or a shell cannot carry, wherever it is."""
    if len(at) > _DEEPEST:
        yield at[:3], f"is nested deeper than {_DEEPEST} levels"
    elif isinstance(value, str):
        problem = text_problem(value)
        if problem is not None:
            yield at, problem
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str) or text_problem(key) is not None:
                yield at, f"the key {clip(str(key))!r} must be plain text"
            else:
                yield from _plain_problems(inner, (*at, key))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _plain_problems(inner, (*at, i))


def _internal_problems(resources: object, at: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(resources, Mapping):
        for key in resources:
            if str(key).startswith("_"):
                yield (*at, key), "belongs to SkyPilot"


def _env_problems(envs: object, at: Path) -> Iterator[tuple[Path, str]]:
    if not isinstance(envs, Mapping):
        return
    for name, value in envs.items():
        problem = name_problem(str(name))
        if problem is not None:
            yield (*at, name), problem
        elif value is None:
            yield (
                (*at, name),
                "needs a value, if only an empty text; a secret goes under sky.secrets",
            )
        elif isinstance(value, Mapping | list):
            yield (*at, name), "must be text"


def _secret_problems(secrets: object, at: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(secrets, Mapping):
        for name, value in secrets.items():
            if value not in (None, ""):
                yield (*at, name), _WRITTEN
    elif isinstance(secrets, list):
        for i, name in enumerate(secrets):
            if not (isinstance(name, str) and name.startswith(_MANAGED)):
                yield (
                    (*at, i),
                    f"must be '{_MANAGED}NAME'; in a mapping NAME: null asks for the value",
                )
    elif secrets is not None:
        yield at, "must be a mapping of names to null, or a list of 'secrets:NAME'"


def _probe_problems(service: object, at: Path) -> Iterator[tuple[Path, str]]:
    """Yield secrets in the headers of a probe: SkyPilot puts $NAME in for the secret of that name."""
    probe = service.get("readiness_probe") if isinstance(service, Mapping) else None
    headers = probe.get("headers") if isinstance(probe, Mapping) else None
    for name, value in headers.items() if isinstance(headers, Mapping) else ():
        if _SECRET_HEADER.search(str(name)) and "$" not in str(value):
            path = (*at, "readiness_probe", "headers", name)
            yield path, "would be written to files: say $NAME, with NAME: null under sky.secrets"
