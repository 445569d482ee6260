"""The service documents: skeleton + plan → data → YAML text with a header that explains it."""

from __future__ import annotations

import copy
import shlex
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import yaml

from melange_sky.engines import INSTALL_BALANCER, Replica, engine_named
from melange_sky.errors import InputError
from melange_sky.offers import accelerator_spec_text
from melange_sky.plans import (
    FILLER_MEMORY,
    check_sky,
    elastic_bounds,
    is_given_at_launch,
    secret_names,
)
from melange_sky.rendering import sizing
from melange_sky.rendering.clouds import VIRTUAL_INSTANCES
from melange_sky.rendering.header import header
from melange_sky.rendering.names import file_name, service_name
from melange_sky.rendering.sky_fields import with_fields
from melange_sky.resources import templates_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

    from melange_sky.capacities import DeploymentOption
    from melange_sky.engines import EngineChoice, ServeCommand
    from melange_sky.offers import Offer
    from melange_sky.plans import Allocation, Elastic, ModelPlan, Plan, SkyFields

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

GATED_SECRET = "HF_TOKEN"
"""The secret that a model needs for whose download Hugging Face asks for a token."""

PORT = 8000
"""Where a replica listens."""


def render_services(plan: Plan) -> dict[str, str]:
    """Return the text of each allocation's file by file name. Same plan, same bytes.

    Allocations without a priced offer (a Mélange JSON config, whose names are free labels) have none.
    """
    return {
        name: _header_of(plan, model, allocation) + dump(_document(plan, model, allocation))
        for name, model, allocation in _files(plan)
    }


