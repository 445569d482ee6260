"""Measure a running endpoint, or launch jobs on SkyPilot that do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.engines import DEFAULT_ENGINE
from melange_sky.planner import measuring_jobs as work
from melange_sky.planner import traffic_learning
from melange_sky.planner.measuring import Measurement, MeasureOptions, measure_endpoint
from melange_sky.profiler.skyjobs import JobState
from melange_sky.report.jobs import job_states_text, preview_text
from melange_sky.report.learning import observation_text
from melange_sky.report.measuring import measured_text
from melange_sky.sdk.arguments import path_of, source_of
from melange_sky.sdk.results import Shown, as_result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.sdk.arguments import AnyPath, AnySpec


class Measured(Shown, Measurement):
    """What was measured; printed as a table of sizes, rates and bounds."""

    __slots__ = ()

    def __str__(self) -> str:
        return measured_text(self)


class Observed(Shown, traffic_learning.Observation):
    """What traffic told of a replica's constants; printed in a few lines."""

    __slots__ = ()

    def __str__(self) -> str:
        return observation_text(self.learnt, self.cuts, self.calibration)


class Jobs(Shown, work.JobsPreview):
    """The jobs that would measure a spec, and those `taken`; printed with sizes, minutes and cost."""

    __slots__ = ()

    def __str__(self) -> str:
        return preview_text(self)


class JobStates(Shown, dict[str, JobState]):
    """The newest state of each job by its name; printed a line each."""

    def __str__(self) -> str:
        return job_states_text(self)


class Collected(Shown, tuple[str, ...]):
    """A line per job: how it stands, and how many sizes it measured."""

    __slots__ = ()

    def __str__(self) -> str:
        return "".join(f"{line}\n" for line in self)


def profile(
    *,
    url: str,
    model: str,
    accelerator: str,
    inputs: str | Sequence[int],
    outputs: str | Sequence[int],
    tpot_ms: float | None = None,
    ttft_ms: float | None = None,
    attainment: float = 0.95,
    out: AnyPath | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    timeout_s: float = 120.0,
    max_minutes: float | None = None,
    tolerance: float = 0.12,
    error_bound: float | None = None,
    max_requests: int = 4000,
    prompts: str = "ids",
    prefix_share: float = 0.0,
    reuse: AnyPath | None = None,
    arrivals: AnyPath | None = None,
    max_lateness_ms: float = 25.0,
    seed: int = 0,
    revision: str | None = None,
    engine: str = DEFAULT_ENGINE.name,
    engine_flags: str = "",
    instance_type: str | None = None,
    check_with: str | None = None,
    bench_command: str | None = None,
    tokenizer: str | None = None,
) -> Measured:
    """Measure a running endpoint: the highest rate within the SLO per request size.

    Sizes that were measured before are kept; a run that was interrupted goes on where it stopped.

    Args:
        url: Base address of an OpenAI-compatible server.
        model: Name under which it serves the model.
        accelerator: What it runs on, such as "A10G:1".
        inputs: Prompt sizes in tokens, "64,256,1024" or a list.
        outputs: Output sizes in tokens, in the same form.
        tpot_ms: Limit of the time per output token after the first, in milliseconds.
        ttft_ms: Limit of the time to the first token, in milliseconds.
        attainment: Fraction of requests that must meet every limit.
        out: Folder of the profile tables; None for the profile store.
        api_key_env: Environment variable that holds the server's key.
        timeout_s: Seconds that one request may take.
        max_minutes: Stop after this many minutes; results so far are kept.
        tolerance: How closely the highest rate is bracketed, as a fraction.
        error_bound: Measure only some sizes, until the rest are known within this fraction.
        max_requests: Most requests of one probe.
        prompts: "ids" (token ids give exact sizes) or "words".
        prefix_share: Fraction of each prompt that all requests have in common.
        reuse: File with a workload's reuse: prompts then share as much as its prompts do, as soon.
        arrivals: A trace whose gaps are used, scaled to each rate; None for Poisson.
        max_lateness_ms: Discard a probe if this client sent a request later than this.
        seed: Seed of arrivals and prompts.
        revision: Revision of the weights, kept with the table.
        engine: What serves, kept with the table.
        engine_flags: The server's flags, kept with the table.
        instance_type: Where it runs, kept with the table.
        check_with: Measure one size again with this load generator of the engine's.
        bench_command: Its command, if it is not on the PATH.
        tokenizer: Folder or model id of its tokenizer.

    Returns:
        The measured sizes with their bounds, the table's path, and what the other client saw.

    Raises:
        InputError: An option makes no sense.
        SourceUnavailableError: The server cannot be reached.
    """
    options = MeasureOptions(
        url=url,
        model=model,
        accelerator=accelerator,
        inputs=inputs,
        outputs=outputs,
        tpot_ms=tpot_ms,
        ttft_ms=ttft_ms,
        attainment=attainment,
        out=path_of(out),
        api_key_env=api_key_env,
        timeout_s=timeout_s,
        max_minutes=max_minutes,
        tolerance=tolerance,
        error_bound=error_bound,
        max_requests=max_requests,
        prompts=prompts,
        prefix_share=prefix_share,
        reuse=path_of(reuse),
        arrivals=path_of(arrivals),
        max_lateness_ms=max_lateness_ms,
        seed=seed,
        revision=revision,
        engine=engine,
        engine_flags=engine_flags,
        instance_type=instance_type,
        check_with=check_with,
        bench_command=bench_command,
        tokenizer=tokenizer,
    )
    return as_result(Measured, measure_endpoint(options))


