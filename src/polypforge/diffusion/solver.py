"""Few steps, distilled: an explicit multistep method whose times and weights are fitted to what a network draws in many steps.

As in LD3 (Tong et al. 2024, arXiv 2405.15506) and S4S (Frankel et al. 2025, arXiv 2502.17423) the network stays as it is; learned are
the few numbers that say when it is asked and how its answers are put together. Here by least squares (Levenberg-Marquardt in a trust
region): there are so few that each round costs about as many drawings as there are numbers.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from torch import Tensor

from polypforge.diffusion.samplers import Denoiser, Memory, Noise, Sampler, walk

ROUNDS = 10
DIFFERENCE = 0.02  # of a number, for slopes: far above what rounding in float32 moves


@dataclass(frozen=True)
class Solver:
    """Steps of a state x0 + sigma n.

    sigmas: falling, one more than there are steps, from the noise that it sets out from to 0. weights: row k has k + 1 numbers that sum to
    1, by which the clean estimates so far make the one that step k goes towards.
    """

    sigmas: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in itertools.pairwise(self.sigmas))
        if len(self.sigmas) < 2 or self.sigmas[-1] != 0 or not falling or not np.isfinite(self.sigmas[0]):
            raise ValueError("the sigmas of a solver fall from the noise that it sets out from to 0")
        if [len(row) for row in self.weights] != list(range(1, len(self.sigmas))):
            raise ValueError("a solver has a row of weights for each step: one weight for each estimate so far")
        if not all(abs(sum(row) - 1) < 1e-6 for row in self.weights):
            raise ValueError("each row of a solver's weights sums to 1")

    @property
    def steps(self) -> int:
        return len(self.weights)

    def sampler(self) -> Sampler:
        """To be called with its own sigmas."""
        return partial(walk, partial(_step, self))


def _step(
    solver: Solver, denoise: Denoiser, x: Tensor, now: Tensor, then: Tensor, cond: Any, noise: Noise | None, memory: Memory
) -> Tensor:
    clean = denoise(x, now, cond)[None]
    memory["estimates"] = estimates = torch.cat([memory["estimates"], clean]) if memory else clean
    row = torch.tensor(solver.weights[len(estimates) - 1]).to(x)
    towards = torch.tensordot(row, estimates, 1)
    return towards + (then / now) * (x - towards)


@dataclass(frozen=True)
class Fitted:
    """A solver with its root mean square distance from what it was fitted to, and that of the plain steps that it set out from."""

    solver: Solver
    distance: float
    plain_distance: float


def fit(denoise: Denoiser, x: Tensor, target: Tensor, weight: Tensor, sigmas: Tensor) -> Fitted:
    """The solver of as many steps as `sigmas` that comes nearest to `target`, by square error weighed with `weight` (>= 0).

    x: (B, C, H, W), data plus noise of standard deviation sigmas[0]; target: the x0 of `x` in many steps; weight: like x. sigmas: (n + 1,)
    falling to 0, n >= 2. It sets out from DPM-Solver++(2M) there, and never ends farther from the target. The batch is drawn `drawings(n)`
    times at most.
    """
    steps, scale = len(sigmas) - 1, (weight / weight.sum().clamp_min(1e-6)).sqrt()
    known: dict[bytes, NDArray[np.float64]] = {}

    def errors(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        solver = _solver(numbers, steps, float(sigmas[0]))
        drawn = solver.sampler()(denoise, x, torch.tensor(solver.sigmas).to(x), None)
        return ((drawn - target) * scale).flatten().double().cpu().numpy()

    def remembered(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        if numbers.tobytes() not in known:
            known.clear()
            known[numbers.tobytes()] = errors(numbers)
        return known[numbers.tobytes()]

    def slopes(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        here = remembered(numbers)
        return np.stack([(errors(numbers + step) - here) / DIFFERENCE for step in DIFFERENCE * np.eye(len(numbers))], 1)

    first = _second_order(sigmas.double().cpu().numpy())
    plain = float(np.linalg.norm(remembered(first)))
    best = least_squares(remembered, first, slopes, max_nfev=ROUNDS)
    return Fitted(_solver(best.x, steps, float(sigmas[0])), float(np.sqrt(2 * best.cost)), plain)


def drawings(steps: int) -> int:
    """How many times `fit` draws its batch at most."""
    return ROUNDS * (steps - 1 + steps * (steps - 1) // 2 + 2)


def _solver(numbers: NDArray[np.float64], steps: int, most: float) -> Solver:
    """numbers: how long it is from each time but the last to the next, as logarithms beside the last such gap; then the weights of each row
    but its last one. most: the first sigma."""
    gaps = np.append(np.exp(numbers[: steps - 1]), 1.0)
    start = 1 / (1 + most)
    times = start + (1 - start) * np.cumsum([0.0, *gaps[:-1]]) / gaps.sum()
    free = numbers[steps - 1 :]
    rows = [free[k * (k - 1) // 2 : k * (k + 1) // 2] for k in range(steps)]
    return Solver((*((1 - times) / times).tolist(), 0.0), tuple((*row.tolist(), 1 - float(row.sum())) for row in rows))


def _second_order(sigmas: NDArray[np.float64]) -> NDArray[np.float64]:
    """The numbers of DPM-Solver++(2M) at `sigmas` (Lu et al. 2022, arXiv 2211.01095)."""
    gaps, widths = np.diff(1 / (1 + sigmas)), -np.diff(np.log(sigmas[:-1]))
    rows = [np.zeros(k) for k in range(len(gaps))]
    for k in range(1, len(gaps) - 1):
        rows[k][-1] = -widths[k] / (2 * widths[k - 1])
    return np.concatenate([np.log(gaps[:-1] / gaps[-1]), *rows])
