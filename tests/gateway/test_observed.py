"""What a gateway saw goes back into `plan` as it was written."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import yaml

from melange_sky.errors import InputError
from melange_sky.planner.observed_file import ObservedFile
from melange_sky.spec.demand import load_distribution
from tests.cli.runner import ROOT, melange_sky
from tests.gateway.bed import MODEL, bed, run
from tests.gateway.replica import Replica


def test_the_observed_histogram_is_planned_at_its_rate_and_sizes(tmp_path: Path) -> None:
    file, rng = tmp_path / "observed.yaml", random.Random(4)
    observed = ObservedFile(file)
    sizes = [(60, 30), (700, 200), (1500, 90), (3000, 0)]
    seen = [(0.25 * n, *sizes[rng.randrange(4)]) for n in range(801)]
    for arrival_s, prompt, output in rng.sample(seen, len(seen)):  # they end in another order
        observed.add("chat", arrival_s, prompt, output)
    observed.write()

    spec = yaml.safe_load((ROOT / "examples" / "chat.yaml").read_text(encoding="utf-8"))
    spec |= yaml.safe_load(file.read_text(encoding="utf-8"))
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    done = melange_sky("plan", str(tmp_path / "again.yaml"), "--offline", "-o", str(tmp_path / "p"))
    assert done.returncode == 0, done.stderr
    workload = json.loads((tmp_path / "p" / "plan.json").read_text(encoding="utf-8"))["workload"]

    assert workload["rate_rps"] == pytest.approx(4.0)
    planned: dict[tuple[float, float], float] = {}
    for i, row in enumerate(workload["rates_rps"]):
        for j, rate in enumerate(row):
            if rate > 0:
                size = workload["input_sizes"][i][j], workload["output_sizes"][i][j]
                planned[size] = rate
    want = {
        (prompt, max(output, 1)): 4.0 * sum(s[1:] == (prompt, output) for s in seen) / len(seen)
        for prompt, output in sizes
    }
    assert planned == pytest.approx(want, rel=1e-6)


def test_several_models_get_a_file_each_and_nothing_seen_writes_none(tmp_path: Path) -> None:
    observed = ObservedFile(tmp_path / "seen.yaml")
    observed.write()
    assert list(tmp_path.iterdir()) == []
    for model in ("chat", "code"):
        for at in range(3):
            observed.add(model, at, 10, 10)
    observed.write()
    assert {p.name for p in tmp_path.iterdir()} == {"seen-chat.yaml", "seen-code.yaml"}
    for path in tmp_path.iterdir():
        assert yaml.safe_load(path.read_text())["workload"]["rate_rps"] == 1.0


def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "file"):
        with pytest.raises(InputError, match="--observed"):
            ObservedFile(path)


@run
async def test_what_chats_share_is_written_without_a_word_of_theirs(tmp_path: Path) -> None:
    file = tmp_path / "observed.yaml"
    observed = ObservedFile(file)
    replicas = {"small": [Replica("a")], "big": [Replica("b")]}
    async with bed(replicas, observed=observed) as b:
        for turn in range(4):
            for chat in range(5):
                history = [{"role": "system", "content": "SECRET system prompt. " * 40}]
                for k in range(turn + 1):
                    history.append({"role": "user", "content": f"SECRET {chat} {k} " * 30})
                    history.append({"role": "assistant", "content": f"SECRET answer {k} " * 30})
                body = {"model": MODEL, "messages": history[:-1], "max_tokens": 2}
                headers = {"X-Session-Id": f"SECRET-{chat}"}
                url = f"{b.url}/v1/chat/completions"
                async with b.client.post(url, json=body, headers=headers) as response:
                    assert response.status == 200
    observed.write()
    text = file.read_text(encoding="utf-8")
    assert "SECRET" not in text
    reuse = load_distribution(file).reuse
    assert reuse is not None
    assert 0.5 < reuse.infinite_hit < 0.9
    assert reuse.session_turns is not None and reuse.session_turns.mean == 4.0
    assert reuse.think_time_s is not None
    assert reuse.shared_prefix_tokens >= 1
    assert reuse.source == "observed by the gateway"
