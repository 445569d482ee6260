"""How one replica is started: a command as data, quoted only where it becomes shell text."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.engines.servers import Servers, one_port

if TYPE_CHECKING:
    from melange_sky.capacities import DeploymentOption
    from melange_sky.engines.choice import EngineChoice
    from melange_sky.engines.flags import FlagTable
    from melange_sky.models import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """What to start: `model` (its name, untrusted text) as `option` runs it, listening on `port`.

    `shape` None: its sizes are not known. `revision` is the commit of the model to run, None for its
    branch as it is then; `served_name` what clients call it, None where that is `model`. `reports_cached` asks it
    to say of each answer how much of its prompt was in the prefix cache.
    """

    model: str
    choice: EngineChoice
    option: DeploymentOption
    shape: ModelShape | None
    port: int
    revision: str | None = None
    served_name: str | None = None
    reports_cached: bool = False

    def checkpoint_flags(self, flags: FlagTable) -> list[tuple[str, str]]:
        """Return what says which commit is run and under which name, where the user's flags do not."""
        found = flags.pins(self.revision, self.choice.args)
        if self.served_name is not None and not flags.served_names(self.choice.args):
            found.append((flags.served_name, self.served_name))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeCommand:
    """The words that start a server: `program` with the model, then each flag with its values.

    `ending` is fixed shell text after the flags, for what only the replica's environment knows.
    `servers` says that several are started, each on GPUs of its own, and how they share one port.
    """

    program: tuple[str, ...]
    flags: tuple[tuple[str, ...], ...]
    ending: str = ""
    servers: Servers | None = None

    @property
    def flag_words(self) -> tuple[str, ...]:
        """All flags as one list of words, without what `ending` adds."""
        return tuple(word for flag in self.flags for word in flag)

    def as_shell(self) -> str:
        """Return the command for a shell, one flag per line."""
        lines = [shlex.join(self.program), *map(shlex.join, self.flags)]
        if self.ending:
            lines.append(self.ending)
        one = " \\\n  ".join(lines)
        return f"{one}\n" if self.servers is None else one_port(one, self.servers)
