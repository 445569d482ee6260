"""A file of instances that are paid for already."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from melange_sky.errors import InputError
from melange_sky.pricing.commitments.owned import read_owned

HEADER = "cloud,region,instance_type,count,until"


def read(tmp_path, *lines: str, header: str = HEADER):
    path = tmp_path / "owned.csv"
    path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return read_owned(path)


def test_what_a_file_says(tmp_path):
    kept, ending = read(
        tmp_path,
        "aws,us-east-1,p5.48xlarge,2,,",
        "k8s,,node-h100x8,1,2027-01-31,0.85",
        header=f"{HEADER},hourly_if_idle",
    )
    assert (kept.cloud, kept.region, kept.instance_type) == ("aws", "us-east-1", "p5.48xlarge")
    assert (kept.count, kept.until, kept.idle_usd_per_hour) == (2, None, 0.0)
    assert kept.where == f"{tmp_path}/owned.csv:2"
    assert (ending.cloud, ending.region, ending.idle_usd_per_hour) == ("kubernetes", "", 0.85)
    assert ending.until == datetime(2027, 2, 1, tzinfo=timezone.utc), "a date counts whole"
    (moment,) = read(tmp_path, "aws,,g6.xlarge,1,2027-01-31T08:00:00+02:00")
    assert moment.until == datetime(2027, 1, 31, 6, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("aws,us-east-1,p5.48xlarge,,", "'count' is empty"),
        ("aws,us-east-1,p5.48xlarge,0,", "'count' is 0: write 1 or more"),
        ("aws,us-east-1,p5.48xlarge,1.5,", "'count' is '1.5': write a whole number of instances"),
        ("aws,us-east-1,p5.48xlarge,two,", "'count' is 'two': write a number"),
        ("aws,us-east-1,p5.48xlarge,1e6,", "'count' is '1e6': write a whole number of instances"),
        ("aws,us-east-1,,2,", "'instance_type' is empty"),
        ("gpc,us-east-1,x,2,", "'cloud' holds an unknown cloud 'gpc' (did you mean 'gcp'?)"),
        (
            "aws,us-east-1,p5.48xlarge,2,soon",
            "'until' is 'soon': write a date such as 2027-01-31 or 2027-01-31T08:00:00Z",
        ),
        (
            "aws,us-east-1,p5.48xlarge,2,2027-01-31T08:00",
            "'until' is '2027-01-31T08:00': add Z or an offset such as +01:00",
        ),
        ("aws,us-east-1,p5.48xlarge,2", "4 cells where the header has 5"),
    ],
)
def test_each_fault_is_a_line(tmp_path, line, said):
    with pytest.raises(InputError) as caught:
        read(tmp_path, "aws,,g6.xlarge,1,", line)
    assert list(caught.value.problems) == [f"{tmp_path}/owned.csv:3: {said}"]


def test_idle_instances_cost_nothing_or_more(tmp_path):
    with pytest.raises(InputError, match="'hourly_if_idle' is -1: write 0 or more"):
        read(tmp_path, "aws,,g6.xlarge,1,,-1", header=f"{HEADER},hourly_if_idle")
    with pytest.raises(InputError, match=r"unknown column 'hourly_idle' \(did you mean"):
        read(tmp_path, "aws,,g6.xlarge,1,,1", header=f"{HEADER},hourly_idle")
