"""Plain text in aligned columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def aligned(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> str:
    """Return the rows as lines, each column as wide as its widest cell but for the last.

    `right` are the columns that are aligned to the right.

    >>> aligned([("GPU", "$/h", ""), ("L4", "0.7", "spot")], right=(1,))
    'GPU  $/h\\nL4   0.7  spot\\n'
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return "".join(f"{line}\n" for line in lines)
