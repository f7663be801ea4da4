"""From a checkpoint's scheduler to our diffusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polypforge.core.errors import UserError
from polypforge.diffusion.gaussian import DiffusionConfig
from polypforge.diffusion.schedules import Schedule

SCHEDULE_NAMES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTION_NAMES = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}


def diffusion_of(scheduler: Mapping[str, Any], snr_gamma: float | None) -> DiffusionConfig:
    """The training diffusion that a diffusers scheduler's settings describe. Raises UserError for a schedule that we lack."""
    kind = scheduler.get("beta_schedule", "scaled_linear")
    if kind not in SCHEDULE_NAMES:
        raise UserError(f"the checkpoint's noise schedule '{kind}' is not supported: it must be one of {', '.join(SCHEDULE_NAMES)}.")
    for unheard in ("rescale_betas_zero_snr", "trained_betas"):
        if scheduler.get(unheard):
            raise UserError(f"the checkpoint's scheduler sets {unheard}, a noise schedule that is not supported: use another one.")
    schedule = Schedule(
        SCHEDULE_NAMES[kind],
        scheduler.get("num_train_timesteps", 1000),
        scheduler.get("beta_start", 0.00085),
        scheduler.get("beta_end", 0.012),
    )
    return DiffusionConfig(schedule, PREDICTION_NAMES[scheduler.get("prediction_type", "epsilon")], snr_gamma=snr_gamma)
