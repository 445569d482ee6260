"""Compiled code is that of the sources as they are now."""

from __future__ import annotations

import shutil
from pathlib import Path

import numba

from melange_sky.simulator import kernel
from melange_sky.simulator.compiled import FOLDERS, PACKAGE, cache_folder


def test_a_change_of_any_file_that_is_compiled_from_is_another_folder(tmp_path: Path) -> None:
    """numba alone would keep what a function calls in another file as it was."""
    folders = set()
    for number, name in enumerate(
        ("", "simulator/state.py", "simulator/kernel.py", "routing/policy.py")
    ):
        package = tmp_path / str(number)
        for folder in FOLDERS:
            shutil.copytree(PACKAGE / folder, package / folder)
        if name:
            with (package / name).open("a") as file:
                file.write("# changed\n")
        folders.add(cache_folder(package).name)
    assert len(folders) == 4
    assert cache_folder(PACKAGE).name in folders


def test_the_kernel_is_kept_there_and_numbas_setting_is_left_alone() -> None:
    kept = Path(kernel.advance_all._cache.cache_path)
    assert kept.is_relative_to(cache_folder(PACKAGE))
    assert "compiled-" not in str(numba.config.CACHE_DIR)
