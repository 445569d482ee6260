"""How measuring jobs are shown: what they would measure, where, for how much; how they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from melange_sky.rendering.services import dump

if TYPE_CHECKING:
    from melange_sky.profiler.skyjobs import JobState


class JobView(Protocol):
    """One accelerator to measure, see `planner.profiling.ProfilingJob`."""

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def accelerator(self) -> str: ...
    @property
    def instance_type(self) -> str: ...
    @property
    def infra(self) -> str: ...
    @property
    def use_spot(self) -> bool: ...
    @property
    def price_usd_per_hour(self) -> float: ...
    @property
    def sizes(self) -> Sequence[tuple[int, int]]: ...
    @property
    def measured(self) -> int: ...
    @property
    def minutes(self) -> float: ...
    @property
    def usd(self) -> float: ...
    @property
    def limit_usd(self) -> float: ...
    @property
    def expected_error(self) -> float: ...
    @property
    def document(self) -> Mapping[str, Any]: ...


class JobsView(Protocol):
    """The jobs of a spec, see `planner.measuring_jobs.JobsPreview`."""

    @property
    def jobs(self) -> Sequence[JobView]: ...
    @property
    def taken(self) -> Sequence[JobView]: ...
    @property
    def left(self) -> Sequence[JobView]: ...
    @property
    def max_usd(self) -> float | None: ...


def preview_text(preview: JobsView) -> str:
    """Return what would be measured, where, how long and for how much."""
    header = (
        f"{'accelerator':<16} {'instance':<34} {'$/h':>8} {'sizes':>6} {'known':>6} {'minutes':>8} "
        f"{'$':>8} {'at most $':>10}"
    )
    lines = [header, *(_line(job, job in preview.left) for job in preview.jobs)]
    taken = preview.taken
    budget = "" if preview.max_usd is None else f" of ${preview.max_usd:g}"
    lines.append(
        f"{len(taken)} jobs: about ${sum(j.usd for j in taken):.2f}, at most "
        f"${sum(j.limit_usd for j in taken):.2f}{budget}"
        " (minutes are estimates, prices as planned; the jobs controller is extra)"
    )
    return "".join(f"{line}\n" for line in lines)


def _line(job: JobView, left: bool) -> str:
    where = f"{job.infra} {job.instance_type}{' spot' if job.use_spot else ''}"
    note = "" if job.sizes else "  nothing to measure"
    note = "  over --max-usd" if left else note
    return (
        f"{job.accelerator:<16} {where:<34} {job.price_usd_per_hour:>8.4g} {len(job.sizes):>6} "
        f"{job.measured:>6} {job.minutes:>8.0f} {job.usd:>8.2f} {job.limit_usd:>10.2f}{note}"
    )


def preview_document(preview: JobsView) -> list[dict[str, Any]]:
    """Return the preview for `--format json`."""
    return [
        {
            "name": job.name,
            "model": job.model,
            "accelerator": job.accelerator,
            "infra": job.infra,
            "instance_type": job.instance_type,
            "use_spot": job.use_spot,
            "price_usd_per_hour": job.price_usd_per_hour,
            "sizes": [list(s) for s in job.sizes],
            "measured": job.measured,
            "estimated_minutes": round(job.minutes, 1),
            "estimated_usd": round(job.usd, 2),
            "limit_usd": round(job.limit_usd, 2),
            "expected_interpolation_error": round(job.expected_error, 4),
            "launch": job in preview.taken,
        }
        for job in preview.jobs
    ]


def job_yaml(job: JobView) -> str:
    """Return a job's YAML, the packed profiler in it cut short."""
    head, mark, rest = job.document["run"].partition("bundle='")
    packed, end, script = rest.partition("'")
    shown = f"{head}{mark}… {len(packed)} characters: the profiler's modules …{end}{script}"
    return f"\n# --- {job.name}\n{dump({**job.document, 'run': shown})}"


def job_states_text(states: Mapping[str, JobState]) -> str:
    """Return a line per job: its status, id, and what went wrong."""
    lines = []
    for name, state in states.items():
        detail = f": {state.detail}" if state.detail else ""
        lines.append(f"{name:<48} {state.status} (job {state.job_id}){detail}\n")
    return "".join(lines)


def job_states_document(states: Mapping[str, JobState]) -> dict[str, Any]:
    """Return the jobs by name for `--format json`."""
    return {
        name: {"job_id": state.job_id, "status": state.status} for name, state in states.items()
    }
