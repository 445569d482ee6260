"""Fit a replica's step constants on a few probes of a real endpoint.

The constants of `engine.StepCosts` that a probe can tell apart, and the time a request spends outside
the engine's steps, are moved until simulated and seen
medians of TTFT and TPOT agree, by damped least squares (Levenberg, 1944; Marquardt, 1963) on their
logarithms. Nothing but request records goes in, so any endpoint can be fitted, a CPU server too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.simulator.runs import RequestStream, simulate_replica
from melange_sky.steps import Scales

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.slo import RequestLog
    from melange_sky.steps import ReplicaModel

    Floats = NDArray[np.float64]

FITTED = ("fixed_s", "sequence_s", "token_flops_s", "kv_token_s")
PRIOR_WIDTH = 2.0
"""Width of the priors on the logarithms around the first guess: constants that no probe feels stay."""

NOISE = 0.1
"""Assumed relative error of a probe's median."""

_DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_STEP = 0.05


def median_latencies(log: RequestLog) -> tuple[float, float]:
    """Return the medians of TTFT and TPOT over completed requests, NaN where there is none."""
    done = log.select(log.ok)
    tpot_s = done.tpot_s[~np.isnan(done.tpot_s)]
    return (
        float(np.median(done.ttft_s)) if len(done) else float("nan"),
        float(np.median(tpot_s)) if len(tpot_s) else float("nan"),
    )


