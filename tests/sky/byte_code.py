"""Compile, in uv's cache, what a node of the bed imports: its packages are copies, and bring their byte code.

    python -I byte_code.py CACHE    # the nodes' Python, in an environment with SkyPilot

Else each new node compiles it once more, which takes 10 s of CPU.
"""

import py_compile
import sys
import sysconfig
from pathlib import Path

import sky.skylet.executor.slurm
import sky.skylet.skylet  # noqa: F401

below = Path(sysconfig.get_path("purelib"))
imported = [Path(getattr(module, "__file__", None) or "/") for module in list(sys.modules.values())]
wanted = {file.relative_to(below) for file in imported if below in file.parents}
for package in (Path(sys.argv[1]) / "archive-v0").iterdir():
    for file in package.rglob("*.py"):
        if file.relative_to(package) in wanted:
            # not held against the time of its source, which is a copy's
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(str(file), invalidation_mode=mode)
