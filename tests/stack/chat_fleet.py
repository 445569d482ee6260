"""Chats through the gateway to two real vLLM servers with prefix caches: hits predicted, then measured.

Every chat begins with the same system prompt; each turn sends the history with the server's own answers and
waits for its answer before the next. The servers' caches hold a few chats each, so that much is given up
between turns. The simulator gets what a gateway's log tells: arrivals, sizes and who belongs to which chat;
nothing of the text, and nothing of where a request went.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from melange_sky.gateway import (
    Affinity,
    Credentials,
    Gateway,
    Keys,
    Listen,
    Secret,
    Settings,
    Sources,
)
from melange_sky.plans import Allocation, ModelPlan, Plan
from melange_sky.prefixes import paths_of_sessions
from melange_sky.routing import routing_state, routing_table, session_homes
from melange_sky.simulator import RequestStream, fit_replica
from melange_sky.simulator.fleet import FleetOption, simulate_planned_fleet
from melange_sky.steps import KvPool, ReplicaModel
from tests.factories import make_capacity, make_engine, make_option, make_plan, make_workload
from tests.stack.engine_fit import START, Point, Prober
from tests.stack.tiny_model import VOCABULARY
from tests.stack.vllm_server import make_model, vllm_server

BLOCK_TOKENS = 32
"""The fewest that vLLM's attention on the CPU takes."""

