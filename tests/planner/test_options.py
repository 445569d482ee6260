"""From offers to options: names that last, the very GPU's figures, and what is left out, with why."""

from __future__ import annotations

import dataclasses

import pytest

from melange_sky.models import find_model
from melange_sky.names.clouds import Infra
from melange_sky.parallelism import Parallelism
from melange_sky.planner.instance_splits import SplitRules
from melange_sky.planner.options import (
    OfferRules,
    PlannedOffer,
    build_options,
    option_name,
    usable_offers,
)
from melange_sky.plans import PlanWarning
from melange_sky.pricing.sanity import check_offers
from melange_sky.profiles import CapacityQuery
from melange_sky.slo import SLO
from melange_sky.spec import AcceleratorChoice, Resources
from tests.factories import LLAMA_8B, make_offer

ANY = Resources()
ONE = Parallelism()


def test_one_region_stands_for_an_instance_type_and_a_price_move_keeps_the_name() -> None:
    east, west = (
        make_offer(region="us-east-1"),
        make_offer(region="us-west-2", price_usd_per_hour=0.9),
    )
    (planned,), _ = usable_offers([east, west], ANY, OfferRules())
    assert (planned.offer.region, [o.region for o in planned.fallbacks]) == (
        "us-west-2",
        ["us-east-1"],
    )
    west_dearer = make_offer(region="us-west-2", price_usd_per_hour=1.2)
    (moved,), _ = usable_offers([east, west_dearer], ANY, OfferRules())
    assert moved.offer.region == "us-east-1"
    assert option_name(planned, ONE) == option_name(moved, ONE) == "a10g-1-aws-g5.xlarge"


def test_where_places_matter_each_region_is_an_option_of_its_own_name() -> None:
    offers = [make_offer(region="us-east-1"), make_offer(region="us-west-2")]
    planned, _ = usable_offers(offers, ANY, OfferRules(regions=True))
    assert [option_name(p, ONE) for p in planned] == [
        "a10g-1-aws-us-east-1-g5.xlarge",
        "a10g-1-aws-us-west-2-g5.xlarge",
    ]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("H100", ["H100", "H100-SXM"]),
        ("H100-SXM", ["H100-SXM"]),
        ("A100-80GB", ["A100-80GB-SXM"]),
        (None, ["A100-80GB-SXM", "H100", "H100-SXM", "H200-SXM"]),
    ],
)
def test_what_a_cloud_lists_apart_is_planned_under_its_own_name(
    asked: str | None, found: list[str]
) -> None:
    names = ["H100", "H100-SXM", "H200-SXM", "A100-80GB-SXM"]
    offers = [make_offer(accelerator=n, cloud="runpod", instance_type=f"1x_{n}") for n in names]
    choices = (AcceleratorChoice(name=asked, count=None),) if asked else ()
    planned, warnings = usable_offers(offers, Resources(accelerators=choices), OfferRules())
    assert warnings == []
    assert sorted(p.offer.accelerator for p in planned) == found
    options = build_options(planned, _query()).options
    assert {o.option.accelerator: o.option.figures for o in options} == {
        name: "H100-PCIe" if name == "H100" else name.removesuffix("-SXM") for name in found
    }


def test_counts_and_infra_asked_for_are_kept_to() -> None:
    offers = [
        make_offer(),
        make_offer(accelerator_count=4, instance_type="g5.12xlarge"),
        make_offer(cloud="gcp"),
    ]
    asked = Resources(
        accelerators=(AcceleratorChoice(name="A10G", count=4),), infra=(Infra(cloud="aws"),)
    )
    (planned,), _ = usable_offers(offers, asked, OfferRules())
    assert planned.offer.instance_type == "g5.12xlarge"


@pytest.mark.parametrize(
    ("offer", "rules", "code"),
    [
        (make_offer(accelerator_count=0.25), OfferRules(), "fractional-gpu"),
        (make_offer(accelerator_count=float("nan")), OfferRules(), "unknown-count"),
        (make_offer(cloud="ibm"), OfferRules(closed_clouds={"ibm": "no ports"}), "closed-cloud"),
        (make_offer(accelerator="Gaudi9"), OfferRules(), "unknown-accelerator"),
    ],
)
def test_what_is_left_out_is_told(offer: object, rules: OfferRules, code: str) -> None:
    planned, warnings = usable_offers([offer], ANY, rules)  # type: ignore[list-item]
    assert planned == []
    codes = [warning.code for warning in warnings]
    assert codes == [code] or (code == "unknown-count" and len(codes) <= 1)


