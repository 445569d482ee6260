"""`plan.json`: the plan on disk, written and read back without loss.

The document holds all that rendering, simulating, explaining and reporting need. Every number's
origin stands beside it: price (source, as-of), capacity (origin per cell), solver (status, gap).
"""

from melange_sky.planfile.read import load_plan, parse_plan
from melange_sky.planfile.write import allocation_origin, dump_plan, plan_document

__all__ = ["allocation_origin", "dump_plan", "load_plan", "parse_plan", "plan_document"]
