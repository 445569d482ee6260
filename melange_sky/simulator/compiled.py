"""The simulator's functions as machine code, for whoever simulates; import it only then.

Called from `kernel` and `dispatch` instead they do the same, a hundred times slower. Whoever simulates single
replicas has no use for fleets: these are made apart, in twice the time.
"""

from melange_sky.simulator import dispatch, kernel
from melange_sky.simulator.native import Program

_REQUESTS = Program(kernel.set_requests)
_ALIKE = Program(kernel.run_alike)
_REPLICA = Program(kernel.run_open_loop, kernel.run_closed_loop)
_FLEET = Program(kernel.enter, kernel.advance_all, dispatch.run, dispatch.run_part)
(set_requests,) = _REQUESTS.entries()
(run_alike,) = _ALIKE.entries()
run_open_loop, run_closed_loop = _REPLICA.entries()
enter, advance_all, run, run_part = _FLEET.entries()


def make() -> None:
    """Make all of the code now, rather than each part on its first call."""
    for program in (_REQUESTS, _ALIKE, _REPLICA, _FLEET):
        program.make()
