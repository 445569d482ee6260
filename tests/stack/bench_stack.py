"""How closely two profiles of a real vLLM server agree, and with `vllm bench serve`, and how far the
engine model fitted on a few probes is off at other sizes and rates; how far a fleet of two servers is
from its simulation; how near its own metrics come to its measured knee; what keeping chats at their server is worth. Figures only.

Run by `make bench-stack` on an idle machine; aims: rates within 15 %, latencies within 10 %, the
engine model's median error 25 %, the fleet's attainments and median TPOTs within 25 %, hits within 3 points, chats that are kept served sooner.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from melange_sky.gateway import Affinity
from tests.stack import chat_fleet, engine_fit, learnt_knee, profiling, real_fleet
from tests.stack.vllm_server import make_model, vllm_server


def bench_engine_model(url: str) -> None:
    began = time.monotonic()
    _, predictions = engine_fit.fit_and_predict(url)
    for prediction in predictions:
        print(prediction)
    print(
        f"engine model: median error {engine_fit.median_error(predictions):.0%} (aim 25 %), worst "
        f"factor {engine_fit.worst_factor(predictions):.2f}, {time.monotonic() - began:.0f} s"
    )


def bench_fleet(work: Path) -> None:
    began = time.monotonic()
    outcome = real_fleet.run(work)
    print(outcome)
    print(f"fleet of two servers: {time.monotonic() - began:.0f} s (aim 25 % on each figure)")


def bench_chats(work: Path) -> None:
    began = time.monotonic()
    chats = chat_fleet.Chats(
        chats=48, turns=5, live=8, think_s=0.9, blocks=260, message_tokens=(150, 350)
    )
    with chat_fleet.two_servers(work, chats.blocks, layers=12) as urls:
        replica = chat_fleet.fitted(urls[0], chats)
        seen = {
            how: chat_fleet.hits(urls, chats, replica, how)
            for how in (Affinity.SESSION, Affinity.OFF)
        }
    for how, told in seen.items():
        print(f"affinity {how.value}: {told}")
    sooner = seen[Affinity.OFF].ttft_s / seen[Affinity.SESSION].ttft_s
    print(
        f"kept chats' later turns begin {sooner:.2f} × as soon (aim above 1), "
        f"{time.monotonic() - began:.0f} s"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        bench_fleet(work)
        bench_chats(work / "chats")
        make_model(work / "tiny")
        began = time.monotonic()
        with vllm_server(work / "tiny", work / "vllm.log") as url:
            print(f"server ready after {time.monotonic() - began:.0f} s")
            bench_engine_model(url)
            print(learnt_knee.run(url, work))
            documents = []
            for seed in (0, 100):
                began = time.monotonic()
                flags = ["--seed", str(seed), "--max-requests", "600", "--tolerance", "0.1"]
                if seed:
                    flags += profiling.bench_flags(work / "tiny")
                documents.append(profiling.run(url, work / str(seed), *flags))
                print(f"profile with seed {seed}: {time.monotonic() - began:.0f} s")
        one, two = map(profiling.rates, documents)
        apart = {s: abs(two[s] / one[s] - 1) for s in sorted(one) if s in two}
        for size, off in apart.items():
            print(
                f"input {size[0]:4} output {size[1]:3}: {one[size]:7.1f} {two[size]:7.1f} req/s, {off:.0%} apart"
            )
        print(
            f"median {statistics.median(apart.values()):.0%}, worst {max(apart.values()):.0%} apart"
        )
        check = documents[1]["cross_check"]
        for what in ("ttft_ms", "tpot_ms"):
            print(f"median {what}: {check[what]:.2f}, vllm bench {check['bench_' + what]:.2f}")


if __name__ == "__main__":
    main()