def learn_profile(
    *,
    model: str,
    accelerator: str,
    metrics: Sequence[str] = (),
    prometheus: str | None = None,
    select: str | None = None,
    prometheus_token_env: str = "PROMETHEUS_TOKEN",
    window: str = "1h",
    every_s: float = 15.0,
    tpot_ms: float | None = None,
    ttft_ms: float | None = None,
    attainment: float = 0.95,
    engine: str = DEFAULT_ENGINE.name,
    api_key_env: str = "OPENAI_API_KEY",
    out: AnyPath | None = None,
) -> Observed:
    """Correct the estimates of a model by the figures of replicas that serve it, without a load test.

    What low traffic cannot tell stays as estimated: then nothing is kept.

    Args:
        model: The model that they serve.
        accelerator: What each runs on, such as "A10G:1".
        metrics: Addresses of replicas of one kind, to be looked at from now on.
        prometheus: Instead, the address of a Prometheus that looked at them already.
        select: Matchers that leave replicas of one kind of it, such as 'job="chat-l40s"'.
        prometheus_token_env: Environment variable that holds its token, or its whole Authorization header.
        window: How long to look, or back, such as "90m" or "24h".
        every_s: Seconds between two looks.
        tpot_ms: Limit of the time per output token after the first, in milliseconds.
        ttft_ms: Limit of the time to the first token, in milliseconds.
        attainment: Fraction of requests that must meet every limit.
        engine: What serves.
        api_key_env: Environment variable that holds the servers' key.
        out: Folder of the profile tables; None for the profile store.

    Returns:
        The corrections, the highest rate that follows for such requests with its interval, and what is kept.

    Raises:
        InputError: An option makes no sense, or too little was seen.
        SourceUnavailableError: No server answers.
    """
    options = traffic_learning.LearnOptions(
        model=model,
        accelerator=accelerator,
        metrics=metrics,
        prometheus=prometheus,
        select=select,
        prometheus_token_env=prometheus_token_env,
        window=window,
        every_s=every_s,
        tpot_ms=tpot_ms,
        ttft_ms=ttft_ms,
        attainment=attainment,
        engine=engine,
        api_key_env=api_key_env,
        out=path_of(out),
    )
    return as_result(Observed, traffic_learning.learn_from_traffic(options))


