"""The simulator's functions as machine code, for whoever simulates; import it only then.

Called from `kernel` and `dispatch` instead they do the same, a hundred times slower. What estimates of capacities
need is made apart, in a third of the time: a plan needs nothing else.
"""

from melange_sky.simulator import dispatch, kernel
from melange_sky.simulator.native import Program

_ALIKE = Program(kernel.run_alike)
_PROGRAM = Program(
    kernel.set_requests,
    kernel.enter,
    kernel.advance_all,
    kernel.run_open_loop,
    kernel.run_closed_loop,
    dispatch.run,
    dispatch.run_part,
)
(run_alike,) = _ALIKE.entries()
set_requests, enter, advance_all, run_open_loop, run_closed_loop, run, run_part = _PROGRAM.entries()


def make() -> None:
    """Make the code now, rather than on the first call."""
    _ALIKE.make()
    _PROGRAM.make()
