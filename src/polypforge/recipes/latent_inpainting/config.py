"""Settings that all latent inpainting recipes share; they are saved with the weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from polypforge.models.latent_backbone import BackboneConfig


@dataclass(frozen=True)
class LatentInpaintingConfig:
    """backbone: the networks. size_px: side of the window they see. window_scale: side of that window / longer side of the region.
    min_window_px: its least side in frame pixels. fill: what the network is shown in the region, "blank" (grey, as pretrained weights
    know it) or "smooth" (filled from around, which a small network needs). views: fixed windows of each frame, whose latents are cached.
    prompt_dropout: chance to train without prompt, which guidance needs. snr_gamma: min-SNR weighting, or null. steps, sampler, eta,
    spacing, guidance, negative_prompt: sampling. guided_sigmas: noise levels between which guidance works; at the others the network runs
    once instead of twice (Kynkaanniemi et al. 2024). skip: share of the first steps that latent blending leaves out."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    size_px: int = 512
    window_scale: float = 2.0
    min_window_px: int = 72
    fill: str = "blank"
    views: int = 16
    prompt_dropout: float = 0.1
    snr_gamma: float | None = None
    steps: int = 50
    sampler: str = "ddim"
    spacing: str = "even"
    eta: float = 0.0
    guidance: float = 7.5
    guided_sigmas: tuple[float, float] = (0.0, 1e9)
    negative_prompt: str = ""
    skip: float = 0.25

    def __post_init__(self) -> None:
        from polypforge.diffusion.samplers import SAMPLERS

        if self.fill not in ("blank", "smooth"):
            raise ValueError("fill is blank or smooth")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler is one of {', '.join(SAMPLERS)}")
        if self.spacing not in ("even", "karras"):
            raise ValueError("spacing is even (in the schedule's times) or karras (EDM)")
        if not 0 <= self.prompt_dropout < 1 or not 0 <= self.skip < 1 or not 0 <= self.eta <= 1:
            raise ValueError("prompt_dropout, skip and eta lie between 0 and 1")
        if self.guidance != 1 and self.prompt_dropout == 0 and not self.backbone.weights:
            raise ValueError("guidance needs prompt_dropout: without it the network never learns what no prompt means")
        if not 0 <= self.guided_sigmas[0] < self.guided_sigmas[1]:
            raise ValueError("guided_sigmas are two noise levels from 0 on, the smaller one first")
        if self.steps < 1 or self.views < 1 or self.size_px % 8:
            raise ValueError("steps and views are at least 1, size_px is a multiple of 8")
