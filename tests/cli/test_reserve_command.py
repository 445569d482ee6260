"""`reserve` and `bound` as a whole: small demands against brute force, properties, and the lines for what is wrong."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import melange_sky
from melange_sky.errors import SourceUnavailableError
from melange_sky.planfile import load_plan
from tests.cli.runner import call

PRICES = {"g6.xlarge": 0.8, "g5.xlarge": 1.0}
GPU = {"g6.xlarge": "L4", "g5.xlarge": "A10G"}
SPEC: dict[str, Any] = {
    "name": "chat",
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "slo": {"tpot_ms": 60, "attainment": 0.95, "attainment_per_bucket": True},
    "workload": {
        "rate_rps": 8,
        "histogram": {"input_edges": [0, 1000], "output_edges": [0, 200], "weights": [[1]]},
    },
    "resources": {"accelerators": ["A10G:1", "L4:1"], "infra": ["aws/us-east-1"]},
    "offers": "offers.csv",
}
HEADROOM = 0.9
HOUR = "2026-11-{day:02}T{hour:02}:00:00Z,{rate}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_estimates: None) -> Path:
    """A folder with the offers of the spec, to run in."""
    monkeypatch.chdir(tmp_path)
    write_offers(tmp_path)
    return tmp_path


def write_offers(folder: Path, prices: Mapping[str, float] = PRICES) -> None:
    lines = [f"aws,us-east-1,{name},{GPU[name]},1,{price}" for name, price in prices.items()]
    lines += [
        f"aws,us-east-1,{name},{gpu},1,99"
        for name, gpu in (("g6.2xlarge", "L4"), ("g5.2xlarge", "A10G"))
    ]
    header = "cloud,region,instance_type,accelerator,accelerator_count,price_usd_per_hour"
    (folder / "offers.csv").write_text("\n".join((header, *lines)) + "\n")


def write_demand(folder: Path, rates: Sequence[float]) -> Path:
    lines = [HOUR.format(day=2 + n // 24, hour=n % 24, rate=rate) for n, rate in enumerate(rates)]
    (folder / "demand.csv").write_text("time,rate_rps\n" + "\n".join(lines) + "\n")
    return folder / "demand.csv"


def write_terms(folder: Path, prices: Mapping[str, float]) -> Path:
    header = "cloud,region,instance_type,term_months,usd_per_hour,upfront_usd,kind,source,as_of"
    rows = [
        f"aws,us-east-1,{name},12,{price},0,instance,contract," for name, price in prices.items()
    ]
    (folder / "terms.csv").write_text("\n".join((header, *rows)) + "\n")
    return folder / "terms.csv"


def reserved(
    folder: Path, rates: Sequence[float], terms: Mapping[str, float], **more: Any
) -> dict[str, Any]:
    """Return what reserve.json would hold, from Python."""
    found = melange_sky.reservation(
        SPEC,
        demand=write_demand(folder, rates),
        commitments=write_terms(folder, terms) if terms else None,
        offline=True,
        verify=more.pop("verify", False),
        **more,
    )
    document: dict[str, Any] = json.loads(json.dumps(found.document))
    return document


def rate_of(folder: Path, name: str) -> float:
    """Return what one instance serves, headroom aside, as the plans of a folder tell."""
    for file in sorted(folder.glob("fleet-*.json")):
        for candidate in load_plan(file).models[0].candidates:
            offer = candidate.option.offer
            if offer is not None and offer.instance_type == name:
                return (candidate.cells[0][0].max_rate_rps or 0.0) * HEADROOM
    raise AssertionError(f"no plan knows {name}")


def rates_per_instance(folder: Path) -> dict[str, float]:
    """Return what each type serves: of a fleet that is committed to both."""
    found = melange_sky.reservation(
        SPEC,
        demand=write_demand(folder, [3, 3]),
        owned=write_owned(folder, {"g6.xlarge": 1, "g5.xlarge": 1}),
        offline=True,
        verify=False,
    )
    found.write(folder / "rates")
    return {name: rate_of(folder / "rates", name) for name in PRICES}


def write_owned(folder: Path, counts: Mapping[str, int]) -> Path:
    rows = [f"aws,us-east-1,{name},{count}," for name, count in counts.items()]
    (folder / "owned.csv").write_text(
        "\n".join(("cloud,region,instance_type,count,until", *rows)) + "\n"
    )
    return folder / "owned.csv"


def brute_force(
    rates: Sequence[float], per_instance: Mapping[str, float], terms: Mapping[str, float]
) -> tuple[float, tuple[int, ...]]:
    """Return the least cost of all purchases and all fleets, and the smallest purchase of that cost."""
    names = list(per_instance)
    most = [math.ceil(max(rates) / per_instance[name] + 1e-9) for name in names]
    fleets = np.array(list(itertools.product(*(range(n + 1) for n in most))), dtype=float)
    prices = np.array([PRICES[name] for name in names])
    serves = fleets @ np.array([per_instance[name] for name in names])
    best: list[tuple[float, float, tuple[float, ...]]] = []
    for bought in fleets:
        if any(count and name not in terms for count, name in zip(bought, names, strict=True)):
            continue
        rented = np.maximum(fleets - bought, 0) @ prices
        cost = len(rates) * sum(terms.get(n, 0.0) * c for n, c in zip(names, bought, strict=True))
        cost += sum(rented[serves >= rate * (1 - 1e-6)].min() for rate in rates)
        best.append((round(float(cost), 9), float(bought.sum()), tuple(bought)))
    cost, _, units = min(best)
    return cost, tuple(int(count) for count in units)


CASES: dict[str, tuple[list[float], dict[str, float]]] = {
    "flat": ([3, 3, 3], {"g5.xlarge": 0.7}),
    "a peak": ([1, 4, 1, 1], {"g6.xlarge": 0.5, "g5.xlarge": 0.62}),
    "both": ([2, 3, 1.2, 2.5, 0.4], {"g6.xlarge": 0.45, "g5.xlarge": 0.7}),
    "nothing pays": ([0.5, 4, 0.5, 0.5], {"g5.xlarge": 0.97, "g6.xlarge": 0.79}),
    "silence": ([0, 2, 0, 2], {"g5.xlarge": 0.45}),
}


@pytest.mark.parametrize("name", CASES)
def test_small_demands_cost_what_brute_force_finds(folder: Path, name: str) -> None:
    rates, terms = CASES[name]
    cost, bought = brute_force(rates, rates_per_instance(folder), terms)
    document = reserved(folder, rates, terms)
    assert document["totals"]["chosen_usd"] == pytest.approx(cost, rel=1e-9)
    nothing, _ = brute_force(rates, rates_per_instance(folder), {})
    assert document["totals"]["all_on_demand_usd"] == pytest.approx(nothing, rel=1e-9)
    assert sum(one["count"] for one in document["commitments"]) == sum(bought)
    covered = sorted(hour for period in document["periods"] for hour in period["hours"])
    assert covered == list(range(len(rates)))


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rates=st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=2, max_size=5),
    price=st.sampled_from([0.3, 0.5, 0.7, 0.9]),
)
def test_totals_are_in_order_and_a_cheaper_term_saves_no_less(
    folder: Path, rates: list[float], price: float
) -> None:
    dear, cheap, none = (
        reserved(folder, rates, terms)["totals"]
        for terms in (
            {"g5.xlarge": price},
            {"g5.xlarge": price * 0.9},
            {"g5.xlarge": 1.0, "g6.xlarge": 0.8},
        )
    )
    for totals in (dear, cheap, none):
        assert totals["bound_usd"] <= totals["chosen_usd"] * (1 + 1e-9)
        assert totals["chosen_usd"] <= totals["all_on_demand_usd"] * (1 + 1e-9)
    assert cheap["chosen_usd"] <= dear["chosen_usd"] * (1 + 1e-9)
    assert none["chosen_usd"] == pytest.approx(none["all_on_demand_usd"])
    assert none["committed_usd"] == 0


def test_without_a_discount_nothing_is_bought_and_a_flat_demand_with_one_is_bought_whole(
    folder: Path,
) -> None:
    assert reserved(folder, [2, 2, 3], PRICES)["commitments"] == []
    flat = reserved(folder, [3, 3, 3], {name: price * 0.9 for name, price in PRICES.items()})
    assert all(one["rented"] == 0 for period in flat["periods"] for one in period["fleet"])
    assert flat["totals"]["chosen_usd"] == pytest.approx(0.9 * flat["totals"]["all_on_demand_usd"])


@pytest.mark.parametrize(("busy", "bought"), [(2, 0), (3, 1)])
def test_a_unit_is_bought_where_it_is_busy_for_more_than_one_minus_the_discount(
    folder: Path, busy: int, bought: int
) -> None:
    """One option, one unit's load in `busy` of 4 hours, a discount of 40 %: breaks even at 60 %."""
    write_offers(folder, {"g5.xlarge": 1.0, "g6.xlarge": 50.0})
    document = reserved(folder, [0.3] * busy + [0.0] * (4 - busy), {"g5.xlarge": 0.6})
    assert sum(one["count"] for one in document["commitments"]) == bought
    (term,) = document["commitments"] + document["considered"]
    assert term["break_even_utilization"] == pytest.approx(0.6)