def service_documents(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return what the files of `render_services` hold, by the same names."""
    return {name: _document(plan, model, allocation) for name, model, allocation in _files(plan)}


def _files(plan: Plan) -> Iterator[tuple[str, ModelPlan, Allocation]]:
    """Yield the name of each allocation's file and whose it is."""
    names: set[str] = set()
    for model in plan.models:
        check_sky(model.sky)
        for allocation in model.allocations:
            if allocation.candidate.option.offer is None:
                continue
            name = file_name(service_name(model, allocation))
            if name in names:
                raise InputError(
                    f"two allocations of the plan have the same option name ({name[:120]})"
                )
            names.add(name)
            yield name, model, allocation


def _header_of(plan: Plan, model: ModelPlan, allocation: Allocation) -> str:
    commands = (launch_command(model, allocation), update_command(model, allocation))
    return header(model, allocation, plan.created_at, commands)


def _document(plan: Plan, model: ModelPlan, allocation: Allocation) -> dict[str, Any]:
    mark = Mark(fleet_id=plan.fleet_id, group=plan.group_name)
    document = service_document(model, allocation, mark)
    if plan.elastic is not None:
        set_bounds(document, plan.elastic, allocation, plan.headroom)
    return document


def set_bounds(
    document: dict[str, Any], elastic: Elastic, allocation: Allocation, headroom: float
) -> None:
    """Let SkyServe's own autoscaler move an option's replicas, where its bounds leave it room."""
    bounds = elastic_bounds(elastic, allocation, headroom)
    if bounds is None:
        return
    given = document["service"].get("replica_policy", {})
    policy = {
        **given,
        "min_replicas": bounds.min_replicas,
        "max_replicas": bounds.max_replicas,
        "target_qps_per_replica": bounds.target_qps_per_replica,
        "upscale_delay_seconds": round(elastic.upscale_delay_s),
        "downscale_delay_seconds": round(elastic.downscale_delay_s),
    }
    document["service"] = _with_policy(document["service"], policy)


def launch_command(plan: ModelPlan, allocation: Allocation, folder: str = "") -> str:
    """Return the shell command that brings the service up, with the secrets that it needs."""
    name = service_name(plan, allocation)
    return shlex.join(
        [
            "sky",
            "serve",
            "up",
            "-n",
            name,
            folder + file_name(name),
            *_secret_flags(plan, allocation),
        ]
    )


def update_command(plan: ModelPlan, allocation: Allocation, folder: str = "") -> str:
    """Return the shell command that changes the running service to this file."""
    name = service_name(plan, allocation)
    return shlex.join(
        ["sky", "serve", "update", name, folder + file_name(name), *_secret_flags(plan, allocation)]
    )


def required_secrets(plan: ModelPlan, option: DeploymentOption) -> tuple[str, ...]:
    """Return the names of secrets without which an option's service cannot start."""
    shape = plan.shape_of(option)
    gated = (GATED_SECRET,) if shape is not None and shape.gated else ()
    own = [
        name
        for name, value in secret_names(plan.sky.of(option)).items()
        if value is None and is_given_at_launch(name)
    ]
    return tuple(dict.fromkeys((*gated, *own)))


def _secret_flags(plan: ModelPlan, allocation: Allocation) -> list[str]:
    names = required_secrets(plan, allocation.candidate.option)
    return [word for name in names for word in ("--secret", name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Whose services these are: `fleet_id`, and the name of a plan that lists its models."""

    fleet_id: str | None = None
    group: str | None = None

    def of(self, plan: str, option: str) -> dict[str, str]:
        """Return what stands in a service, by which `apply` and `down` know it again."""
        mine = {"id": self.fleet_id, "fleet": self.group, "plan": plan, "option": option}
        return {key: value for key, value in mine.items() if value is not None}


def service_document(
    plan: ModelPlan, allocation: Allocation, mark: Mark | None = None
) -> dict[str, Any]:
    """Return the service of one allocation as data, its keys in the skeleton's order."""
    option = allocation.candidate.option
    command = serve_command(plan, option)
    secrets = required_secrets(plan, option)
    document = copy.deepcopy(service_skeleton(engine_named(plan.engine.name).template))
    document["name"] = service_name(plan, allocation)
    document["_metadata"]["melange_sky"] = (mark or Mark()).of(plan.name, option.name)
    document["service"] = _service(document["service"], plan, allocation)
    document["resources"] = _resources(document["resources"], plan, option)
    document["envs"] = dict(plan.engine.env)
    document["secrets"] |= dict.fromkeys(secrets)
    document["setup"] = _setup(plan.engine, document["setup"])
    if command.servers is not None:
        document["setup"] += INSTALL_BALANCER
    document["run"] += command.as_shell()
    check_sky(plan.sky)
    document = with_fields(document, plan.sky.of(option))
    if not document["envs"]:
        del document["envs"]
    return document if option.nodes == 1 else _over_nodes(document, option.nodes)


def _over_nodes(document: dict[str, Any], nodes: int) -> dict[str, Any]:
    """Return the service with so many nodes per replica, said before the resources of each.

    One node is SkyPilot's default and left unsaid, so that running replicas stay what they are.
    """
    rows = list(document.items())
    at = list(document).index("resources")
    return dict([*rows[:at], ("num_nodes", nodes), *rows[at:]])


def serve_command(plan: ModelPlan, option: DeploymentOption) -> ServeCommand:
    """Return the command that every replica of an option runs; all texts of the plan in it are checked."""
    source, checkpoint = plan.source_of(option), plan.checkpoint_of(option)
    replica = Replica(
        model=checkpoint,
        choice=plan.engine_for(option),
        option=option,
        shape=plan.shape_of(option),
        port=PORT,
        revision=None if source is None else source.revision,
        served_name=None if checkpoint == plan.model else plan.model,
        reports_cached=plan.reuse is not None,
    )
    return engine_named(plan.engine.name).serve_command(replica)


def read_template(name: str) -> dict[str, Any]:
    """Return a shipped template as data."""
    text = (templates_dir() / name).read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.load(text, Loader=_LOADER)
    return document


@lru_cache(maxsize=8)
def service_skeleton(template: str) -> dict[str, Any]:
    """Return an engine's template as data; it is shared and must not be changed."""
    skeleton = read_template(template)
    assert skeleton["service"]["ports"] == skeleton["resources"]["ports"] == PORT
    return skeleton


def sample_documents(fields: SkyFields, engine: str) -> dict[str | None, dict[str, Any]]:
    """Return services with a spec's fields in them, for a parser: one, and one for each accelerator that has
    fields of its own (None: any other). What a plan decides is made up.
    """
    samples: dict[str | None, dict[str, Any]] = {}
    for key, merged in fields.variants():
        document = copy.deepcopy(service_skeleton(engine_named(engine).template))
        document["name"] = "sample"
        document["service"] |= {"replicas": 1, "load_balancer": {"stream_timeout_seconds": 600}}
        document["service"]["readiness_probe"]["initial_delay_seconds"] = 1200
        made_up = {"infra": "aws/us-east-1", "instance_type": "g5.xlarge", "accelerators": "A10G:1"}
        document["resources"] |= {**made_up, "disk_size": 100, "memory": FILLER_MEMORY}
        samples[key] = with_fields(document, merged)
    return samples


def _setup(choice: EngineChoice, skeleton: str) -> str:
    """Return the set-up: the user's own first, then the engine, unless one is there already.

    A version that the user names is installed in any case.
    """
    requirement = engine_named(choice.name).requirement(choice)
    pinned = "yes" if choice.version else "no"
    own = "" if choice.setup is None else choice.setup.rstrip("\n") + "\n"
    return f"{own}requirement={shlex.quote(requirement)} pinned={pinned}\n{skeleton}"


def _service(section: dict[str, Any], plan: ModelPlan, allocation: Allocation) -> dict[str, Any]:
    section["readiness_probe"]["initial_delay_seconds"] = sizing.initial_delay_s(
        plan, allocation.candidate.option
    )
    section["load_balancer"]["stream_timeout_seconds"] = sizing.stream_timeout_s(plan)
    section["replicas"] = allocation.instances
    if not allocation.candidate.option.use_spot:
        return section
    # Spot comes and goes: SkyServe bridges a preempted replica with an on-demand one of the same kind.
    policy = {
        "min_replicas": allocation.instances,
        "max_replicas": allocation.instances,
        "dynamic_ondemand_fallback": True,
    }
    return _with_policy(section, policy)


def _with_policy(section: dict[str, Any], policy: dict[str, Any]) -> dict[str, Any]:
    """Return a service section with a policy in the place of what said how many replicas run."""
    said = ("replicas", "replica_policy")
    return {
        ("replica_policy" if key in said else key): (policy if key in said else value)
        for key, value in section.items()
    }


def _resources(
    section: dict[str, Any], plan: ModelPlan, option: DeploymentOption
) -> dict[str, Any]:
    assert option.offer is not None
    offer = option.offer
    section["infra"] = _infra(offer) if option.reserved is None else option.reserved.place
    section["instance_type"] = offer.instance_type
    # some catalogs spell a name their own way, and sky looks it up as they do
    name = offer.catalog_accelerator or option.accelerator
    section["accelerators"] = accelerator_spec_text(name, option.accelerator_count)
    section["use_spot"] = option.use_spot
    section["disk_size"] = sizing.disk_gb(plan, option)
    if offer.cloud in VIRTUAL_INSTANCES:
        # Their instance types only spell out what was asked for, and their disks are not ours to size.
        del section["instance_type"], section["disk_size"]
        if offer.vcpus is not None:
            section["cpus"] = f"{offer.vcpus:g}+"
        if offer.memory_gib is not None:
            section["memory"] = f"{offer.memory_gib:g}+"
    elif offer.memory_gib is not None:  # else SkyPilot may know none either, and would refuse
        section["memory"] = FILLER_MEMORY
    if option.fallbacks:
        del section["infra"]
        # Sorted by name, planned region included: which region is cheapest today leaves no trace here,
        # so that a price move changes no replica. SkyPilot itself starts with the cheapest.
        section["any_of"] = [{"infra": infra} for infra in all_infra(option)]
    return section


def all_infra(option: DeploymentOption) -> list[str]:
    """Return every place where the option may run, sorted by name."""
    return sorted({_infra(offer) for offer in option.places})


def _infra(offer: Offer) -> str:
    return f"{offer.cloud}/{offer.region}" if offer.region else offer.cloud


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes scripts as literal blocks, for people to read; by libyaml where it is there, three times as fast."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # A block would turn other line breaks (NEL, U+2028) into plain ones; quotes escape them.
    odd = any(not (c.isprintable() or c in "\n\t") for c in text)
    style = '"' if odd else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump(document: dict[str, Any]) -> str:
    """Return `document` as YAML, its keys in their own order."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)
