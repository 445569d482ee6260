"""The ledger of published runs: every row is read, and a wrong one is told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from melange_sky.errors import InputError
from melange_sky.resources import profiling_dir
from tests.scripts import script

ledger = script("ledger")

MINE = """# source: my own bench
# licence: mine
id,model,quantization,accelerator,tp,pp,engine,version,flags,host,load,requests,concurrency,\
input_tokens,input_p50,output_tokens,output_p50,rate_rps,ttft_s,tpot_s,left_out
"""
ROW = "mine-1,Qwen/Qwen3-8B,bf16,L4,1,1,vllm,0.24.0,--max-num-seqs 64,,closed,100,8,512,512,128,128,1.5,,0.04,\n"


def test_every_run_names_its_source_licence_and_a_model_that_can_be_read() -> None:
    runs = ledger.read_ledger()
    assert len({run.id for run in runs}) == len(runs)
    assert all(run.source and run.licence for run in runs)
    for name in {run.model for run in runs}:
        (one, *_) = (run for run in runs if run.model == name)
        assert one.shape.parameters > 1e9, name


def test_what_is_held_out_is_not_in_it() -> None:
    files = [*Path(profiling_dir(), "ledger").glob("*.csv")]
    text = " ".join(file.read_text(encoding="utf-8").casefold() for file in files)
    assert not [word for word in ("mlperf", "kubeai", "vllm-project/vllm") if word in text]


def test_a_run_of_ones_own_is_one_line(tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text(MINE + ROW, encoding="utf-8")
    run = ledger.read_ledger([mine])[-1]
    assert (run.id, run.source, run.ttft_s, run.tpot_s) == ("mine-1", "my own bench", None, 0.04)
    assert run.flag_values == {"--max-num-seqs": "64"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (MINE + ROW.replace("1.5", "fast"), "mine.csv line 4, rate_rps: 'fast' is not a number"),
        (MINE + ROW.replace("1.5", "-1"), "mine.csv line 4, rate_rps: must be above 0, not -1"),
        (
            MINE + ROW.replace("closed", "often"),
            "load: 'often' is none of burst, closed, open, batch",
        ),
        (MINE.replace("# licence: mine\n", "") + ROW, "no line '# licence: …' above the columns"),
        (MINE.replace(",tpot_s", "") + ROW, "columns missing: tpot_s"),
    ],
)
def test_a_wrong_row_is_told_with_file_line_and_column(
    tmp_path: Path, text: str, told: str
) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        ledger.read_ledger([mine])
    assert told in str(caught.value)


def test_drawn_sizes_keep_mean_and_order_of_spread() -> None:
    (run, *_) = (r for r in ledger.read_ledger() if r.id == "gpustack-183")
    inputs, outputs = run.sizes()
    assert len(inputs) == len(outputs) == run.requests
    assert inputs.mean() == pytest.approx(run.input_tokens, rel=0.02)
    assert outputs.mean() == pytest.approx(run.output_tokens, rel=0.02)
    assert outputs.max() < 6 * outputs.mean()
