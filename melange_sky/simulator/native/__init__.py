"""Plain Python functions over numbers and arrays as machine code, within a second and without a compiler.

The functions are the only source: called as they are they run in the interpreter, in a `Program` they
are translated to LLVM's language and made into machine code by the `llvmlite` library when first called;
that is kept on disk, and loaded by later processes (`kept`).
What they may use: whole numbers, floats and truth values; arrays of one or two dimensions; named tuples
of these; `if`, `while`, `for` over a range or a written-out tuple; `len`, `min`, `max`, `abs`, `int`,
`float`, `math.isnan`, `math.isinf`, `math.sqrt`; constants of modules; and each other. Arguments and
results are annotated. Numbers come out as in the interpreter, bit for bit, with three exceptions: whole
numbers have 64 bits, division by zero gives 0 (whole) or what IEEE 754 says, and indices are not checked.
"""

from melange_sky.simulator.native.kinds import TranslationError
from melange_sky.simulator.native.program import Entry, Program
from melange_sky.simulator.native.slots import Packed

__all__ = ["Entry", "Packed", "Program", "TranslationError"]
