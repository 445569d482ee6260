"""Read a spec, or Mélange's own config, and tell every problem at once."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from melange_sky.constraints import InstanceGroup, SpotPolicy
from melange_sky.errors import InputError, clip, did_you_mean
from melange_sky.names.clouds import read_infra
from melange_sky.names.limits import read_limit_key
from melange_sky.parallelism import AssumedSplits
from melange_sky.slo import SLO
from melange_sky.spec import yaml_source
from melange_sky.spec.checkpoints import read_checkpoints
from melange_sky.spec.choices import read_accelerator_choice
from melange_sky.spec.current import read_current
from melange_sky.spec.demand import read_workload
from melange_sky.spec.elastic import read_elastic
from melange_sky.spec.engine import EngineKeys, read_engine
from melange_sky.spec.guard import read_guard
from melange_sky.spec.mapping import DICT_PATH, document_of
from melange_sky.spec.melange_json import is_melange, read_melange
from melange_sky.spec.own_offers import read_offers
from melange_sky.spec.plausible import check_plausible
from melange_sky.spec.problems import Place, Problems
from melange_sky.spec.schema import (
    EngineSection,
    FixedSection,
    ModelSection,
    RedundancySection,
    ResourcesSection,
    SloSection,
    SpecSection,
    SpotSection,
    WorkloadSection,
)
from melange_sky.spec.sky import read_sky
from melange_sky.spec.validators import known_keys
from melange_sky.spec.values import (
    MelangeConfig,
    Redundancy,
    Resources,
    ServedModel,
    Spec,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from melange_sky.plans import SkyFields
    from melange_sky.spec.yaml_source import KeyPath

log = logging.getLogger(__name__)

NAME = re.compile(r"[a-zA-Z]([-_.a-zA-Z0-9]*[a-zA-Z0-9])?\Z")
MAX_NAME = 40

_SERVED_KEYS = ("model", "model_config", "slo", "workload")

T = TypeVar("T")


SpecSource = Path | Mapping[str, Any]
"""A file, or a mapping that stands for one."""


def source_name(source: SpecSource) -> str:
    """Return what messages call a source."""
    return str(DICT_PATH if isinstance(source, Mapping) else source)


def load_own_spec(source: SpecSource, refusal: str) -> Spec:
    """Read a melange_sky spec; InputError with `refusal` for Mélange's own config."""
    spec = load_spec(source)
    if isinstance(spec, MelangeConfig):
        raise InputError(f"{source_name(source)}: {refusal}")
    return spec


def load_spec(source: SpecSource) -> Spec | MelangeConfig:
    """Read a file, or take a mapping as if it had been read (paths in it: from the working directory).

    Raises InputError that names every problem, one line each; a mapping's file is called ``<dict>``.
    """
    if isinstance(source, Mapping):
        path, document = DICT_PATH, document_of(source)
    else:
        path, document = source, yaml_source.parse(yaml_source.read_text(source), source)
    problems = Problems(path, document)
    if not isinstance(document.value, dict):
        problems.add((), "must be a mapping of keys such as name, model, slo and workload")
        problems.raise_if_any()
    reader = _Reader(problems, path)
    if is_melange(document.value):
        config = read_melange(document.value, problems)
        problems.raise_if_any()
        assert config is not None
        return config
    spec = reader.spec(document.value)
    problems.raise_if_any()
    assert spec is not None
    log.info("read %s: %d models, %s", path, len(spec.models), spec.name)
    for served in spec.models:
        log.debug("%s: %s at %g req/s", served.name, served.model, served.workload.rate_rps)
    return spec


