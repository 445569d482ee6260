"""Mutations of a `plan.json`, and every command that reads one: each must work, or say why in one line.

python -m tests.planfuzz 10000 [SEED]
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from melange_sky.cli import cli
from melange_sky.constraints import Constraints, InstanceGroup, SpotPolicy
from melange_sky.errors import InputError, MelangeError
from melange_sky.names.limits import LimitKey, LimitKind
from melange_sky.planfile import dump_plan, parse_plan
from melange_sky.planner.apply import wanted_services
from melange_sky.planner.plan_files import write_plan
from melange_sky.plans import Plan
from melange_sky.routing import Router
from melange_sky.skyserve import compare
from tests.factories import make_model_plan, make_plan

ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    7,
    -1e30,
    1e30,
    1e308,
    2**63,
    10**400,
    -0.5,
    0.5,
    1e-300,
    float("nan"),
    float("inf"),
    "NaN",
    "-inf",
    "",
    "5",
    "x" * 5000,
    "\x1b[31m\u202e",
    "../../tmp/x",
    "$(touch x);",
    "\ud800",
    [],
    {},
    [[]],
    [None],
    [[1.0]],
    {"a": {"b": [1]}},
    [-1, 5, 2],
)


def seeds() -> list[dict[str, Any]]:
    """Return plans of both forms with as much in them as a small plan can have."""
    group = InstanceGroup(accelerator="A10G", instances=1)
    constraints = Constraints(
        limits=((LimitKey(kind=LimitKind.ACCELERATOR, name="A10G"), 8),),
        budget_usd_per_hour=90.0,
        fixed=(group,),
        spare=0,
        spot=SpotPolicy(interruption_rate=0.05),
    )
    models = tuple(make_model_plan(name=name, spot=constraints.spot) for name in ("chat", "code"))
    one = make_plan(constraints=constraints)
    several = make_plan(models=models, lists_models=True, constraints=constraints)
    return [json.loads(dump_plan(plan)) for plan in (one, several)]


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value of a document."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def mutated(document: dict[str, Any], rng: random.Random) -> tuple[dict[str, Any], str]:
    """Return a document with one to three values changed, and in words what was done."""
    document = copy.deepcopy(document)
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = rng.choice(list(places(document)))
        above = document
        for key in path[:-1]:
            above = above[key]
        last = path[-1]
        how = rng.randrange(6)
        if how == 0:
            del above[last]
        elif how == 1 and isinstance(above, list):
            above.append(copy.deepcopy(above[last]))
        elif how == 2 and isinstance(above[last], int | float) and abs(above[last]) < 1e300:
            above[last] = above[last] * rng.choice((-1, 10, 1e6, 1e-6, 0))
        else:
            above[last] = copy.deepcopy(rng.choice(ODD))
        shown = "gone" if how == 0 else repr(above[last])[:60]
        done.append(f"{'.'.join(map(str, path))} = {shown}")
    return document, "; ".join(done)


def _cli(*words: str) -> None:
    """Run a command; what it raises beyond what becomes one line is raised here."""
    result = CliRunner().invoke(cli, list(words))
    error = result.exception
    if error is not None and not isinstance(error, MelangeError | SystemExit):
        raise error


def _render(plan: Plan, folder: Path) -> None:
    write_plan(plan, folder / "out", force=True)


def _explain(plan: Plan, folder: Path) -> None:
    _cli("explain", str(folder / "plan.json"), "--no-replay", "--time-limit", "2")


def _simulate(plan: Plan, folder: Path) -> None:
    _cli("simulate", str(folder / "plan.json"), "--duration", "5")


def _diff(plan: Plan, folder: Path) -> None:
    _cli("prices", "diff", "--plan", str(folder / "plan.json"), "--offline")


def _route(plan: Plan, folder: Path) -> None:
    for model in plan.models:
        replicas = [a.instances for a in model.allocations]
        if sum(replicas) < 10_000:
            router = Router(model, random.Random(1), replicas=replicas)
            router.class_of(100, 50)


def _apply(plan: Plan, folder: Path) -> None:
    write_plan(plan, folder / "out", force=True)
    wanted = wanted_services(plan, folder / "out")
    compare(wanted, (), {w.name: w.document for w in wanted}, {})


READERS: dict[str, Callable[[Plan, Path], None]] = {
    "render": _render,
    "explain": _explain,
    "simulate": _simulate,
    "prices diff": _diff,
    "gateway": _route,
    "apply": _apply,
}


def check(document: dict[str, Any], folder: Path, names: list[str]) -> str | None:
    """Read a document and hand it to commands; return where it failed as it must not, None if nowhere."""
    file = folder / "plan.json"
    text = json.dumps(document)
    file.write_text(text, encoding="utf-8")
    where = "read"
    try:
        plan = parse_plan(json.loads(text), "p")
        for where in names:
            with contextlib.suppress(MelangeError):
                READERS[where](plan, folder)
    except InputError as error:
        lines = str(error).splitlines()
        return None if all(len(line) < 2000 for line in lines) else f"{where}: {lines[0][:100]}"
    except Exception:  # noqa: BLE001 - the failure that is looked for
        told = io.StringIO()
        traceback.print_exc(file=told)
        return f"{where}: {told.getvalue()}"
    return None


def main() -> None:
    """Try as many mutations as asked for and print each kind of failure once."""
    count = int(sys.argv[1])
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    kinds: Counter[str] = Counter()
    documents = seeds()
    with tempfile.TemporaryDirectory() as name:
        for n in range(count):
            document, done = mutated(documents[n % 2], rng)
            start = time.monotonic()
            failed = check(document, Path(name), list(READERS))
            seconds = time.monotonic() - start
            if seconds > 60:
                failed = f"slow: {seconds:.0f} s"
            if failed is not None:
                kind = failed.strip().splitlines()[-1][:100]
                kinds[kind] += 1
                if kinds[kind] == 1:
                    print(f"== {done}\n{failed[-700:]}", flush=True)
    print(f"{count} mutations, {sum(kinds.values())} failed: {dict(kinds)}")


if __name__ == "__main__":
    main()
