"""The shell that a replica runs: install vLLM, start `vllm serve`.

The model's name and the user's flags are untrusted text. Each becomes one shell word by
`shlex.quote`; everything else is fixed text of the skeleton.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from melange_sky.errors import InputError
from melange_sky.models import refused_flag, without_max_model_len

if TYPE_CHECKING:
    from collections.abc import Iterable

    from melange_sky.capacities import DeploymentOption
    from melange_sky.plans import EngineChoice, ModelPlan

DEFAULT_VLLM_VERSION = "0.33.0"
"""The release whose flags this module was checked against. One exact version, so that replicas
started weeks apart run the same engine."""

_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*((a|b|rc|\.post|\.dev)[0-9]+)*(\+[a-zA-Z0-9.]+)?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_ENV = re.compile(r"(TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY)$")


def setup_script(choice: EngineChoice, skeleton: str) -> str:
    """Return the set-up: the user's own first, then vLLM, unless one is on the PATH already.

    A version that the user names is installed in any case.
    """
    if choice.version is not None and not _VERSION.fullmatch(choice.version):
        raise InputError("engine.version is not a version number of vLLM such as '0.33.0'")
    requirement = f"vllm=={choice.version or DEFAULT_VLLM_VERSION}"
    pinned = "yes" if choice.version else "no"
    own = "" if choice.setup is None else _clean(choice.setup, "engine.setup").rstrip("\n") + "\n"
    return f"{own}requirement={shlex.quote(requirement)} pinned={pinned}\n{skeleton}"


def run_script(plan: ModelPlan, option: DeploymentOption, port: int, skeleton: str) -> str:
    """Return the run command: the skeleton's preparation, then `vllm serve`, one flag per line."""
    if not plan.model.strip() or plan.model.startswith("-"):
        raise InputError("the model's name must not be empty or start with '-'")
    words = [f"vllm serve {shlex.quote(_clean(plan.model, 'model'))}"]
    words += [shlex.join(flag) for flag in _derived_flags(option, port)]
    words += _user_flags(plan.engine.args)
    return skeleton + " \\\n  ".join(words) + "\n"


def _derived_flags(option: DeploymentOption, port: int) -> Iterable[tuple[str, str]]:
    """Yield the flags that follow from the option. All stand in vLLM 0.32 and 0.33."""
    yield "--host", "0.0.0.0"
    yield "--port", str(port)
    engine = option.engine
    if engine is None:
        yield "--tensor-parallel-size", str(option.accelerator_count)
        return
    yield "--tensor-parallel-size", str(engine.tensor_parallel)
    if engine.data_parallel > 1:
        yield "--data-parallel-size", str(engine.data_parallel)
    yield "--max-model-len", str(engine.max_model_len)
    yield "--max-num-seqs", str(engine.max_num_seqs)
    yield "--gpu-memory-utilization", f"{engine.gpu_memory_utilization:g}"
    if engine.dtype is not None:
        yield "--dtype", engine.dtype


def _user_flags(args: tuple[str, ...]) -> list[str]:
    """Return the user's flags, quoted, a flag and its value on one line.

    `--max-model-len` stands among the derived flags already: the plan was made for it.
    """
    lines: list[str] = []
    for word in without_max_model_len(args):
        refused = refused_flag(word)
        if refused is not None:
            raise InputError(f"engine.args: {refused}")
        quoted = shlex.quote(_clean(word, "engine.args"))
        if lines and not word.startswith("-"):
            lines[-1] += f" {quoted}"
        else:
            lines.append(quoted)
    return lines


def environment(choice: EngineChoice) -> dict[str, str]:
    """Return the user's environment, checked; secrets and SkyPilot's own names are refused."""
    for name, value in choice.env:
        if not _ENV_NAME.fullmatch(name):
            raise InputError(
                "engine.env: a name is not a valid environment variable (letters, digits, '_')"
            )
        if name.startswith("SKYPILOT_"):
            raise InputError(f"engine.env: {name[:80]} belongs to SkyPilot")
        if _SECRET_ENV.search(name):
            raise InputError(
                f"engine.env: {name[:80]} looks like a secret, which does not belong in a plan; "
                f"give it at launch: sky serve up --secret {name[:80]}"
            )
        _clean(value, f"engine.env.{name[:80]}")
    return dict(choice.env)


def _clean(text: str, where: str) -> str:
    """Return `text` if a shell and a YAML file can carry it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: holds text that is not valid Unicode") from error
    if "\0" in text:
        raise InputError(f"{where}: holds a NUL character, which no command line can carry")
    return text