FLAGS = (
    "--block-size",
    str(BLOCK_TOKENS),
    "--enable-prefix-caching",
    "--enable-prompt-tokens-details",
    "--max-num-seqs",
    "8",
)
SEEDS = 16
FITTED = (
    Point(input_tokens=32, output_tokens=48, load=0.6, requests=8),
    Point(input_tokens=768, output_tokens=48, load=0.6, requests=8),
    Point(input_tokens=192, output_tokens=96, load=1.5, requests=10),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chats:
    """What is sent: so many chats of so many turns, at most `live` of them at once. Sizes in tokens."""

    chats: int
    turns: int
    live: int
    system_tokens: int = 64
    message_tokens: tuple[int, int] = (40, 160)
    answer_tokens: tuple[int, int] = (12, 28)
    think_s: float = 0.1
    blocks: int = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request as it was seen: times in seconds from the start, sizes and hits in tokens."""

    chat: int
    sent_s: float
    ttft_s: float
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """Part of all prompt tokens found in a cache, as predicted and as the servers report it."""

    predicted: float
    measured: float
    ttft_s: float
    moved: float

    def __str__(self) -> str:
        return (
            f"hits {self.predicted:.1%} predicted, {self.measured:.1%} measured; median TTFT of later "
            f"turns {self.ttft_s * 1e3:.1f} ms; {self.moved:.0%} of them at another server than before"
        )


@contextlib.contextmanager
def two_servers(work: Path, blocks: int, layers: int = 2) -> Iterator[list[str]]:
    """Start two like servers side by side and yield their addresses."""
    work.mkdir(parents=True, exist_ok=True)
    make_model(work / "tiny", layers)
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        names = ("one", "two")
        flags = (*FLAGS, "--num-gpu-blocks-override", str(blocks))
        servers = [
            vllm_server(
                work / "tiny", work / f"{name}.log", "--served-model-name", name, "tiny", *flags
            )
            for name in names
        ]
        urls = list(pool.map(lambda server: server.__enter__(), servers))
        for server in servers:
            stack.push(server.__exit__)
        yield urls


def plan() -> Plan:
    """Return a plan of two replicas of one option, of which neither is ever full."""
    option = make_option("cpu", engine=make_engine(max_num_seqs=8, max_model_len=2048))
    allocation = Allocation(
        candidate=make_capacity([[50.0]], option),
        instances=2,
        load_fraction=0.2,
        rate_rps=20.0,
        shares=((1.0,),),
    )
    workload = make_workload([[20.0]], input_edges=(0, 2048), output_edges=(0, 256))
    return make_plan(model="tiny", workload=workload, allocations=(allocation,), baselines=())


async def _turn(
    client: aiohttp.ClientSession, url: str, chat: int, body: Mapping[str, Any], start_s: float
) -> tuple[Turn, list[int]]:
    clock = asyncio.get_running_loop().time
    sent_s = clock()
    headers = {"X-Session-Id": f"chat {chat}"}
    async with client.post(f"{url}/v1/completions", json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        first_s, answer, usage, server = 0.0, list[int](), dict[str, Any](), ""
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line.removeprefix(b"data: "))
            server, usage = event["model"], event.get("usage") or usage
            for choice in event["choices"]:
                first_s = first_s or clock()
                answer += choice["token_ids"]
    details = usage.get("prompt_tokens_details") or {}
    turn = Turn(
        chat=chat,
        sent_s=sent_s - start_s,
        ttft_s=first_s - sent_s,
        input_tokens=usage["prompt_tokens"],
        output_tokens=usage["completion_tokens"],
        cached_tokens=details.get("cached_tokens") or 0,
        server=server,
    )
    return turn, answer


async def _send(url: str, chats: Chats, salt: str) -> list[Turn]:
    """Hold the chats through one endpoint; the texts are the same whatever the salt."""
    rng = random.Random(11)
    system = [rng.randrange(3, VOCABULARY) for _ in range(chats.system_tokens)]
    seats, seen = asyncio.Semaphore(chats.live), list[Turn]()
    start_s = asyncio.get_running_loop().time()
    connector = aiohttp.TCPConnector(limit=0)

    async def chat(number: int, client: aiohttp.ClientSession) -> None:
        own = random.Random(number)
        async with seats:
            history = list(system)
            for _ in range(chats.turns):
                message = own.randint(*chats.message_tokens)
                history += [own.randrange(3, VOCABULARY) for _ in range(message)]
                length = own.randint(*chats.answer_tokens)
                body = {
                    "model": "tiny",
                    "prompt": history,
                    "max_tokens": length,
                    "min_tokens": length,
                    "ignore_eos": True,
                    "temperature": 0,
                    "return_token_ids": True,
                    "cache_salt": salt,
                    "stream": True,
                    "stream_options": {"include_usage": True},
                }
                turn, answer = await _turn(client, url, number, body, start_s)
                seen.append(turn)
                history += answer
                await asyncio.sleep(own.expovariate(1 / chats.think_s))

    async with aiohttp.ClientSession(connector=connector) as client:
        await asyncio.gather(*(chat(n, client) for n in range(chats.chats)))
    return sorted(seen, key=lambda turn: turn.sent_s)


async def _through_gateway(urls: Sequence[str], chats: Chats, affinity: Affinity) -> list[Turn]:
    served = plan()
    gateway = Gateway(
        Sources(load_plan=lambda: served, discover=lambda: {"cpu": list(urls)}),
        Settings(affinity=affinity),
        Credentials(clients=Keys([]), replicas=Secret(None)),
        random.Random(5),
    )
    port = await gateway.start(Listen(port=0))
    try:
        return await _send(f"http://127.0.0.1:{port}", chats, affinity.value)
    finally:
        gateway.stop()
        await gateway.wait()


def predicted(
    served: ModelPlan,
    turns: Sequence[Turn],
    chats: Chats,
    replica: ReplicaModel,
    affinity: Affinity,
) -> float:
    """Return the part of prompt tokens that the simulated fleet finds; mean over the routing's phases."""
    session = np.array([turn.chat for turn in turns])
    inputs = np.array([turn.input_tokens for turn in turns])
    outputs = np.array([turn.output_tokens for turn in turns])
    paths = paths_of_sessions(
        session, inputs, outputs, chats.system_tokens, block_tokens=BLOCK_TOKENS
    )
    stream = RequestStream.of([turn.sent_s for turn in turns], inputs, outputs, paths)
    option = FleetOption(name="cpu", engine=replica, engines_per_replica=1, replicas=2)
    table, found = routing_table(served), []
    for seed in range(SEEDS):
        state = routing_state(table, served, random.Random(seed))
        homes = session_homes(served, table, state, [f"{seed}/{n}" for n in range(2)])
        kept = None if affinity is Affinity.OFF else homes
        run = simulate_planned_fleet([option], table, state, stream, homes=kept)
        assert run.found_tokens is not None
        found.append(float(run.found_tokens.sum()) / inputs.sum())
    return float(np.mean(found))


def fitted(url: str, chats: Chats) -> ReplicaModel:
    """Return a server as the simulator has it, from a few probes."""
    prober = Prober(url)
    logs = [prober.log(point, seed) for seed, point in enumerate(FITTED)]
    pool = KvPool(blocks=chats.blocks - 1, block_tokens=BLOCK_TOKENS)  # vLLM keeps one for itself
    start = dataclasses.replace(START, pool=pool, max_num_seqs=8)
    return fit_replica(start, logs)


def hits(urls: Sequence[str], chats: Chats, replica: ReplicaModel, affinity: Affinity) -> Hits:
    """Hold the chats through the real gateway, then predict what was found."""
    turns = asyncio.run(_through_gateway(urls, chats, affinity))
    measured = sum(turn.cached_tokens for turn in turns) / sum(turn.input_tokens for turn in turns)
    last: dict[int, str] = {}
    later, moved = list[float](), 0
    for turn in turns:
        if turn.chat in last:
            later.append(turn.ttft_s)
            moved += last[turn.chat] != turn.server
        last[turn.chat] = turn.server
    return Hits(
        predicted=predicted(plan().models[0], turns, chats, replica, affinity),
        measured=measured,
        ttft_s=float(np.median(later)),
        moved=moved / len(later),
    )
