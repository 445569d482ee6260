"""The simulator's functions as machine code, for whoever simulates; import it only then.

Called from `kernel` and `dispatch` instead they do the same, a hundred times slower.
"""

from melange_sky.simulator import dispatch, kernel
from melange_sky.simulator.native import Program

_PROGRAM = Program(
    kernel.set_requests,
    kernel.enter,
    kernel.advance_all,
    kernel.run_open_loop,
    kernel.run_closed_loop,
    dispatch.run,
    dispatch.run_part,
)
set_requests, enter, advance_all, run_open_loop, run_closed_loop, run, run_part = _PROGRAM.entries()

make = _PROGRAM.make
"""Make the code now, rather than on the first call."""
