"""Settings of a training run; their names are the keys of the YAML files and of `--set training.KEY=VALUE`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PrivacyConfig:
    """epsilon, delta: the bound on what the model betrays of one training image; delta by default a tenth of 1 / images. clip_norm:
    greatest norm of one image's gradient. noise_multiplier: instead of the one that epsilon asks for."""

    epsilon: float = 8.0
    delta: float | None = None
    clip_norm: float = 1.0
    noise_multiplier: float | None = None

    def __post_init__(self) -> None:
        if not self.epsilon > 0 or not self.clip_norm > 0 or (self.noise_multiplier is not None and not self.noise_multiplier > 0):
            raise ValueError("privacy.epsilon, clip_norm and noise_multiplier must be positive")
        if self.delta is not None and not 0 < self.delta < 1:
            raise ValueError("privacy.delta must lie between 0 and 1")


@dataclass(frozen=True)
class TrainingConfig:
    """max_steps, budget_seconds: the run ends at whichever comes first; one of them must be given. batch_size: examples that a device
    sees at once; accumulate: how many such batches make one step.

    learning_rate, warmup_steps, cooldown_share, final_rate, cooldown: linear rise, plateau, and in the last share of the run a fall to
    final_rate x learning_rate, "linear" or in one "step". betas: of AdamW. clip_norm: greatest gradient norm. ema_decay: of the averaged
    weights, which are what is validated and saved. precision: "bf16" (autocast) or "fp32". validate_every, preview_every,
    checkpoint_every: in steps; 0 means only at the end. keep_checkpoints: how many of the last ones stay. validation_examples: their
    number. privacy: train with differential privacy; None: without.
    """

    seed: int = 0
    batch_size: int = 32
    accumulate: int = 1
    max_steps: int | None = None
    budget_seconds: float | None = None
    learning_rate: float = 4e-4
    warmup_steps: int = 200
    cooldown_share: float = 0.3
    final_rate: float = 0.05
    cooldown: str = "linear"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    precision: str = "bf16"
    validate_every: int = 250
    preview_every: int = 500
    checkpoint_every: int = 250
    keep_checkpoints: int = 2
    validation_examples: int = 64
    privacy: PrivacyConfig | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError("seed lies between 0 and 2^63")
        if self.max_steps is None and self.budget_seconds is None:
            raise ValueError("a run needs an end: give max_steps or budget_seconds (--budget)")
        for name in ("batch_size", "accumulate", "keep_checkpoints", "validation_examples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if (self.max_steps is not None and self.max_steps < 1) or (self.budget_seconds is not None and self.budget_seconds <= 0):
            raise ValueError("max_steps and budget_seconds must be positive")
        if self.precision not in ("bf16", "fp32"):
            raise ValueError("precision is bf16 or fp32")
        if self.cooldown not in ("linear", "step"):
            raise ValueError("cooldown is linear or step")
        if not self.learning_rate > 0:
            raise ValueError("learning_rate must be positive")


def learning_rate_at(config: TrainingConfig, step: int, share_done: float) -> float:
    """The rate for the coming step, `share_done` in 0..1 of the whole run being over."""
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    left = max(0.0, 1 - share_done)
    if left >= config.cooldown_share:
        fall = 1.0
    elif config.cooldown == "step":
        fall = config.final_rate
    else:
        fall = config.final_rate + (1 - config.final_rate) * left / config.cooldown_share
    return config.learning_rate * min(rise, fall)
