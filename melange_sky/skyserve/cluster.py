"""What SkyPilot sees of a Kubernetes cluster, asked in a process of its own.

Run as ``python -m melange_sky.skyserve.cluster [CONTEXT]``: the nodes as JSON on the last line of stdout. The
question goes to SkyPilot's API server, as that of `sky gpus list --infra k8s` does, which starts a local one
where none runs.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from melange_sky import settings
from melange_sky.errors import SourceUnavailableError
from melange_sky.offers import OFFER_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

DEADLINE_S = 90.0
_MARK = "NODES "


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeShare:
    """So many GPUs of a kind of node, as one replica may ask for, and how many of these fit in all nodes.

    `vcpus` and `memory_gib` are the share of the node's own, None where not known. `usd_per_hour` is what
    SkyPilot's own configuration (`kubernetes.pricing`) says, None where it says nothing.
    """

    context: str
    accelerator: str
    count: int
    vcpus: float | None
    memory_gib: float | None
    fit: int
    usd_per_hour: float | None


def ask_cluster(context: str | None) -> tuple[NodeShare, ...]:
    """Return the shares of the nodes of a context, None for the current one.

    Raises SourceUnavailableError where SkyPilot cannot be asked or cannot see the cluster.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "melange_sky.skyserve.cluster", *([context] if context else [])],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env=settings.for_sky(),
        )
    except subprocess.TimeoutExpired:
        raise SourceUnavailableError(
            f"SkyPilot did not say within {DEADLINE_S:g} s what it sees in the cluster"
        ) from None
    name = context or "the current context"
    if done.returncode != 0 or _MARK not in done.stdout:
        errors = [line for line in done.stderr.splitlines() if "Error" in line.partition(":")[0]]
        said = " ".join((errors or [done.stderr])[-1].split())[:300] or "no answer"
        raise SourceUnavailableError(f"SkyPilot cannot see the cluster of {name}: {said}")
    answer = json.loads(done.stdout.rpartition(_MARK)[2])
    shares = node_shares(answer["nodes"], answer["pricing"], context or answer["context"] or "")
    if not shares:
        hint = " ".join(str(answer.get("hint") or "").split())[:300]
        raise SourceUnavailableError(
            f"SkyPilot sees no GPU in the cluster of {name}: {hint or 'no ready node has one'}"
        )
    return shares


def node_shares(
    nodes: Iterable[Mapping[str, Any]], pricing: Mapping[str, Any] | None, context: str
) -> tuple[NodeShare, ...]:
    """Return what replicas can ask of ready nodes: 1, 2, 4 … GPUs of each kind, up to all of a node.

    Of nodes that differ in their host the smallest share counts, since a replica may land on any.
    """
    rates = {str(k).casefold(): v for k, v in ((pricing or {}).get("accelerators") or {}).items()}
    found: dict[tuple[str, int], list[NodeShare]] = {}
    for node in nodes:
        name, total = node.get("accelerator_type"), _gpus(node)
        if not name or not total or not node.get("is_ready", True) or node.get("is_cordoned"):
            continue
        rate = rates.get(str(name).casefold())
        for count in sorted({2**i for i in range(10) if 2**i <= total} | {total}):
            share = NodeShare(
                context=context,
                accelerator=str(name),
                count=count,
                vcpus=_part(node.get("cpu_count"), count / total),
                memory_gib=_part(node.get("memory_gb"), count / total),
                fit=total // count,
                usd_per_hour=None if rate is None else rate * count,
            )
            found.setdefault((share.accelerator, count), []).append(share)
    return tuple(_together(found[key]) for key in sorted(found))


def cluster_csv(shares: Sequence[NodeShare]) -> str:
    """Return a cluster's shares as a CSV of one's own offers, with what to do on top."""
    most = {s.accelerator: s.fit for s in shares if s.count == 1}
    limits = ", ".join(f"{name}: {fit}" for name, fit in most.items())
    head = [
        "# What SkyPilot sees in the cluster. Fill in price_usd_per_hour: what such a part of a node costs you per",
        "# hour, all its GPUs together; rows without a price are left out of plans. Then, in the spec:",
        f"#   offers: THIS-FILE and resources: {{limits: {{{limits}}}}}, the GPUs that there are.",
        "# What is paid whether used or not belongs under resources.fixed, besides.",
    ]
    out = io.StringIO()
    columns = (*OFFER_COLUMNS, "vcpus", "memory_gib", "source")
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for share in shares:
        row = {
            "cloud": "kubernetes",
            "region": share.context,
            "instance_type": f"{share.accelerator.lower()}-{share.count}",
            "accelerator": share.accelerator,
            "accelerator_count": share.count,
            "price_usd_per_hour": share.usd_per_hour,
            "vcpus": share.vcpus,
            "memory_gib": share.memory_gib,
            "source": "own cluster",
        }
        writer.writerow({key: "" if value is None else value for key, value in row.items()})
    return "\n".join(head) + "\n" + out.getvalue()


def _together(shares: list[NodeShare]) -> NodeShare:
    def least(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return min(known) if len(known) == len(values) else None

    return dataclasses.replace(
        shares[0],
        vcpus=least([s.vcpus for s in shares]),
        memory_gib=least([s.memory_gib for s in shares]),
        fit=sum(s.fit for s in shares),
    )


def _gpus(node: Mapping[str, Any]) -> int:
    total = node.get("total") or {}
    return int(total.get("accelerator_count") or 0)


def _part(whole: float | None, fraction: float) -> float | None:
    """Return a share of the node rounded down, with a tenth left to what runs on every node."""
    return None if not whole else float(int(0.9 * whole * fraction))


def main() -> None:
    """Print the nodes of the context named on the command line."""
    import sky
    from sky import skypilot_config
    from sky.client import sdk

    context = sys.argv[1] if len(sys.argv) > 1 else None
    info = sky.get(sdk.kubernetes_node_info(context))
    answer = {
        "nodes": [dataclasses.asdict(node) for node in info.node_info_dict.values()],
        "hint": info.hint,
        "pricing": skypilot_config.get_nested(("kubernetes", "pricing"), None),
        "context": context,
    }
    sys.stdout.write(f"\n{_MARK}{json.dumps(answer)}\n")


if __name__ == "__main__":
    main()