def test_owned_instances_never_raise_the_cost_and_run_first(folder: Path) -> None:
    rates = [1.0, 3.0, 2.0]
    before = reserved(folder, rates, {"g5.xlarge": 0.7})
    owned = write_owned(folder, {"g5.xlarge": 1})
    after = reserved(folder, rates, {"g5.xlarge": 0.7}, owned=owned)
    assert after["totals"]["chosen_usd"] <= before["totals"]["chosen_usd"]
    for period in after["periods"]:
        assert sum(one["owned"] for one in period["fleet"]) == 1
    assert after["owned"][0]["count"] == 1


def test_the_unit_of_time_and_the_offset_change_nothing(folder: Path) -> None:
    """The same rates by the hour and by the half hour, in UTC and over a change of clocks."""
    terms = {"g5.xlarge": 0.7}
    hours = reserved(folder, [1.0, 3.0, 3.0, 2.0], terms)
    halves = ["2026-10-25T01:00:00+02:00,1", "2026-10-25T01:30:00+02:00,1"]
    halves += ["2026-10-25T02:00:00+02:00,3", "2026-10-25T02:30:00+02:00,3"]
    halves += ["2026-10-25T02:00:00+01:00,3", "2026-10-25T02:30:00+01:00,3"]
    halves += ["2026-10-25T03:00:00+01:00,2", "2026-10-25T03:30:00+01:00,2"]
    (folder / "local.csv").write_text("time,rate_rps\n" + "\n".join(halves) + "\n")
    found = melange_sky.reservation(
        SPEC,
        demand="local.csv",
        commitments=write_terms(folder, terms),
        offline=True,
        verify=False,
    )
    assert found.document["totals"]["chosen_usd"] == pytest.approx(hours["totals"]["chosen_usd"])
    assert found.document["demand"]["offsets"] == [
        {"step": 0, "utc_offset_s": 7200.0},
        {"step": 4, "utc_offset_s": 3600.0},
    ]
    assert "Sun 25 Oct  01:00–02:00" in str(found)


