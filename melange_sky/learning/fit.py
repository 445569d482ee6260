"""A replica's constants by what its server saw under production traffic.

Windows are put together by how many sequences ran at a time. For each group the mean seconds between two tokens
and, while nothing queued, to the first token are compared with what the constants predict: by a closed form
(`step_means`), corrected by one simulation of such traffic with the constants at hand. Logarithms of the
constants' scales are fitted by damped least squares with priors at the estimate (a Gaussian posterior by
Laplace's method: MacKay, "Information Theory, Inference, and Learning Algorithms", 2003, ch. 27), so that what
the traffic does not feel stays as estimated, and as unsure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.learning.step_means import Traffic, step_means
from melange_sky.simulator import RequestStream, simulate_replica
from melange_sky.steps import RequestSizes, Scales, capacity_estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.learning.scrapes import Sizes
    from melange_sky.learning.windows import Watched, Window
    from melange_sky.slo import SLO
    from melange_sky.steps import ReplicaModel

    Floats = NDArray[np.float64]

LEARNT = ("host", "products", "computing", "cache")
"""The scales that production traffic tells; what a request takes outside of steps, a server does not see."""

PRIOR_WIDTH = 0.35
"""Standard deviation of the logarithms around the estimate, before anything was seen."""

STEP_NOISE, FIRST_NOISE = 0.03, 0.12
"""Relative errors of a group's mean step and first token: what the model of a step itself is off by."""

RATE_NOISE = 0.035
"""Relative error of a highest rate whose constants are known: means stand for the requests' sizes."""

LEAST_WINDOWS = 5
GROUPS, EACH = 6, 3
"""At most so many groups, of at least so many windows each."""

CEILING_SEEN = 0.6
"""A ceiling was observed where traffic came to so much of it; below, it is known by the estimate alone."""