@pytest.mark.parametrize("count", [0, -1])
@pytest.mark.parametrize("allow_flagged", [True, False])
def test_no_flag_is_allowed_that_leaves_no_gpu(count: int, allow_flagged: bool) -> None:
    offers = check_offers([make_offer(accelerator_count=count)])
    planned, warnings = usable_offers(offers, ANY, OfferRules(allow_flagged=allow_flagged))
    assert planned == []
    assert warnings == [
        PlanWarning(
            code="flagged-price",
            message="price excluded (impossible-count): aws/us-east-1 g5.xlarge",
        )
    ]


def _query() -> CapacityQuery:
    return CapacityQuery(
        model=LLAMA_8B,
        slo=SLO(tpot_s=0.06, ttft_s=2.0, attainment=0.95),
        input_sizes=((1000.0,),),
        output_sizes=((250.0,),),
        longest_request_tokens=18000,
    )


def test_an_h100_is_as_fast_as_the_one_that_is_sold() -> None:
    sxm = make_offer(accelerator="H100", instance_type="p5.4xlarge")
    pcie = make_offer(accelerator="H100", cloud="lambda", instance_type="gpu_1x_h100_pcie")
    nvl = make_offer(accelerator="H100", cloud="azure", instance_type="Standard_NC40ads_H100_v5")
    options = build_options([PlannedOffer(offer=o) for o in (sxm, pcie, nvl)], _query()).options
    rates = [option.cells[0][0].max_rate_rps or 0.0 for option in options]
    assert [option.option.figures for option in options] == [None, "H100-PCIe", "H100-NVL"]
    assert {option.option.accelerator for option in options} == {"H100"}
    assert rates[1] < rates[0]


def test_tensor_parallelism_over_pcie_beyond_two_gpus_needs_the_switch() -> None:
    """Four cards hold the model in one tensor group or in stages of one or two: asked, both are weighed."""
    offers = [
        make_offer(accelerator="L40S", accelerator_count=n, instance_type=f"g6e.{n}x")
        for n in (4, 8)
    ]
    planned, _ = usable_offers(offers, ANY, OfferRules())
    query = dataclasses.replace(_query(), model=find_model("meta-llama/Llama-3.1-70B"))
    built = build_options(planned, query)
    options, warnings = built.options, built.warnings
    (told,) = (w for w in warnings if w.code == "pcie-tensor-parallel")
    assert "other splits are planned instead: " in told.message
    assert "resources.pcie_tensor_parallel: true plans with it" in told.message
    splits = [o.option.engine.split for o in options if o.option.engine]
    assert {split.tensor for split in splits} == {1, 2}
    assert all(split.pipeline > 1 for split in splits)
    options = build_options(planned, query, SplitRules(over_pcie=True)).options
    whole = [o.option.engine.split for o in options if o.option.engine]
    assert sorted(s.tensor for s in whole if s.pipeline == 1) == [4, 4, 8]
    assert len(whole) == len(splits) + 3


def test_what_only_tensor_groups_over_pcie_hold_says_so() -> None:
    """No pipeline of this family runs, so that four cards are left out, and why is told."""
    gemma = find_model("meta-llama/Llama-3.1-70B")
    planned, _ = usable_offers(
        [make_offer(accelerator="L40S", accelerator_count=4, instance_type="g6e.12xlarge")],
        ANY,
        OfferRules(),
    )
    query = dataclasses.replace(_query(), model=dataclasses.replace(gemma, in_stages=False))
    built = build_options(planned, query)
    options, warnings = built.options, built.warnings
    assert options == ()
    (left_out,) = (w for w in warnings if w.code == "pcie-tensor-parallel")
    assert "L40S:4 (tp 4)" in left_out.message
    assert "resources.pcie_tensor_parallel: true" in left_out.message
    built = build_options(planned, query, SplitRules(over_pcie=True))
    options, warnings = built.options, built.warnings
    assert len(options) == 1
    assert not [w for w in warnings if w.code == "pcie-tensor-parallel"]


def test_a_model_that_fits_two_pcie_gpus_is_split_no_further_unasked() -> None:
    planned, _ = usable_offers(
        [make_offer(accelerator="L40S", accelerator_count=8, instance_type="g6e.48xlarge")],
        ANY,
        OfferRules(),
    )
    built = build_options(planned, _query())
    options, warnings = built.options, built.warnings
    assert sorted(o.option.engine.tensor_parallel for o in options if o.option.engine) == [1, 2]
    assert not [w for w in warnings if w.code == "pcie-tensor-parallel"]
