"""The rules, each with rows of the shape that the defect has in today's catalogs."""

from __future__ import annotations

import pytest

from melange_sky.offers import FlagScope, Offer, Severity
from melange_sky.pricing import OfferQuery, load_offers
from melange_sky.pricing.hosted_csv import parse_catalog
from melange_sky.pricing.sanity import RULES, check_offers, possible_count
from tests.factories import make_offer
from tests.pricing.catalogs import HEADERS, aws, plain
from tests.pricing.server import body

# us-central1 etc. carried 4.20 $/GPU-h where the others carry about 10 (19 regions, 7 of them low)
GCP_H100 = {
    "us-central1": 4.20,
    "us-west1": 4.20,
    "us-west4": 4.20,
    "asia-northeast1": 4.20,
    "us-east4": 9.80,
    "us-east5": 11.03,
    "europe-west4": 12.74,
    "asia-east1": 11.34,
    "asia-south1": 10.19,
    "europe-west1": 10.79,
}


def parse(cloud: str, text: str) -> dict[tuple[str, str], Offer]:
    offers = parse_catalog(cloud, text.splitlines(keepends=True))
    return {(o.region, o.instance_type): o for o in offers}


def codes(offer: Offer) -> set[str]:
    return {flag.code for flag in offer.flags}


def gcp_h100(count: int = 8, host: str = "a3-highgpu-8g") -> dict[tuple[str, str], Offer]:
    rows = [HEADERS["gcp"]]
    for region, each in GCP_H100.items():
        where = f"{region},{region}-a"
        rows.append(f"{host},208,1872,,,,{where},9.46,3.1")
        rows.append(f",,,H100,{count},H100,{where},{each * count},{2.1 * count}")
    return parse("gcp", "\n".join(rows) + "\n")


def test_gcp_low_h100_prices_are_blocked_and_the_true_ones_are_not():
    for (region, _), offer in gcp_h100().items():
        blocked = {flag.code for flag in offer.blocked(use_spot=False)}
        assert blocked == ({"below-region-median"} if GCP_H100[region] < 5 else set()), region
        assert not offer.blocked(use_spot=True), "the spot price is not in doubt"


def test_gcp_types_that_cannot_be_bought_on_demand():
    for offer in gcp_h100(1, "a3-highgpu-1g").values():
        assert "not-on-demand" in {flag.code for flag in offer.blocked(use_spot=False)}
        assert not offer.blocked(use_spot=True)


def test_gcp_gpu_part_with_spot_above_on_demand():
    """A100-80GB in us-central1: 1.85 on demand, 1.96 spot; host and sum hide it."""
    where = "us-central1,us-central1-a"
    text = (
        "\n".join(
            [
                HEADERS["gcp"],
                f"a2-ultragpu-1g,12,170,,,,{where},1.09962,0.54978",
                f",,,A100-80GB,1,A100-80GB,{where},1.8462,1.964",
            ]
        )
        + "\n"
    )
    (offer,) = parse("gcp", text).values()
    assert offer.price_usd_per_hour > offer.spot_usd_per_hour
    assert [f.code for f in offer.blocked(use_spot=False)] == ["spot-above-on-demand"]
    assert not offer.blocked(use_spot=True)


def test_azure_count_of_twelve_is_blocked_as_a_row():
    text = plain(
        "Standard_ND96isr_H100_v5,H100,12,98.32,eastus,98.32",
        "Standard_ND96isr_H100_v5,H100,8,98.32,eastus2,18.17",
    )
    offers = parse("azure", text)
    wrong = offers["eastus", "Standard_ND96isr_H100_v5"]
    for use_spot in (False, True):
        assert "impossible-count" in {f.code for f in wrong.blocked(use_spot)}
    assert not offers["eastus2", "Standard_ND96isr_H100_v5"].blocked(False)


def test_azure_zero_and_aws_absent_prices_are_unknown_not_free():
    azure = parse("azure", plain("Standard_NC40ads_H100_v5,H100,1,0.0,eastus,0.0"))
    zero = azure["eastus", "Standard_NC40ads_H100_v5"]
    assert (zero.price_usd_per_hour, zero.spot_usd_per_hour) == (None, None)
    assert {(f.code, f.touches) for f in zero.flags} == {
        ("price-zero", FlagScope.ON_DEMAND),
        ("price-zero", FlagScope.SPOT),
    }
    absent = parse("aws", aws("p5e.48xlarge,H200,8,,25.1,us-east-2,use2-az1"))
    offer = absent["us-east-2", "p5e.48xlarge"]
    assert [f.code for f in offer.blocked(False)] == ["price-missing"]
    assert offer.blocked(True) == ()
    assert offer.price(True) == 25.1


def test_spot_equal_to_on_demand_drops_only_the_spot_price():
    offer = parse("runpod", plain("1x_A100-80GB_SECURE,A100-80GB,1,1.39,US,1.39"))[
        "US", "1x_A100-80GB_SECURE"
    ]
    assert (offer.price_usd_per_hour, offer.spot_usd_per_hour) == (1.39, None)
    assert offer.blocked(False) == ()
    assert codes(offer) == {"spot-equals-on-demand"}


def test_a_spot_price_that_only_rounding_sets_apart_is_equal():
    """AWS p4de in ap-southeast-1: 34.29125 on demand, 34.2912 or 34.2913 spot."""
    for spot in (34.2912, 34.2913):
        (offer,) = check_offers(
            [
                make_offer(
                    accelerator="A100-80GB",
                    accelerator_count=8,
                    price_usd_per_hour=34.29125,
                    spot_usd_per_hour=spot,
                )
            ]
        )
        assert (offer.spot_usd_per_hour, offer.blocked(False)) == (None, ())