_ROUNDS, _STEPS, _MOVE = 3, 10, 0.03
_LONE_QUEUE, _FEW = 1.0, 8.0
_LEAST_SENT, _MOST_SENT, _STAYS = 400, 4000, 12
_END = 1.6448536269514722


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What was learnt of a replica's constants, and of the highest rate that follows for the requests seen.

    `scales` correct the estimate, `low_scales` to the low end of what the traffic leaves open. `rate_rps` is the highest rate within the SLO at the mean sizes, between `low_rps` and
    `high_rps` with nine chances in ten; `estimated_rps` what the estimate said. `busiest` is the highest rate
    that was seen ÷ `rate_rps`. `fit_error` is the root mean square of what the fit leaves of the logarithms of steps.
    """

    scales: Scales
    low_scales: Scales
    rate_rps: float
    low_rps: float
    high_rps: float
    estimated_rps: float
    busiest: float
    fit_error: float
    windows: int
    input_tokens: float
    output_tokens: float

    @property
    def is_ceiling_seen(self) -> bool:
        """Whether traffic came near the highest rate."""
        return self.busiest >= CEILING_SEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    traffic: Traffic
    step_s: float
    ttft_s: float
    queued: float


def learn(replica: ReplicaModel, watched: Watched, slo: SLO) -> Learnt:
    """Return what windows of one or several like replicas tell of the constants of `replica`, the estimate.

    Raises ValueError where they are too few, or the requests' sizes are not known.
    """
    windows, prompts, answers = watched.windows, watched.prompts, watched.answers
    if len(windows) < LEAST_WINDOWS:
        raise ValueError(
            f"only {len(windows)} minutes with enough traffic were seen, {LEAST_WINDOWS} are needed"
        )
    if prompts is None or answers is None:
        raise ValueError("no request was finished, so that the sizes of requests are not known")
    fit = _Fit(replica=replica, groups=_groups(windows, replica), sizes=(prompts, answers))
    z, covariance, off = fit.best()
    inputs, outputs = prompts.mean or 1.0, answers.mean or 1.0

    def log_rate(at: Floats) -> float:
        load = RequestSizes(
            input_tokens=np.array([inputs]), output_tokens=np.array([max(outputs, 1.0)])
        )
        rate = float(capacity_estimate(_scales(at).applied(replica), load, slo).rate_rps[0])
        return math.log(max(rate, 1e-9))

    middle = log_rate(z)
    slope = np.array([(log_rate(z + _MOVE * unit) - middle) / _MOVE for unit in np.eye(len(z))])
    deviation = math.sqrt(float(slope @ covariance @ slope))
    spread = _END * math.hypot(deviation, RATE_NOISE)
    low = z - covariance @ slope * (spread / max(deviation**2, 1e-12))
    rate = math.exp(middle)
    return Learnt(
        scales=_scales(z),
        low_scales=_scales(low),
        rate_rps=rate,
        low_rps=rate * math.exp(-spread),
        high_rps=rate * math.exp(spread),
        estimated_rps=math.exp(log_rate(np.zeros(len(z)))),
        busiest=max(group.traffic.firsts_rps for group in fit.groups) / rate,
        fit_error=off,
        windows=len(windows),
        input_tokens=inputs,
        output_tokens=outputs,
    )


def _scales(z: Floats) -> Scales:
    return Scales(**dict(zip(LEARNT, np.exp(z).tolist(), strict=True)))


def _groups(windows: Sequence[Window], replica: ReplicaModel) -> list[_Group]:
    """Return windows in groups of like load, lowest first, each as one of their means."""
    ordered = sorted(windows, key=lambda window: window.decoding)
    count = max(1, min(GROUPS, len(ordered) // EACH))
    found = []
    for places in np.array_split(np.arange(len(ordered)), count):
        part = [ordered[at] for at in places]
        seconds = np.array([window.seconds for window in part])

        def mean(name: str, weights: Floats, part: Sequence[Window] = part) -> float:
            return float(np.average([getattr(window, name) for window in part], weights=weights))

        decoded = np.array([window.decoded for window in part])
        firsts = np.array([window.firsts for window in part]) + 1e-9
        found.append(
            _Group(
                traffic=Traffic(
                    decoding=mean("decoding", seconds),
                    firsts_rps=mean("firsts_rps", seconds),
                    prompt_tps=mean("prompt_tps", seconds),
                    kv_tokens=mean("kv_use", seconds) * replica.pool.tokens,
                ),
                step_s=mean("step_s", decoded),
                ttft_s=mean("ttft_s", firsts),
                queued=max(window.waiting for window in part),
            )
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    replica: ReplicaModel
    groups: Sequence[_Group]
    sizes: tuple[Sizes, Sizes]

    def best(self) -> tuple[Floats, Floats, float]:
        """Return the logarithms of the scales, their covariance, and the root mean square of steps' errors."""
        z = np.zeros(len(LEARNT))
        for _ in range(_ROUNDS - 1):
            z, _, _ = self._minimum(z, self._corrections(z))
        z, slope, left = self._minimum(z, self._corrections(z))
        off = float(np.sqrt(np.mean((left[: len(self.groups)] * STEP_NOISE) ** 2)))
        covariance = np.linalg.inv(slope.T @ slope) * max(1.0, (off / STEP_NOISE) ** 2)
        return z, covariance, off

    def _minimum(self, z: Floats, corrections: Floats) -> tuple[Floats, Floats, Floats]:
        left = self._left(z, corrections)
        slope = np.empty((len(left), len(z)))
        for _ in range(_STEPS):
            for k, unit in enumerate(np.eye(len(z))):
                slope[:, k] = (self._left(z + _MOVE * unit, corrections) - left) / _MOVE
            move = np.clip(np.linalg.solve(slope.T @ slope, slope.T @ left), -0.7, 0.7)
            z = z - move
            left = self._left(z, corrections)
            if np.abs(move).max() < 1e-3:
                break
        return z, slope, left

    def _left(self, z: Floats, corrections: Floats) -> Floats:
        """Return what is left of the logarithms in units of their errors: steps, first tokens, priors."""
        replica = _scales(z).applied(self.replica)
        told = np.log([step_means(replica, group.traffic) for group in self.groups]) + corrections
        steps = told[:, 0] - np.log([group.step_s for group in self.groups])
        firsts = [
            told[k, 1] - math.log(group.ttft_s)
            for k, group in enumerate(self.groups)
            if group.queued <= _LONE_QUEUE and group.traffic.decoding <= _FEW and group.ttft_s > 0
        ]
        return np.concatenate([steps / STEP_NOISE, np.array(firsts) / FIRST_NOISE, z / PRIOR_WIDTH])

    def _corrections(self, z: Floats) -> Floats:
        """Return log(simulated ÷ closed form) of both means, of shape (groups × 2), for constants at hand."""
        replica = _scales(z).applied(self.replica)
        return np.array(
            [self._correction(replica, k, group) for k, group in enumerate(self.groups)]
        )

    def _correction(self, replica: ReplicaModel, seed: int, group: _Group) -> tuple[float, float]:
        """Simulate as many sequences at a time as the group had, whatever rate that is with such constants."""
        stay_s = (self.sizes[1].mean or 1.0) * step_means(replica, group.traffic)[0]
        rate = group.traffic.decoding / stay_s  # Little's law
        if rate <= 0:
            return 0.0, 0.0
        rng = np.random.default_rng(seed)
        count = int(min(_MOST_SENT, max(_LEAST_SENT, _STAYS * group.traffic.decoding)))
        arrivals = np.cumsum(rng.exponential(1 / rate, count))
        prompts, answers = (sizes.drawn(rng, count) for sizes in self.sizes)
        longest = replica.pool.tokens - answers - 1
        log = simulate_replica(
            replica, RequestStream.of(arrivals, np.minimum(prompts, longest), answers)
        )
        steady = slice(count // 4, count * 3 // 4)  # neither filling up nor running empty
        sent_rps = (count // 2) / float(arrivals[count * 3 // 4] - arrivals[count // 4])
        decode_s = float(np.nanmean((log.last_token_s - log.first_token_s)[steady]))
        gaps = float((answers - 1)[steady].mean())
        if not decode_s > 0 or gaps == 0:
            return 0.0, 0.0
        decoding = sent_rps * decode_s
        share = decoding / max(group.traffic.decoding, 1e-9)
        like = Traffic(
            decoding=decoding,
            firsts_rps=sent_rps,
            prompt_tps=sent_rps * float(prompts[steady].mean()),
            kv_tokens=min(group.traffic.kv_tokens * share, float(replica.pool.tokens)),
        )
        step_s, first_s = step_means(replica, like)
        firsts_s = float(np.nanmean((log.first_token_s - log.arrival_s)[steady]))
        return math.log(decode_s / gaps / step_s), math.log(firsts_s / first_s)