def predict_like(replica: ReplicaModel, seen: RequestLog) -> RequestLog:
    """Simulate the very requests of a probe: the same arrivals and sizes."""
    arrivals = seen.arrival_s - seen.arrival_s[0]
    return simulate_replica(
        replica, RequestStream.of(arrivals, seen.input_tokens, seen.output_tokens)
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fit:
    """What the constants are fitted on: probes and the logarithms of their medians (NaN: none).

    `log_medians` has shape (probes × 2), TTFT and TPOT in seconds; `centre` is the first guess, to
    which priors of this `width` pull. `apply` puts constants, as logarithms, into a replica.
    """

    apply: Callable[[Floats], ReplicaModel]
    probes: Sequence[RequestLog]
    log_medians: Floats
    centre: Floats
    width: float = PRIOR_WIDTH

    def residuals(self, z: Floats) -> Floats:
        """Return log(simulated ÷ measured) of both medians over the noise, then the priors."""
        replica = self.apply(z)
        simulated = [median_latencies(predict_like(replica, probe)) for probe in self.probes]
        gaps = np.nan_to_num((np.log(np.array(simulated)) - self.log_medians).reshape(-1)) / NOISE
        return np.concatenate([gaps, (z - self.centre) / self.width])

    def step(self, z: Floats, error: Floats, jacobian: Floats) -> tuple[Floats, Floats] | None:
        """Return the first damped step that lowers the error by a thousandth, None for none."""
        for damping in _DAMPINGS:
            normal = jacobian.T @ jacobian + damping * np.eye(len(z))
            trial = z - np.clip(np.linalg.solve(normal, jacobian.T @ error), -1.5, 1.5)
            residuals = self.residuals(trial)
            if float(residuals @ residuals) < 0.999 * float(error @ error):
                return trial, residuals
        return None


def fit_replica(
    start: ReplicaModel, probes: Sequence[RequestLog], rounds: int = 25
) -> ReplicaModel:
    """Return `start` with its step constants fitted on `probes` (records in order of arrival).

    `start` gives the limits (cache, budget, most sequences) and whatever is not fitted; the time to
    read the weights goes into the fixed part, which a probe cannot tell from it. First guesses come
    from the probes themselves. A median TPOT of 0, where short answers arrive in one piece, says
    nothing and is left out. Raises ValueError where no probe has a completed request.
    """
    usable = [p for p in probes if len(p) and p.ok.any()]
    if not usable:
        raise ValueError("no probe has a completed request to fit on")
    base = dataclasses.replace(start, costs=start.costs._replace(weights_s=0.0))
    medians = np.array([median_latencies(p) for p in usable])
    log_medians = np.log(np.where(medians > 0, medians, np.nan))
    centre = _first_guess(usable, np.exp(log_medians))
    fit = _Fit(
        apply=lambda z: _with(base, z), probes=usable, log_medians=log_medians, centre=centre
    )
    return _with(base, _minimum(fit, rounds))


def _minimum(fit: _Fit, rounds: int) -> Floats:
    """Return the constants where damped steps find no lower error."""
    z, error = fit.centre, fit.residuals(fit.centre)
    for _ in range(rounds):
        jacobian = np.empty((len(error), len(z)))
        for k in range(len(z)):
            moved = z.copy()
            moved[k] += _STEP
            jacobian[:, k] = (fit.residuals(moved) - error) / _STEP
        better = fit.step(z, error, jacobian)
        if better is None:
            break
        z, error = better
    return z


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleFit:
    """Fitted scales, and the root mean square of what is left of log(simulated ÷ measured)."""

    scales: Scales
    rms: float


def fit_scales(start: ReplicaModel, probes: Sequence[RequestLog], rounds: int = 12) -> ScaleFit:
    """Fit by what factors an estimated replica's constants are off, from a few probes.

    Where a probe does not feel a constant it stays as estimated. Raises ValueError where no probe has
    a completed request.
    """
    usable = [p for p in probes if len(p) and p.ok.any()]
    if not usable:
        raise ValueError("no probe has a completed request to fit on")
    medians = np.array([median_latencies(p) for p in usable])

    def scales(z: Floats) -> Scales:
        return Scales(**_named(z))

    fit = _Fit(
        apply=lambda z: scales(z).applied(start),
        probes=usable,
        log_medians=np.log(np.where(medians > 0, medians, np.nan)),
        centre=np.zeros(len(PROBED)),
        width=SCALE_WIDTH,
    )
    z = _minimum(fit, rounds)
    left = fit.residuals(z)[: -len(z)] * NOISE
    return ScaleFit(scales=scales(z), rms=float(np.sqrt(np.mean(left * left))))


SCALE_WIDTH = 0.5
"""Width of the priors on the logarithms of scales: estimates are rarely off by more than twice that."""


PROBED = ("host", "products", "cache", "request")
"""The scales that a few probes tell apart."""


def _named(z: Floats) -> dict[str, float]:
    return dict(zip(PROBED, np.exp(z).tolist(), strict=True))


def _first_guess(probes: Sequence[RequestLog], seen: Floats) -> Floats:
    """Return log constants: a step from the lowest TPOT, a token from the least loaded prefill."""
    # As much again as a step's time for what is outside of the engine: HTTP and tokenising.
    step_s = 0.8 * float(np.nanmin(np.where(np.isnan(seen[:, 1]), seen[:, 0], seen[:, 1])))
    tokens = np.array([float(np.median(p.input_tokens)) for p in probes])
    token_s = float(np.min(np.maximum(seen[:, 0] - step_s, 0.1 * seen[:, 0]) / tokens))
    guess: Floats = np.log(np.array([step_s, 0.05 * step_s, token_s, 1e-4 * step_s, step_s]))
    return guess


def _with(base: ReplicaModel, z: Floats) -> ReplicaModel:
    *costs, request_s = np.exp(z).tolist()
    fitted = base.costs._replace(**dict(zip(FITTED, costs, strict=True)))
    if base.costs.kv_token_s > 0:  # layers with a window read at the rate of the others
        share = fitted.kv_token_s / base.costs.kv_token_s
        windows = [w._replace(kv_token_s=w.kv_token_s * share) for w in fitted.windows]
        fitted = fitted._replace(windows=tuple(windows))
    return dataclasses.replace(base, costs=fitted, request_s=request_s)