def test_bound_tells_the_autoscaler_with_and_without_terms(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    write_demand(folder, [1, 3, 2])
    write_terms(folder, {"g5.xlarge": 0.5})
    flags = (
        "--demand",
        "demand.csv",
        "--commitments",
        "terms.csv",
        "--offline",
        "--format",
        "json",
    )
    code, out, _ = call(capsys, "bound", "spec.yaml", *flags)
    assert code == 0
    document = json.loads(out)
    whole = reserved(folder, [1, 3, 2], {"g5.xlarge": 0.5})["totals"]
    assert document["autoscaler_usd"] == pytest.approx(whole["all_on_demand_usd"])
    assert document["bound_usd"] <= document["autoscaler_usd"]


def test_the_folder_holds_plans_of_all_that_runs_that_every_command_reads(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    write_demand(folder, [1, 3, 2, 3])
    write_terms(folder, {"g5.xlarge": 0.7})
    flags = ("--demand", "demand.csv", "--commitments", "terms.csv", "--offline", "-o", "out")
    code, out, err = call(capsys, "reserve", "spec.yaml", *flags)
    assert code == 0, err
    document = json.loads((folder / "out/reserve.json").read_text())
    assert document["verification"]["holds"] and "Replayed" in out
    rates = document["demand"]["rates_rps"]
    ids = set()
    for n, period in enumerate(document["periods"]):
        assert period["rate_rps"] == max(rates[hour] for hour in period["hours"])
        plan = load_plan(folder / "out" / period["plan"])
        ids.add(plan.fleet_id)
        (model,) = plan.models
        assert model.workload.rate_rps == pytest.approx(period["rate_rps"])
        running = {a.candidate.option.name: a for a in model.allocations}
        for one in period["fleet"]:
            allocation = running[one["option"]]
            assert allocation.instances == one["instances"]
            assert allocation.fixed_instances == one["owned"] + one["committed"]
            offer = allocation.candidate.option.offer
            assert offer is not None and offer.region == "us-east-1"
        assert plan.cost_usd_per_hour == pytest.approx(period["rented_usd_per_hour"])
        assert model.verification is not None and model.verification.holds
        for command in (
            ["render", f"out/{period['plan']}", "-o", f"r{n}"],
            ["simulate", f"out/{period['plan']}", "--duration", "60"],
            ["explain", f"out/{period['plan']}"],
        ):
            code, _, err = call(capsys, *command)
            assert code == 0, (command, err)
    assert ids == {document["fleet_id"]}


def test_one_seed_gives_the_same_bytes_and_the_folder_is_replaced_safely(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import yaml

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1795000000")
    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    write_demand(folder, [1, 3])
    flags = ("--demand", "demand.csv", "--offline", "-o", "out")
    contents = []
    for _ in range(2):
        assert call(capsys, "reserve", "spec.yaml", *flags)[0] == 0
        contents.append({file.name: file.read_bytes() for file in (folder / "out").iterdir()})
    assert contents[0] == contents[1]
    (folder / "out" / "mine.txt").write_text("kept")
    code, _, err = call(capsys, "reserve", "spec.yaml", *flags)
    assert code == 2 and "mine.txt" in err
    assert (folder / "out" / "mine.txt").read_text() == "kept"


def _set(**over: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {**SPEC, **over}


REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], list[str], int, str]] = {
    "no demand": (_set(), [], 2, "error: give one of --demand CSV and --trace FILE\n"),
    "a budget by the hour": (
        _set(resources={**SPEC["resources"], "budget_usd_per_hour": 5}),
        ["--demand", "demand.csv"],
        2,
        (
            "error: spec.yaml: resources.budget_usd_per_hour: what is committed is paid by the year, not by the hour; "
            "leave it out, and bound what is paid at once with --budget-upfront\n"
        ),
    ),
    "rules that no fleet keeps": (
        _set(resources={**SPEC["resources"], "limits": {"aws": 1}}, redundancy={"spare": 1}),
        ["--demand", "demand.csv"],
        3,
        (
            "error: at the demand's highest rate, 3 req/s: the limit of 1 instance on aws cannot be met at this rate; "
            "to make it possible, raise the limit to 5 instances on aws\n"
        ),
    ),
    "fixed elsewhere": (
        _set(
            resources={
                **SPEC["resources"],
                "fixed": [{"accelerators": "L4:1", "infra": "gcp", "instances": 1}],
            }
        ),
        ["--demand", "demand.csv"],
        2,
        (
            "error: spec.yaml: resources.fixed: 1 x L4:1 on gcp: no on-demand offer of the spec is one of them; check "
            "accelerators and infra\n"
        ),
    ),
    "a term": (
        _set(),
        ["--demand", "demand.csv", "--term", "1w"],
        2,
        "error: --term: '1w' must be such as 1y, 3y, 6m, block or all, several joined by commas\n",
    ),
    "an objective": (
        _set(),
        ["--demand", "demand.csv", "--objective", "cvar"],
        2,
        "error: --objective: 'cvar' must be expected, regret or cvar:Q with a fraction Q such as cvar:0.9\n",
    ),
    "an API's price": (
        _set(),
        ["--demand", "demand.csv", "--api-price", "1"],
        2,
        "error: --api-price: '1' must be two prices in USD per million tokens, IN,OUT, such as 0.5,1.5\n",
    ),
    "a missing file": (
        _set(),
        ["--demand", "no.csv"],
        2,
        "error: no.csv: no such file\n",
    ),
    "owned elsewhere": (
        _set(),
        ["--demand", "demand.csv", "--owned", "owned.csv"],
        2,
        (
            "error: owned.csv:2: p9.large on aws/us-east-1 is not among the on-demand offers that the spec may use; check "
            "the spec's accelerators and infra (`melange-sky prices list` shows offers)\n"
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    import yaml

    spec, flags, exit_code, line = REFUSED[name]
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec()))
    write_demand(folder, [1, 3])
    (folder / "owned.csv").write_text(
        "cloud,region,instance_type,count,until\naws,us-east-1,p9.large,1,\n"
    )
    code, out, err = call(capsys, "reserve", "spec.yaml", *flags, "--offline", "--stale-ok")
    assert (code, out, err) == (exit_code, "", line)
    assert not (folder / "chat-reserve").exists()


def test_prices_and_terms_older_than_a_day_are_refused_unless_said_to_do(folder: Path) -> None:
    header = "cloud,region,instance_type,accelerator,accelerator_count,price_usd_per_hour,as_of"
    rows = [
        "aws,us-east-1,g5.xlarge,A10G,1,1.0,2026-01-01",
        "aws,us-east-1,g6.xlarge,L4,1,0.8,2026-01-01",
    ]
    (folder / "offers.csv").write_text("\n".join((header, *rows)) + "\n")
    with pytest.raises(SourceUnavailableError) as found:
        reserved(folder, [1, 3], {})
    assert "prices of aws" in str(found.value) and "--stale-ok" in str(found.value)
    document = reserved(folder, [1, 3], {}, stale_ok=True)
    assert any(line["stale"] for line in document["prices"])


def test_only_what_is_committed_keeps_to_its_region(folder: Path) -> None:
    rows = [
        f"aws,{region},{name},{GPU[name]},1,{price}"
        for name, price in PRICES.items()
        for region, price in (("us-east-1", price), ("us-west-2", price + 0.1))
    ]
    header = "cloud,region,instance_type,accelerator,accelerator_count,price_usd_per_hour"
    (folder / "offers.csv").write_text("\n".join((header, *rows)) + "\n")
    spec = {**SPEC, "resources": {**SPEC["resources"], "infra": ["aws/us-east-1", "aws/us-west-2"]}}
    regions = {}
    for price in (0.5, 1.0):
        found = melange_sky.reservation(
            spec,
            demand=write_demand(folder, [0.7, 0.7, 1.4]),
            commitments=write_terms(folder, {"g5.xlarge": price}),
            offline=True,
            stale_ok=True,  # other sizes are of the table that ships
            verify=False,
        )
        options = [
            a.candidate.option
            for fleet in found.fleets
            if fleet.plan
            for a in fleet.plan.models[0].allocations
            if a.candidate.option.offer and a.candidate.option.offer.instance_type == "g5.xlarge"
        ]
        regions[price] = {(o.name, tuple(f.region for f in o.fallbacks)) for o in options}
    assert regions[0.5] == {("a10g-1-aws-us-east-1-g5.xlarge", ())}
    assert regions[1.0] == {("a10g-1-aws-g5.xlarge", ("us-west-2",))}


def test_mixes_have_sizes_and_plans_of_their_own(folder: Path) -> None:
    for name, prompt in (("day", 200), ("night", 900)):
        lines = [f"{second},{prompt},100" for second in range(200)]
        (folder / f"{name}.csv").write_text(
            "\n".join(("arrival_s,input_tokens,output_tokens", *lines))
        )
    lines = [HOUR.format(day=2, hour=n, rate=1) + (",night" if n < 2 else ",day") for n in range(4)]
    (folder / "mixed.csv").write_text("\n".join(("time,rate_rps,mix", *lines)) + "\n")
    found = melange_sky.reservation(
        SPEC,
        demand="mixed.csv",
        mix=["day=day.csv", "night=night.csv"],
        offline=True,
        verify=False,
    )
    night, day = found.document["periods"]
    assert (night["mix"], night["hours"]) == ("night", [0, 1])
    assert (day["mix"], day["hours"]) == ("day", [2, 3])
    sizes = {m["label"]: m["input_tokens"] for m in found.document["demand"]["mixes"]}
    assert sizes == {"night": pytest.approx(900), "day": pytest.approx(200)}
    plans = [fleet.plan for fleet in found.fleets]
    assert [p and p.models[0].workload.source for p in plans] == [
        "trace night.csv",
        "trace day.csv",
    ]


def test_an_api_is_compared_at_the_demand_and_at_the_rate_from_which_a_fleet_wins(
    folder: Path,
) -> None:
    write_offers(folder, {"g5.xlarge": 1.0, "g6.xlarge": 50.0})
    document = reserved(folder, [0.3, 0.6], {}, api_price="1,2")
    api = document["api"]
    tokens = api["input_tokens"] + api["output_tokens"]
    requests = 0.9 * 3600
    assert api["input_tokens"] == pytest.approx(1000 * requests)
    assert api["output_tokens"] == pytest.approx(200 * requests)
    assert api["usd"] == pytest.approx((1000 + 2 * 200) * requests / 1e6)
    assert api["own_usd_per_million"] == pytest.approx(
        document["totals"]["chosen_usd"] / tokens * 1e6
    )
    # one instance at $1/h costs as much as the API at $1.40 a thousand requests
    assert api["wins_from_rps"] == pytest.approx(1 / (1400e-6 * 3600), rel=1e-6)
    free = reserved(folder, [0.3, 0.6], {}, api_price="0.0001,0")["api"]
    assert free["wins_from_rps"] is None and free["sought_rps"] == pytest.approx(4.5)


def test_a_log_is_counted_by_the_hour(folder: Path) -> None:
    lines = [
        f"2026-11-02T{n // 600:02}:{n // 10 % 60:02}:{6 * (n % 10):02}Z,500,100"
        for n in range(1800)
    ]
    (folder / "log.csv").write_text("\n".join(("time,input,output", *lines)) + "\n")
    found = melange_sky.reservation(SPEC, trace="log.csv", offline=True, verify=False)
    demand = found.document["demand"]
    assert demand["rates_rps"] == pytest.approx([1 / 6] * 3, rel=0.01)
    assert demand["mixes"][0]["input_tokens"] == pytest.approx(500)
    assert any("one mix of sizes" in note for note in found.document["notes"])


def test_owned_instances_end_and_cost_nothing_until_then(folder: Path) -> None:
    write_offers(folder, {"g5.xlarge": 1.0, "g6.xlarge": 50.0})
    header = "cloud,region,instance_type,count,until"
    (folder / "owned.csv").write_text(f"{header}\naws,us-east-1,g5.xlarge,1,2026-11-02T02:00:00Z\n")
    document = reserved(folder, [0.3] * 4, {}, owned=folder / "owned.csv")
    assert document["totals"]["chosen_usd"] == pytest.approx(2.0)
    held = {h: one["owned"] for p in document["periods"] for one in p["fleet"] for h in p["hours"]}
    assert held == {0: 1, 1: 1, 2: 0, 3: 0}


def test_scenarios_objectives_and_what_knowing_them_is_worth(folder: Path) -> None:
    (folder / "s.yaml").write_text(
        "- {name: as planned, weight: 0.5}\n"
        "- {name: half, weight: 0.3, demand: ×0.5}\n"
        "- {name: cheap, weight: 0.2, price: {on_demand: ×0.6}}\n"
    )
    rates, terms = [1.0, 3.0, 2.0], {"g5.xlarge": 0.7}
    found = {
        objective: reserved(folder, rates, terms, scenarios=folder / "s.yaml", objective=objective)
        for objective in ("expected", "regret", "cvar:0.5")
    }
    expected = found["expected"]
    assert [one["name"] for one in expected["scenarios"]] == ["as planned", "half", "cheap"]
    for document in found.values():
        for one in document["scenarios"]:
            assert one["regret_usd"] == pytest.approx(one["cost_usd"] - one["best_usd"], abs=1e-9)
            assert one["best_usd"] <= one["cost_usd"] + 1e-9
    mean = {k: sum(s["weight"] * s["cost_usd"] for s in d["scenarios"]) for k, d in found.items()}
    worst = {k: max(s["regret_usd"] for s in d["scenarios"]) for k, d in found.items()}
    assert mean["expected"] == min(mean.values())
    assert worst["regret"] == min(worst.values())
    knowing = sum(s["weight"] * s["best_usd"] for s in expected["scenarios"])
    assert expected["foresight_value_usd"] == pytest.approx(mean["expected"] - knowing)


def test_start_up_and_shortest_run_times_cost_no_less(folder: Path) -> None:
    rates = [0.5, 3.0, 0.5, 3.0]
    free, started, kept = (
        reserved(folder, rates, {}, **more)["totals"]
        for more in ({}, {"startup_s": 1800.0}, {"startup_s": 1800.0, "min_run_s": 10800.0})
    )
    assert free["chosen_usd"] < started["chosen_usd"] <= kept["chosen_usd"]
    assert started["free_switch_usd"] == pytest.approx(free["chosen_usd"])
    assert started["bound_usd"] == pytest.approx(free["bound_usd"])


def test_a_savings_plan_discounts_what_runs_up_to_its_spend(folder: Path) -> None:
    header = "cloud,region,instance_type,term_months,usd_per_hour,upfront_usd,kind,source,as_of"
    rows = [
        f"aws,us-east-1,{name},12,{0.6 * price},0,spend,plan," for name, price in PRICES.items()
    ]
    (folder / "spend.csv").write_text("\n".join((header, *rows)) + "\n")
    found = melange_sky.reservation(
        SPEC,
        demand=write_demand(folder, [3.0, 3.0, 3.0]),
        commitments="spend.csv",
        offline=True,
        verify=False,
    )
    (one,) = found.document["commitments"]
    totals = found.document["totals"]
    assert one["kind"] == "spend" and one["count"] == 1
    assert one["commit_usd_per_hour"] * 3 == pytest.approx(totals["committed_usd"])
    # all of a flat load is discounted, but for what a step of spend is too coarse for
    assert totals["chosen_usd"] == pytest.approx(0.6 * totals["all_on_demand_usd"], rel=0.03)
    assert all(r["committed"] == 0 for p in found.document["periods"] for r in p["fleet"])
