"""Machine code for this processor, made by LLVM or loaded as it was made before."""

from __future__ import annotations

import sys
from typing import Any

import llvmlite
import numpy as np
from llvmlite import binding


def made_with() -> tuple[str, ...]:
    """Return all but the functions that decides which machine code comes out: versions and the processor."""
    return (
        sys.version,
        np.__version__,
        llvmlite.__version__,
        ".".join(map(str, binding.llvm_version_info)),
        binding.get_default_triple(),
        binding.get_host_cpu_name(),
        binding.get_host_cpu_features().flatten(),
    )


def made(text: str) -> tuple[Any, bytes]:
    """Return LLVM's engine with a module's machine code, and that as the bytes of an object file."""
    host = _host()
    module = binding.parse_assembly(text)
    module.triple = binding.get_default_triple()
    module.data_layout = str(host.target_data)
    module.verify()
    tuning = binding.create_pipeline_tuning_options(speed_level=1)
    # The loops here are short and full of branches: unrolled, they take longer to make and to run.
    tuning.loop_unrolling = tuning.loop_interleaving = False
    passes = binding.create_pass_builder(host, tuning)
    passes.getModulePassManager().run(module, passes)
    engine = binding.create_mcjit_compiler(module, host)
    objects: list[bytes] = []
    engine.set_object_cache(notify_func=lambda _module, code: objects.append(code))
    engine.finalize_object()
    return engine, b"".join(objects)


def loaded(code: bytes) -> Any:
    """Return LLVM's engine with the machine code of an object file that `made` returned."""
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _host())
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def _host() -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=2
    )
