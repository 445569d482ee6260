"""The end of `make bench`: one table (ours, rival, limit, ratios) and one picture of how things grow.

Writes build/bench/table.md and build/bench/growth.svg from the rows that the scripts noted, and names the
scripts that were cut off or failed. With `--start` it clears the rows of an earlier run instead.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from table import FOLDER, ROWS, Beside, Figure, Growth, over, rows, shown


def beside(figure: Figure, other: Beside | None) -> str:
    """Return what stands beside a figure, with the ratio that says how much better ours is."""
    if other is None:
        return ""
    if other.value is None:
        return f"{other.name}: {other.note or 'not had'}"
    ratio = None if figure.ours is None else over(figure.ours, other)
    told = "" if ratio is None else f" ({ratio:.3g} ×)"
    return f"{other.name} {shown(other.value, figure.unit)}{told}"


def markdown(figures: list[Figure], series: list[Growth]) -> str:
    """Return the whole table; ratios are ours ÷ theirs."""
    lines = [
        "| script | figure | ours | rival (ours ÷ it) | limit (ours ÷ it) | target | |",
        "|---|---|---|---|---|---|---|",
    ]
    for f in figures:
        verdict = {None: "", True: "met", False: "**missed**"}[f.met]
        cells = (f.script, f.what, shown(f.ours, f.unit), beside(f, f.rival), beside(f, f.limit))
        lines.append("| " + " | ".join((*cells, f.target, f"{verdict} {f.note}".strip())) + " |")
    lines += ["", "| script | what | grows with | as its power of | at |", "|---|---|---|---|---|"]
    for g in series:
        power = "–" if g.exponent is None else f"{g.exponent:.2f}"
        at = ", ".join(f"{n:g}: {shown(v, g.unit)}" for n, v in zip(g.sizes, g.values, strict=True))
        lines.append(f"| {g.script} | {g.what} | {g.over} | {power} | {at} |")
    return "\n".join(lines) + "\n"


def ended_early(cut: Sequence[str], failed: Sequence[str]) -> str:
    """Return what to say of scripts of which rows may be missing."""
    told = (("Cut off, later rows are missing", cut), ("Failed", failed))
    lines = [
        f"{what}: {', '.join(Path(one).stem for one in which)}." for what, which in told if which
    ]
    return "".join(f"\n{line}\n" for line in lines)


def draw(series: list[Growth]) -> None:
    """Draw every series on logarithmic axes, a panel for each thing that grows."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "bench"
    from matplotlib import pyplot as plt

    kinds = list(dict.fromkeys(g.over for g in series))
    across = min(3, len(kinds))
    down = math.ceil(len(kinds) / across)
    figure, axes = plt.subplots(down, across, figsize=(4.6 * across, 3.4 * down), squeeze=False)
    for at, axis in enumerate(axes.flat):
        axis.set_visible(at < len(kinds))
        if at >= len(kinds):
            continue
        for g in (g for g in series if g.over == kinds[at]):
            known = [(n, v) for n, v in zip(g.sizes, g.values, strict=True) if v]
            if not known:
                continue
            power = "" if g.exponent is None else f" ^{g.exponent:.2f}"
            axis.plot(*zip(*known, strict=True), marker="o", label=f"{g.what} [{g.unit}]{power}")
        axis.set(xscale="log", yscale="log", xlabel=kinds[at])
        axis.grid(visible=True, which="both", alpha=0.2)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(FOLDER / "growth.svg", metadata={"Date": None})


def main() -> None:
    """Clear the rows, or write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--cut", nargs="*", default=[])
    parser.add_argument("--failed", nargs="*", default=[])
    asked = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if asked.start:
        ROWS.write_text("", encoding="utf-8")
        return
    every = rows()
    figures = [row for row in every if isinstance(row, Figure)]
    series = [row for row in every if isinstance(row, Growth)]
    text = markdown(figures, series) + ended_early(asked.cut, asked.failed)
    (FOLDER / "table.md").write_text(text, encoding="utf-8")
    print(text)
    if series:
        draw(series)
        print("drawn to build/bench/growth.svg")


if __name__ == "__main__":
    main()