class _Reader:
    """Validates section by section; what cannot be read is noted and None."""

    def __init__(self, problems: Problems, path: Path) -> None:
        self.problems = problems
        self.path = path

    def spec(self, raw: dict[str, Any]) -> Spec | None:
        top = self.problems.section(SpecSection, raw, ())
        self._name(raw.get("name"), ("name",))
        check_plausible(raw, (top.unusual if top else None) or [], Place(self.problems))
        resources = self._resources(raw.get("resources"))
        redundancy = self._section(RedundancySection, raw.get("redundancy"), ("redundancy",))
        engine = self._engine(raw.get("engine"))
        current = read_current(raw.get("current"), self.problems)
        sky = self._sky(raw, ())
        offers = read_offers(raw.get("offers"), self.path.parent, self.problems)
        guard = read_guard(raw.get("guard"), self.problems)
        elastic = read_elastic(raw.get("elastic"), self.problems, resources, redundancy)
        lists_models = raw.get("models") is not None
        models = self._models(raw, sky) if lists_models else [self._served(raw, (), sky)]
        if (
            top is None
            or resources is None
            or redundancy is None
            or engine is None
            or current is None
            or any(m is None for m in models)
        ):
            return None
        return Spec(
            name=top.name,
            models=tuple(m for m in models if m is not None),
            lists_models=lists_models,
            path=self.path,
            resources=resources,
            redundancy=Redundancy(**asdict(redundancy)),
            headroom=top.headroom,
            current=current,
            offers=offers,
            guard=guard,
            elastic=elastic,
            engine=engine.choice,
            quantizations=engine.quantizations,
            quantization_where=self._where_given(raw.get("engine"), "engine", "quantization"),
            engine_args_at=tuple(
                self.problems.where(("engine", "args", i)) for i in range(engine.own_args)
            ),
        )

    def _where_given(self, section: Any, *at: str) -> str | None:
        """Return the place of a section's key, None where it is not given."""
        given = isinstance(section, dict) and section.get(at[-1]) is not None
        return self.problems.where(at) if given else None

    def _section(self, kind: type[T], raw: Any, at: KeyPath) -> T | None:
        return self.problems.section(kind, {} if raw is None else raw, at)

    def _each(
        self, items: Sequence[T], read: Callable[[T], Any], at: KeyPath, keyed: bool = False
    ) -> list[Any] | None:
        """Apply `read` to each item; what it refuses is noted at the item's own path."""
        found: list[Any] = []
        for i, item in enumerate(items):
            try:
                found.append(read(item))
            except InputError as error:
                self.problems.add((*at, str(item) if keyed else i), str(error))
        return found if len(found) == len(items) else None

    def _name(self, name: Any, at: KeyPath) -> None:
        if isinstance(name, str) and name and (len(name) > MAX_NAME or not NAME.match(name)):
            self.problems.add(
                at,
                f"'{clip(name)}' must be letters, digits, '-', '_' or '.', begin with a letter, end"
                f" with a letter or digit and have at most {MAX_NAME} characters",
            )

    def _sky(self, raw: dict[str, Any], at: KeyPath) -> SkyFields:
        return read_sky(raw.get("sky"), self.path.parent, Place(self.problems, (*at, "sky")))

    def _models(self, raw: dict[str, Any], sky: SkyFields) -> list[ServedModel | None]:
        for key in _SERVED_KEYS:
            if raw.get(key) is not None:
                self.problems.add((key,), "belongs in each entry of models, not at the top level")
        entries = raw["models"]
        if not isinstance(entries, list):
            return [None]
        if not entries:
            self.problems.add(("models",), "must not be empty")
            return [None]
        served: list[ServedModel | None] = []
        for i, entry in enumerate(entries):
            at: KeyPath = ("models", i)
            self.problems.section(ModelSection, entry, at)
            if not isinstance(entry, dict):
                served.append(None)
                continue
            self._name(entry.get("name"), (*at, "name"))
            served.append(self._served(entry, at, self._sky(entry, at).over(sky)))
        seen = [m.name for m in served if m is not None]
        for name in sorted({n for n in seen if seen.count(n) > 1}):
            self.problems.add(("models",), f"two models are named '{clip(name)}'")
        return served

    def _served(self, raw: dict[str, Any], at: KeyPath, sky: SkyFields) -> ServedModel | None:
        checkpoints = None
        if raw.get("model") is None:
            self._missing(raw, "model", at)
        else:
            own_config = raw.get("model_config") is not None
            place = Place(self.problems, (*at, "model"))
            checkpoints = read_checkpoints(raw["model"], place, own_config=own_config)
        config_path = self._config_path(raw.get("model_config"), (*at, "model_config"))
        slo = self._slo(raw, at)
        workload = None
        if raw.get("workload") is None:
            self._missing(raw, "workload", at)
        else:
            section = self._section(WorkloadSection, raw["workload"], (*at, "workload"))
            if section is not None:
                given = {key for key, value in raw["workload"].items() if value is not None}
                workload = read_workload(
                    section, given, self.path.parent, Place(self.problems, (*at, "workload"))
                )
        name = raw.get("name")
        if not isinstance(name, str) or checkpoints is None or slo is None or workload is None:
            return None
        return ServedModel(
            name=name,
            model=checkpoints[0].name,
            model_config=config_path,
            slo=slo[0],
            workload=workload,
            checkpoints=checkpoints,
            images_at=self.problems.where((*at, "workload", "images")),
            attainment_per_bucket=slo[1],
            sky=sky,
            sky_at=self.problems.where((*(at if raw.get("sky") else ()), "sky")),
        )

    def _missing(self, raw: dict[str, Any], key: str, at: KeyPath) -> None:
        top_level = known_keys(SpecSection, ())
        near = did_you_mean(key, [str(k) for k in raw if k not in top_level])
        self.problems.add(at, f"{key} is missing{' ' + near.strip() if near else ''}")

    def _config_path(self, text: Any, at: KeyPath) -> Path | None:
        if not isinstance(text, str) or not text:
            return None
        found = self.path.parent / text
        if "\0" in text or not found.exists():
            self.problems.add(at, f"no file at '{clip(text, 200)}' (relative to the spec's folder)")
        return found

    def _slo(self, raw: dict[str, Any], at: KeyPath) -> tuple[SLO, bool] | None:
        """Return the SLO, and whether its attainment is asked of every bucket."""
        if raw.get("slo") is None:
            self._missing(raw, "slo", at)
            return None
        section = self._section(SloSection, raw["slo"], (*at, "slo"))
        if section is None:
            return None
        slo = SLO(
            tpot_s=None if section.tpot_ms is None else section.tpot_ms / 1000,
            ttft_s=None if section.ttft_ms is None else section.ttft_ms / 1000,
            attainment=section.attainment,
        )
        return slo, section.attainment_per_bucket

    def _resources(self, raw: Any) -> Resources | None:
        at: KeyPath = ("resources",)
        section = self._section(ResourcesSection, raw, at)
        if section is None:
            return None
        accelerators = self._each(
            section.accelerators or [], read_accelerator_choice, (*at, "accelerators")
        )
        infra = self._each(section.infra or [], read_infra, (*at, "infra"))
        keys = self._each(list(section.limits), read_limit_key, (*at, "limits"), keyed=True)
        fixed = self._fixed(section.fixed, (*at, "fixed"))
        minimum = self._fixed(section.minimum, (*at, "minimum"))
        splits = self._assumed_splits(section.assumed_splits, (*at, "assumed_splits"))
        self._contradictions(section, raw, at)
        if keys is not None and len(set(keys)) < len(keys):
            self.problems.add((*at, "limits"), "limits the same thing twice under two spellings")
        if (
            accelerators is None
            or infra is None
            or keys is None
            or fixed is None
            or minimum is None
        ):
            return None
        return Resources(
            accelerators=tuple(dict.fromkeys(accelerators)),
            infra=tuple(dict.fromkeys(infra)),
            use_spot=section.use_spot,
            limits=tuple(zip(keys, section.limits.values(), strict=True)),
            budget_usd_per_hour=section.budget_usd_per_hour,
            fixed=fixed,
            minimum=minimum,
            max_option_types=section.max_option_types,
            min_option_types=section.min_option_types,
            spot=None if section.spot is None else _spot_policy(section.spot),
            pcie_tensor_parallel=section.pcie_tensor_parallel,
            max_nodes_per_replica=section.max_nodes_per_replica,
            assumed_splits=splits,
        )

    def _assumed_splits(self, word: str, at: KeyPath) -> AssumedSplits:
        known = [rule.value for rule in AssumedSplits]
        if word in known:
            return AssumedSplits(word)
        hint = did_you_mean(word, known)
        self.problems.add(at, f"must be {', '.join(known[:-1])} or {known[-1]}{hint}")
        return AssumedSplits.ROBUST

    def _contradictions(
        self, section: ResourcesSection, raw: Mapping[str, Any], at: KeyPath
    ) -> None:
        """Note keys of the section that rule each other out, or all."""
        for key, listed in (("accelerators", section.accelerators), ("infra", section.infra)):
            if listed is not None and not listed:
                self.problems.add((*at, key), "must not be empty; leave it out to allow all")
        if section.spot is not None and raw.get("use_spot") is False:
            self.problems.add(
                (*at, "spot"),
                "mixes in spot instances, which use_spot: false rules out; remove one of the two",
            )
        most_types = section.max_option_types
        if most_types is not None and section.min_option_types > most_types:
            self.problems.add(
                (*at, "min_option_types"),
                f"is {section.min_option_types}, above max_option_types {most_types}",
            )

    def _fixed(
        self, sections: Sequence[FixedSection], at: KeyPath
    ) -> tuple[InstanceGroup, ...] | None:
        found = []
        for i, section in enumerate(sections):
            here = (*at, i)
            try:
                choice = read_accelerator_choice(section.accelerators)
            except InputError as error:
                self.problems.add((*here, "accelerators"), str(error))
                continue
            try:
                place = None if section.infra is None else read_infra(section.infra)
            except InputError as error:
                self.problems.add((*here, "infra"), str(error))
                continue
            found.append(
                InstanceGroup(
                    accelerator=choice.name,
                    accelerator_count=choice.count or 1,
                    cloud=None if place is None else place.cloud,
                    region=None if place is None else place.region,
                    instances=section.instances,
                )
            )
        return tuple(found) if len(found) == len(sections) else None

    def _engine(self, raw: Any) -> EngineKeys | None:
        section = self._section(EngineSection, raw, ("engine",))
        return None if section is None else read_engine(section, Place(self.problems, ("engine",)))


def _spot_policy(section: SpotSection) -> SpotPolicy:
    """Return the policy; what the section leaves open is the policy's own default."""
    return SpotPolicy(**{key: v for key, v in asdict(section).items() if v is not None})
