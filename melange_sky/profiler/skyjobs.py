"""Profiling jobs on SkyPilot. The only module of the profiler that imports sky."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from melange_sky.errors import InputError, MelangeError, SourceUnavailableError

IDLE_MINUTES = 20
"""After so long without a job, a cluster takes itself down, whatever became of the launcher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """What SkyPilot says of a job: its status word, and whether it has ended."""

    job_id: int
    status: str
    ended: bool
    detail: str = ""


class SkyJobs:
    """Managed jobs, or one cluster per job. Finds jobs by name alone: no state of its own.

    Managed jobs recover from preemption, tear themselves down, and keep their logs; they need a jobs
    controller. A cluster is quicker to start and ends `IDLE_MINUTES` after its job.
    """

    def __init__(self, *, managed: bool, secrets: Mapping[str, str]) -> None:
        try:
            # Where SkyPilot is imported first, its log goes to what is standard output then; ours is for results.
            with contextlib.redirect_stdout(sys.stderr):
                import sky
        except ImportError as error:
            raise SourceUnavailableError(
                "SkyPilot is not installed here; install it with: pip install skypilot"
            ) from error
        self._sky: Any = sky
        self._managed = managed
        self._secrets = dict(secrets)

    def launch(self, name: str, document: Mapping[str, Any]) -> None:
        """Submit a job; returns when SkyPilot has taken it over."""
        task = self._task(name, document)
        if self._managed:
            self._get(name, self._sky.jobs.launch, task, name=name)
        else:
            self._get(
                name,
                self._sky.launch,
                task,
                cluster_name=name,
                idle_minutes_to_autostop=IDLE_MINUTES,
                down=True,
            )

    def states(self, prefixes: Sequence[str]) -> dict[str, JobState]:
        """Return the newest job of each name that starts with one of the prefixes."""
        found = self._managed_states() if self._managed else self._cluster_states(tuple(prefixes))
        return {name: found[name] for name in sorted(found) if name.startswith(tuple(prefixes))}

    def _managed_states(self) -> dict[str, JobState]:
        try:
            answer = self._sky.get(self._sky.jobs.queue_v2(refresh=True))
        except self._sky.exceptions.ClusterNotUpError:
            return {}
        except (RuntimeError, ValueError) as error:
            raise MelangeError(f"SkyPilot's job queue: {_one_line(error)}") from error
        states: dict[str, JobState] = {}
        for record in sorted(answer[0], key=lambda r: int(r["job_id"] or 0)):
            status = record["status"]
            states[str(record["job_name"])] = JobState(
                job_id=int(record["job_id"]),
                status=status.value,
                ended=bool(status.is_terminal()),
                detail=_one_line(record["failure_reason"] or ""),
            )
        return states

    def _cluster_states(self, prefixes: tuple[str, ...]) -> dict[str, JobState]:
        states: dict[str, JobState] = {}
        clusters = self._sky.get(self._sky.status())
        for name in sorted(str(c["name"]) for c in clusters if str(c["name"]).startswith(prefixes)):
            try:
                records = self._sky.get(self._sky.queue(name))
            except (RuntimeError, ValueError, self._sky.exceptions.ClusterNotUpError):
                continue  # stopped, or not up yet
            for record in sorted(records, key=lambda r: int(r["job_id"])):
                status = record["status"]
                states[name] = JobState(
                    job_id=record["job_id"], status=status.value, ended=bool(status.is_terminal())
                )
        return states

    def log(self, name: str, state: JobState) -> str:
        """Return what a job has written so far; empty where there is nothing yet."""
        text = io.StringIO()
        try:
            if self._managed:
                self._sky.jobs.tail_logs(job_id=state.job_id, follow=False, output_stream=text)
            else:
                self._sky.tail_logs(name, state.job_id, follow=False, output_stream=text)
        except (RuntimeError, ValueError, self._sky.exceptions.ClusterNotUpError):
            return text.getvalue()
        return text.getvalue()

    def stop(self, name: str) -> None:
        """Cancel a job, or take its cluster down."""
        if self._managed:
            self._get(name, self._sky.jobs.cancel, name=name)
        else:
            self._get(name, self._sky.down, name)

    def _get(self, whose: str, function: Any, *arguments: Any, **more: Any) -> Any:
        refusals = (RuntimeError, ValueError, self._sky.exceptions.ResourcesUnavailableError)
        try:
            return self._sky.get(function(*arguments, **more))
        except refusals as error:
            raise MelangeError(f"{whose}: SkyPilot refused: {_one_line(error)}") from error

    def _task(self, name: str, document: Mapping[str, Any]) -> Any:
        config = yaml.safe_load(yaml.safe_dump(dict(document)))
        secrets = {}
        for key, value in (config.get("secrets") or {}).items():
            given = self._secrets.get(key, value)
            if given is None:
                raise InputError(f"{name} needs the secret {key}: set it in the environment")
            secrets[key] = given
        config["secrets"] = secrets
        return self._sky.Task.from_yaml_config(config)


def _one_line(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:299] + "…"
