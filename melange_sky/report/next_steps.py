"""What a user can do with a plan that was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.rendering import controller_note, launch_command

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.plans import Plan


def next_steps_text(planned: Plan, folder: Path) -> str:
    """Return how the services in `folder` are brought up, a line each, and what the controller costs."""
    if not planned.is_deployable:
        return f"Wrote {folder}/plan.json; its options have no offers, so there are no services\n"
    commands = [
        f"  {launch_command(model, allocation, f'{folder}/')}"
        for model in planned.models
        for allocation in model.allocations
        if allocation.candidate.option.offer is not None
    ]
    head = (
        f"Wrote {folder}/plan.json and one service per line here; bring them up with "
        f"`melange-sky apply {folder}`, or:"
    )
    lines = [head, *commands, controller_note()]
    return "".join(f"{line}\n" for line in lines)