def test_spot_above_on_demand_blocks_on_demand():
    (offer,) = check_offers([make_offer(price_usd_per_hour=1.0, spot_usd_per_hour=1.2)])
    assert [f.code for f in offer.blocked(False)] == ["spot-above-on-demand"]
    assert offer.blocked(True) == ()


def test_a_real_discount_for_larger_instances_is_a_warning_only():
    text = plain("gpu_1x,H100,1,4.29,us-east-1,", "gpu_8x,H100,8,31.92,us-east-1,")
    larger = parse("lambda", text)["us-east-1", "gpu_8x"]
    assert codes(larger) == {"price-per-gpu-falls"}
    assert larger.blocked(False) == ()


def test_an_auction_s_floor_is_no_on_demand_price():
    (offer,) = parse("mithril", plain("h100.8x,H100,8,1.0,us,1.0")).values()
    assert "not-on-demand" in {f.code for f in offer.blocked(False)}
    assert offer.spot_usd_per_hour is None


def test_no_region_means_not_offered():
    (offer,) = parse("seeweb", plain("x,L4,1,0.38,,")).values()
    assert "no-region" in {f.code for f in offer.blocked(False)}


@pytest.mark.parametrize(
    ("low", "blocked"), [(0.59, True), (0.61, False), (0.99, False), (0.001, True)]
)
def test_the_median_is_over_regions_of_one_shape(low, blocked):
    prices = [low, 1.0, 1.0, 1.0, 1.1]
    offers = check_offers(
        make_offer(region=f"r{i}", price_usd_per_hour=p, spot_usd_per_hour=None)
        for i, p in enumerate(prices)
    )
    assert ("below-region-median" in codes(offers[0])) is blocked
    assert not any(codes(o) for o in offers[1:])


def test_a_single_region_has_no_median():
    (offer,) = check_offers([make_offer(price_usd_per_hour=0.2, spot_usd_per_hour=None)])
    assert codes(offer) == set()


@pytest.mark.parametrize(
    ("cloud", "count", "possible"),
    [
        ("aws", 1, True),
        ("aws", 0.25, True),
        ("azure", 0.167, True),
        ("azure", 12, False),
        ("gcp", 16, True),
        ("gcp", 32, False),
        ("lambda", 3, False),
        ("runpod", 7, True),
        ("vast", 14, True),
        ("vast", 17, False),
        ("aws", 0, False),
        ("aws", -1, False),
        ("aws", 1.5, False),
        ("aws", float("nan"), False),
        ("aws", 0.3, False),
        ("kubernetes", 3, True),
    ],
)
def test_possible_counts(cloud, count, possible):
    assert possible_count(cloud, count) is possible


def test_codes_are_distinct_and_severities_are_as_promised():
    assert len({rule.code for rule in RULES}) == len(RULES)
    warn = {rule.code for rule in RULES if rule.severity is Severity.WARN}
    assert warn == {
        "spot-equals-on-demand",
        "price-per-gpu-falls",
        "price-off-known",
        "one-price-for-gpus",
        "date-in-future",
        "source-old",
    }


def test_a_planted_cheap_h100_is_listed_and_kept_out(server):
    rows = [
        f"p5.48xlarge,H100,8,{p},20,{r},z"
        for r, p in (("us-east-1", 55.04), ("us-west-2", 55.04), ("eu-west-1", 4.99))
    ]
    server.catalog("aws", body(aws(*rows)))
    book = load_offers(OfferQuery(infra=(("aws", None),), refresh=True))
    cheap = next(o for o in book.offers if o.region == "eu-west-1")
    assert cheap.price_usd_per_hour == 4.99
    assert [f.code for f in cheap.blocked(False)][:1] == ["spot-above-on-demand"]
    assert "below-region-median" in codes(cheap)
    assert min(o.price_usd_per_hour for o in book.offers if not o.blocked(False)) == 55.04


SPEC = """
name: chat
model: meta-llama/Llama-2-7b-hf
slo: {tpot_ms: 120}
workload:
  rate_rps: 2
  histogram: {input_edges: [0, 256], output_edges: [0, 128], weights: [[1.0]]}
resources: {accelerators: [H100], infra: [aws]}
"""


def test_a_planted_cheap_h100_does_not_enter_a_plan_unless_forced(server, run, tmp_path):
    prices = (("us-east-1", 6.88), ("us-west-2", 6.88), ("eu-west-1", 0.69))
    server.catalog("aws", body(aws(*(f"p5.4xlarge,H100,1,{p},0.5,{r},z" for r, p in prices))))
    (tmp_path / "chat.yaml").write_text(SPEC)
    arguments = ("plan", str(tmp_path / "chat.yaml"), "-o", str(tmp_path / "p"), "--format", "json")
    careful = run(*arguments)
    assert careful.code == 0, careful.err
    planned = careful.json()
    assert {a["price_usd_per_hour"] for a in planned["allocations"]} == {6.88}
    assert all(a["price_source"].startswith("SkyPilot catalog") for a in planned["allocations"])
    assert any("below-region-median" in w["message"] for w in planned["warnings"])
    assert planned["price_snapshot"].startswith("000001-")
    forced = run(*arguments, "--force", "--allow-flagged").json()
    assert {(a["price_usd_per_hour"], a["region"]) for a in forced["allocations"]} == {
        (0.69, "eu-west-1")
    }
