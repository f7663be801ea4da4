"""Few steps, distilled: an explicit multistep method whose times and weights are fitted to what a network draws in many steps.

As in LD3 (Tong et al. 2024, arXiv 2405.15506) and S4S (Frankel et al. 2025, arXiv 2502.17423) the network stays as it is; learned are
the few numbers that say when it is asked and how its answers are put together. Here by least squares (Levenberg-Marquardt in a trust
region): there are so few that each round costs about as many drawings as there are numbers.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from torch import Tensor

from polypforge.diffusion.flow import sigma_steps
from polypforge.diffusion.samplers import Denoiser

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
        if len(self.sigmas) < 2 or self.sigmas[-1] != 0 or not all(a > b for a, b in itertools.pairwise(self.sigmas)):
            raise ValueError("the sigmas of a solver fall from the noise that it sets out from to 0")
        if [len(row) for row in self.weights] != list(range(1, len(self.sigmas))):
            raise ValueError("a solver has a row of weights for each step: one weight for each estimate so far")

    @property
    def steps(self) -> int:
        return len(self.weights)


@dataclass(frozen=True)
class Fitted:
    """A solver with its root mean square distance from what it was fitted to, and that of the same number of plain steps."""

    solver: Solver
    distance: float
    plain_distance: float


def solve(solver: Solver, denoise: Denoiser, x: Tensor, cond: Any) -> Tensor:
    """x0 (B, C, H, W) of `x`: data plus noise of standard deviation solver.sigmas[0]."""
    estimates: list[Tensor] = []
    for row, (now, then) in zip(solver.weights, itertools.pairwise(solver.sigmas), strict=True):
        estimates.append(denoise(x, torch.tensor(now), cond))
        towards = torch.stack([weight * estimate for weight, estimate in zip(row, estimates, strict=True)]).sum(0)
        x = towards + (then / now) * (x - towards)
    return x


def fit(denoise: Denoiser, x: Tensor, target: Tensor, weight: Tensor, steps: int) -> Fitted:
    """The solver that comes nearest to `target`, the x0 of `x` in many steps, by square error weighed with `weight` (>= 0).

    x: (B, C, H, W), noise of standard deviation `sigma_steps(1)[0]`; target, weight: like x. steps: at least 2. It sets out from
    DPM-Solver++(2M) at even times, and never ends farther from the target than that. The batch is drawn `drawings(steps)` times at most.
    """
    scale = (weight / weight.sum().clamp_min(1e-6)).sqrt()

    def errors(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        drawn = solve(_solver(numbers, steps), denoise, x, None)
        return ((drawn - target) * scale).flatten().double().cpu().numpy()

    def slopes(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        here = errors(numbers)
        return np.stack([(errors(numbers + step) - here) / DIFFERENCE for step in DIFFERENCE * np.eye(len(numbers))], 1)

    first = _second_order(steps)
    best = least_squares(errors, first, slopes, max_nfev=ROUNDS)
    return Fitted(_solver(best.x, steps), float(np.sqrt(2 * best.cost)), float(np.linalg.norm(errors(first))))


def drawings(steps: int) -> int:
    """How many times `fit` draws its batch at most."""
    return ROUNDS * (len(_second_order(steps)) + 2) + 1


def _solver(numbers: NDArray[np.float64], steps: int) -> Solver:
    """numbers: how long it is from each time but the last to the next, as logarithms beside the last such gap; then the weights of each row
    but its last one."""
    gaps = np.append(np.exp(numbers[: steps - 1]), 1.0)
    start = 1 / (1 + float(sigma_steps(1)[0]))
    times = start + (1 - start) * np.cumsum([0.0, *gaps[:-1]]) / gaps.sum()
    free = numbers[steps - 1 :]
    rows = [free[k * (k - 1) // 2 : k * (k + 1) // 2] for k in range(steps)]
    return Solver((*((1 - times) / times).tolist(), 0.0), tuple((*row.tolist(), 1 - float(row.sum())) for row in rows))


def _second_order(steps: int) -> NDArray[np.float64]:
    """The numbers of DPM-Solver++(2M) at even times (Lu et al. 2022, arXiv 2211.01095)."""
    widths = -sigma_steps(steps)[:-1].log().diff().numpy()
    rows = [np.zeros(k) for k in range(steps)]
    for k in range(1, steps - 1):
        rows[k][-1] = -widths[k] / (2 * widths[k - 1])
    return np.concatenate([np.zeros(steps - 1), *rows])
