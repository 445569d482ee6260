"""Print how vLLM itself reads server commands: one JSON line per list of words on standard input.

Run by the interpreter of the vLLM environment. Each line is the configuration of the parallelism that
vLLM's own parser and checks make of the words after `vllm serve`, or {"error": …} where they refuse.
"""

from __future__ import annotations

import json
import sys
from typing import Any

WANTED = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "data_parallel_size_local",
    "data_parallel_rank",
    "data_parallel_master_ip",
    "enable_expert_parallel",
    "nnodes",
    "node_rank",
    "master_addr",
    "world_size",
    "local_world_size",
    "nnodes_within_dp",
    "is_moe_model",
)


def read(words: list[str]) -> dict[str, Any]:
    from vllm import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    taken = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
    validate_parsed_serve_args(taken)
    taken.model = taken.model_tag
    made = AsyncEngineArgs.from_cli_args(taken).create_engine_config(headless=taken.headless)
    parallel = made.parallel_config
    return {name: getattr(parallel, name) for name in WANTED} | {"headless": taken.headless}


def main() -> None:
    for words in json.load(sys.stdin):
        try:
            answer = read(words)
        except (ValueError, SystemExit, AssertionError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print("READ", json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