def launch_profile(
    spec: AnySpec,
    *,
    dry_run: bool = False,
    detach: bool = False,
    clusters: bool = False,
    max_minutes: float | None = None,
    max_usd: float | None = None,
    error_bound: float = 0.05,
    bucket: str | None = None,
    tolerance: float | None = None,
    max_requests: int | None = None,
    max_lateness_ms: float | None = None,
    offers: AnyPath | None = None,
    accelerators: str | None = None,
    out: AnyPath | None = None,
    offline: bool = False,
) -> Jobs:
    """Measure each accelerator that a spec may use and that lacks measurements, one job per kind.

    Launches without asking: look at `dry_run=True` first. Returns when every job has ended and its
    results are kept, or with `detach` as soon as SkyPilot has them (then see `collect_profile`).

    Args:
        spec: A spec file, or the same as a dict.
        dry_run: Return the jobs and launch nothing.
        detach: Do not wait for the results.
        clusters: One cluster per job in place of managed jobs.
        max_minutes: Hard time limit of each job.
        max_usd: Most that all jobs may cost together, in USD.
        error_bound: Plan-cost error left to interpolation, as a fraction.
        bucket: What keeps tables between restarts: "s3://name/folder", or a shared folder's path.
        tolerance: How closely the highest rate is bracketed, as a fraction.
        max_requests: Most requests of one probe.
        max_lateness_ms: Discard a probe if this client sent a request later than this.
        offers: CSV of your own offers.
        accelerators: Only these, "A10G,A100-80GB:2"; None for each accelerator once.
        out: Folder of the profile tables; None for the profile store.
        offline: Open no socket while planning.

    Returns:
        All jobs, those `taken` and those that the budget leaves.

    Raises:
        InputError: There is no priced candidate, or no job fits `max_usd`.
        SourceUnavailableError: SkyPilot is not installed.
        MelangeError: A job did not succeed; what it measured is kept.
    """
    options = work.LaunchOptions(
        clusters=clusters,
        max_minutes=max_minutes,
        max_usd=max_usd,
        error_bound=error_bound,
        bucket=bucket,
        tolerance=tolerance,
        max_requests=max_requests,
        max_lateness_ms=max_lateness_ms,
        offers=path_of(offers),
        accelerators=accelerators,
        out=path_of(out),
        offline=offline,
    )
    preview = as_result(Jobs, work.preview_jobs(source_of(spec), options))
    if dry_run:
        return preview
    preview.require_any()
    if preview.taken:
        api = work.jobs_api(clusters=clusters)
        work.run_jobs(api, preview.taken, detach=detach, out=options.out)
    return preview


def profile_status(spec: AnySpec, *, clusters: bool = False) -> JobStates:
    """Return what became of a spec's profiling jobs; works from any machine with the same SkyPilot.

    Args:
        spec: A spec file, or the same as a dict.
        clusters: The jobs have a cluster each in place of managed jobs.

    Returns:
        The newest state of each job by its name; none where SkyPilot knows none.

    Raises:
        InputError: The spec is wrong.
        SourceUnavailableError: SkyPilot is not installed.
    """
    return JobStates(work.job_states(source_of(spec), clusters=clusters))


def collect_profile(
    spec: AnySpec, *, clusters: bool = False, out: AnyPath | None = None
) -> Collected:
    """Bring what a spec's profiling jobs have measured so far into the profile store.

    Args:
        spec: A spec file, or the same as a dict.
        clusters: The jobs have a cluster each in place of managed jobs.
        out: Folder of the profile tables; None for the profile store.

    Returns:
        A line per job: how it stands, and how many sizes it measured.

    Raises:
        MelangeError: SkyPilot knows no job of the spec.
        SourceUnavailableError: SkyPilot is not installed.
    """
    return Collected(work.collect_jobs(source_of(spec), clusters=clusters, out=path_of(out)))
