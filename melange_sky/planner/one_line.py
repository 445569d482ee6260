"""A spec out of a command line's flags: averages, one model, one SLO."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melange_sky.errors import InputError

MAX_NAME = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class OneLine:
    """The flags of `plan` that stand in place of a spec, by their names; None where one is not given."""

    model: str | None = None
    rate: float | None = None
    input: float | None = None
    output: float | None = None
    input_p95: float | None = None
    output_p95: float | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    attainment: float | None = None
    accelerators: str | None = None
    infra: str | None = None

    @property
    def given(self) -> list[str]:
        """The flags that are given."""
        names = [name for name in self.__slots__ if getattr(self, name) is not None]
        return ["--" + name.replace("_", "-") for name in names]

    @property
    def spec(self) -> dict[str, Any]:
        """The spec that they stand for; InputError that names what is missing."""
        needed = ("model", "rate", "input", "output")
        missing = ["--" + name for name in needed if getattr(self, name) is None]
        if self.ttft_ms is None and self.tpot_ms is None:
            missing.append("--ttft-ms or --tpot-ms")
        if missing:
            raise InputError(
                f"plan without a spec also needs {', '.join(missing)}; or give a spec (melange-sky init writes one)"
            )
        assert self.model is not None
        spec: dict[str, Any] = {"name": _name(self.model), **_model(self.model)}
        slo = {"tpot_ms": self.tpot_ms, "ttft_ms": self.ttft_ms, "attainment": self.attainment}
        spec["slo"] = {key: _plain(value) for key, value in slo.items() if value is not None}
        spec["workload"] = {
            "rate_rps": _plain(self.rate),
            "input_tokens": _sizes(self.input, self.input_p95),
            "output_tokens": _sizes(self.output, self.output_p95),
        }
        resources = {"accelerators": _listed(self.accelerators), "infra": _listed(self.infra)}
        if any(resources.values()):
            spec["resources"] = {key: value for key, value in resources.items() if value}
        return spec

    @property
    def text(self) -> str:
        """The same spec as YAML."""
        import yaml

        body: str = yaml.safe_dump(self.spec, sort_keys=False, default_flow_style=None, width=100)
        return f"# what this command stands for, as a spec\n{body}"


def _model(model: str) -> dict[str, str]:
    if Path(model).is_file():
        path = Path(model).absolute()
        return {"model": path.parent.name or "model", "model_config": str(path)}
    return {"model": model}


def _name(model: str) -> str:
    last = (Path(model).absolute().parent.name if Path(model).is_file() else model).split("/")[-1]
    plain = re.sub(r"[^a-z0-9]+", "-", last.split("@")[0].lower()).strip("-")[:MAX_NAME].strip("-")
    return plain if re.match(r"[a-z]", plain) else f"model-{plain}"[:MAX_NAME].strip("-")


def _sizes(mean: float | None, p95: float | None) -> Any:
    return _plain(mean) if p95 is None else {"mean": _plain(mean), "p95": _plain(p95)}


def _plain(value: float | None) -> float | int | None:
    return int(value) if value is not None and value == int(value) else value


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]
