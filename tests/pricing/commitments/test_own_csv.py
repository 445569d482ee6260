"""A file of negotiated terms: what it may say, and one clear line for each thing that it may not."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from melange_sky.errors import InputError
from melange_sky.pricing.commitments.own_csv import COLUMNS, read_own_terms
from tests.pricing.commitments.rows import NOW

HEADER = ",".join(COLUMNS)
GOOD = {
    "cloud": "aws",
    "region": "us-east-1",
    "instance_type": "p5.48xlarge",
    "term_months": "12",
    "usd_per_hour": "31.2",
    "upfront_usd": "0",
    "kind": "instance",
    "source": "offer 4711",
    "as_of": "2026-11-20",
}


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def table(*rows: dict[str, str]) -> str:
    columns = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
    lines = [",".join(columns)]
    lines += [",".join((GOOD | row).get(name, "") for name in columns) for row in rows]
    return "\n".join(lines) + "\n"


def problems(tmp_path: Path, text: str | bytes) -> list[str]:
    path = write(tmp_path / "my.csv", text)
    with pytest.raises(InputError) as caught:
        read_own_terms(path, NOW)
    return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_what_a_file_says(tmp_path):
    text = "# ours\n" + table(
        {},
        {"cloud": "k8s", "region": "", "instance_type": "node", "upfront_usd": "", "source": ""},
        {"kind": "spend", "region": "", "upfront_usd": "8760", "as_of": ""},
        {
            "term_months": "",
            "starts": "2026-12-01",
            "ends": "2026-12-14",
            "instance_type": "p4d.24xlarge",
        },
        {"term_months": "", "term_days": "1", "longest_days": "182", "usd_per_hour": "14.75"},
    )
    rows, digest = read_own_terms(write(tmp_path / "my.csv", text.replace("\n", "\r\n")), NOW)
    assert len(digest) == 12
    assert all(row.is_own for row in rows)
    plain, cluster, spend, block, days = rows
    assert (plain.term_hours, plain.usd_per_hour, plain.as_of) == (8760, 31.2, "2026-11-20")
    assert (cluster.cloud, cluster.region, cluster.source) == ("kubernetes", "", "my.csv")
    assert (spend.pool, spend.all_in_usd_per_hour) == (
        "aws spend of offer 4711, 1 year",
        pytest.approx(32.2),
    )
    assert (spend.as_of, spend.upfront_usd) == (None, 8760)
    assert block.term_hours == 14 * 24, "the last day counts whole"
    assert block.starts == datetime(2026, 12, 1, tzinfo=timezone.utc)
    assert block.ends == datetime(2026, 12, 15, tzinfo=timezone.utc)
    assert (days.term_hours, days.longest_hours) == (24, 182 * 24)


def test_moments_carry_their_offset(tmp_path):
    window = {"starts": "2026-12-01T11:30:00+02:00", "ends": "2026-12-03T09:30:00Z"}
    rows, _ = read_own_terms(write(tmp_path / "my.csv", table({**window, "term_months": ""})), NOW)
    assert rows[0].term_hours == 48


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"cloud": ""}, "'cloud' is empty"),
        ({"cloud": "awss"}, "'cloud' holds an unknown cloud 'awss' (did you mean 'aws'?)"),
        ({"cloud": "amazon"}, "'cloud' holds an unknown cloud 'amazon' (did you mean 'aws'?)"),
        ({"instance_type": " "}, "'instance_type' is empty"),
        ({"term_months": ""}, "'term_months' is empty: write the term in months, 12 for a year"),
        ({"term_months": "1y"}, "'term_months' is '1y': write a number"),
        ({"term_months": "-12"}, "'term_months' is -12: write 0.00136986 or more"),
        ({"term_months": "8760"}, "'term_months' is 8760, over 120: write months"),
        (
            {"term_days": "7"},
            "'term_days' stands beside 'term_months': write one of them",
        ),
        ({"usd_per_hour": ""}, "'usd_per_hour' is empty"),
        ({"usd_per_hour": "$31"}, "'usd_per_hour' is '$31': write a number"),
        ({"usd_per_hour": "1e999"}, "'usd_per_hour' is '1e999': write a number"),
        ({"usd_per_hour": "-3"}, "'usd_per_hour' is -3: write 0 or more"),
        (
            {"usd_per_hour": "0"},
            "'usd_per_hour' and 'upfront_usd' are 0: what is paid already goes to --owned",
        ),
        ({"upfront_usd": "-1"}, "'upfront_usd' is -1: write 0 or more"),
        ({"kind": ""}, "'kind' is empty"),
        ({"kind": "spned"}, "'kind' is 'spned' (did you mean 'spend'?): write instance or spend"),
        ({"pool": "x"}, "'pool' is for rows whose 'kind' is spend: leave it empty"),
        (
            {"as_of": "20.11.2026"},
            "'as_of' is '20.11.2026': write a date such as 2027-01-31 or 2027-01-31T08:00:00Z",
        ),
        (
            {"as_of": "2026-13-01"},
            "'as_of' is '2026-13-01': write a date such as 2027-01-31 or 2027-01-31T08:00:00Z",
        ),
        ({"as_of": "2027-11-20"}, "'as_of' is 2027-11-20, which is still to come"),
        ({"starts": "2026-12-01"}, "'ends' is empty beside 'starts': write both, or none"),
        ({"ends": "2026-12-01"}, "'starts' is empty beside 'ends': write both, or none"),
        (
            {"starts": "2026-12-01T00:00:00", "ends": "2026-12-09"},
            "'starts' is '2026-12-01T00:00:00': add Z or an offset such as +01:00",
        ),
        (
            {"starts": "2026-12-09", "ends": "2026-12-01"},
            "'ends' does not lie after 'starts'",
        ),
        (
            {"starts": "2026-12-01", "ends": "2026-12-14"},
            "'term_months' says 1 year, but 'starts' to 'ends' are 14 days",
        ),
        (
            {"term_months": "", "term_days": "7", "longest_days": "3"},
            "'longest_days' is shorter than the term of 7 days",
        ),
        ({"currency": "EUR"}, "its prices are in 'EUR' (column 'currency'), not in USD"),
        ({"unit": "month"}, "its prices are per 'month' (column 'unit'), not per hour"),
    ],
)
def test_each_fault_is_a_line(tmp_path, over, said):
    assert problems(tmp_path, table({}, {"region": "us-west-2", **over})) == [f"my.csv:3: {said}"]


def test_all_faults_are_told_at_once(tmp_path):
    said = problems(tmp_path, table({"kind": "x"}, {}, {"cloud": "aws", "usd_per_hour": "no"}))
    assert [line.partition(": ")[0] for line in said] == ["my.csv:2", "my.csv:4"]
    many = problems(tmp_path, table(*({"kind": "x"} for _ in range(25))))
    assert len(many) == 21
    assert many[-1] == "my.csv: 5 more rows cannot be used"


def test_the_same_term_twice(tmp_path):
    said = problems(tmp_path, table({}, {"usd_per_hour": "29"}))
    assert said == [
        "my.csv:3: 'instance_type' says p5.48xlarge for 1 year again, as "
        f"{tmp_path}/my.csv:2 does: keep one of them".replace(f"{tmp_path}/", "")
    ]
    two_ways = table({}, {"usd_per_hour": "0", "upfront_usd": "250000"})
    rows, _ = read_own_terms(write(tmp_path / "my.csv", two_ways), NOW)
    assert len(rows) == 2, "another way to pay is another term"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "my.csv lacks the column 'cloud'; needed: "),
        (
            HEADER.replace("upfront_usd", "upfront") + "\n",
            "my.csv lacks the column 'upfront_usd' (did you mean 'upfront'?); needed: ",
        ),
        (HEADER + "\n", "my.csv holds no rows: it needs at least one under its header"),
        (HEADER + ",start\n", "my.csv: unknown column 'start' (did you mean 'starts'?)"),
        (HEADER + ",kind\n", "my.csv: the column 'kind' is there twice"),
        (HEADER + '\naws,"us\n', "my.csv is not CSV: "),
        (HEADER.encode() + b"\n\xff\xfe", "my.csv is not UTF-8 text (byte "),
        (HEADER + "\naws,us-east-1,p5.48xlarge\n", "my.csv:2: 3 cells where the header has 9"),
        (
            HEADER + "\naws,us-east-1,p5.48xlarge,12,31,2,0,instance,x,2026-11-20\n",
            "my.csv:2: 10 cells where the header has 9",
        ),
    ],
)
def test_what_is_no_such_file(tmp_path, text, said):
    found = problems(tmp_path, text)
    assert found[0].startswith(said), found


def test_files_that_cannot_be_read(tmp_path):
    for path, said in (
        (tmp_path / "none.csv", "cannot read"),
        (tmp_path, "is a folder; a CSV file belongs there"),
    ):
        with pytest.raises(InputError, match=said):
            read_own_terms(path, NOW)
    with pytest.raises(InputError, match="larger than 4 MiB"):
        read_own_terms(write(tmp_path / "big.csv", b"x" * (4 * 2**20 + 1)), NOW)


def test_clouds_of_one_s_own_offers_may_be_named(tmp_path):
    path = write(tmp_path / "my.csv", table({"cloud": "basement"}))
    with pytest.raises(InputError, match="unknown cloud 'basement'"):
        read_own_terms(path, NOW)
    rows, _ = read_own_terms(path, NOW, {"basement"})
    assert rows[0].cloud == "basement"
