"""Settings of `diffuse_gen`; they are saved with its weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from polypforge.diffusion.gaussian import DiffusionConfig
from polypforge.models.unet import UNetShape

PAPER_UNET = UNetShape(
    (256, 256, 512, 512, 1024, 1024), (False, False, False, False, True, True), layers=2, patch_px=1, head_dim=64, scale_shift=True,
    resample="resnet",
)  # fmt: skip


@dataclass(frozen=True)
class StylingConfig:
    """enabled: guide a second reverse diffusion of the inpainted image. start: the respaced step to start from (119 of 200 in the paper).
    The weights of the seven losses (0 switches one off): zecon (PatchNCE on U-Net features), vgg (perceptual, needs `perceptual`), mse (to
    the inpainted image), style (distance of vectors to the real source, needs `semantics`), l2 (to the real source), semantic (distance
    of vectors between steps, which it *raises*), range (values beyond [-1, 1]). patches, tau: of PatchNCE. colour_transfer: give the
    result the source's colours. perceptual, semantics: encoders, see `polypforge.features`; not the
    judge that will gate the result, or it would judge what was made to please it."""

    enabled: bool = False
    start: int = 119
    zecon: float = 500.0
    vgg: float = 100.0
    mse: float = 5000.0
    style: float = 10000.0
    l2: float = 10000.0
    semantic: float = 40000.0
    range: float = 200.0
    patches: int = 256
    tau: float = 0.07
    colour_transfer: bool = True
    perceptual: str = ""
    semantics: str = ""

    def __post_init__(self) -> None:
        if self.enabled and ((self.vgg and not self.perceptual) or ((self.style or self.semantic) and not self.semantics)):
            raise ValueError(
                "styling needs encoders for its losses: name them in styling.perceptual and styling.semantics, or set the losses to 0"
            )


@dataclass(frozen=True)
class DiffuseGenConfig:
    """clusters: K of the clustering. models: "per_cluster", one network for each, or "one" for all data. features: the encoder that
    clusters image and mask. smallest_cluster: a cluster of fewer cases is refused. view: "frame", the largest square of the frame (the
    paper), or "window" around the region. steps, jump_length, resamples: RePaint's spaced schedule and jumps. dilate_px: of the mask, at
    256. opening_px: radius of the opening of the drawn mask, at 256."""

    unet: UNetShape = PAPER_UNET
    size_px: int = 256
    diffusion: DiffusionConfig = field(default_factory=lambda: DiffusionConfig(learned_variance=True))
    clusters: int = 20
    models: str = "per_cluster"
    features: str = "starter:window_segmenter"
    smallest_cluster: int = 2
    cluster_seed: int = 0
    view: str = "frame"
    window_scale: float = 1.75
    min_window_px: int = 72
    steps: int = 200
    jump_length: int = 10
    resamples: int = 5
    dilate_px: float = 20.0
    opening_px: float = 3.0
    styling: StylingConfig = field(default_factory=StylingConfig)

    def __post_init__(self) -> None:
        if self.size_px % self.unet.step_px:
            raise ValueError(f"size_px must be a multiple of {self.unet.step_px}, as this U-Net halves its images")
        if self.models not in ("per_cluster", "one") or self.view not in ("frame", "window"):
            raise ValueError("models is per_cluster or one; view is frame or window")
        if self.clusters < 1 or self.smallest_cluster < 1:
            raise ValueError("clusters and smallest_cluster are at least 1")
        self.diffusion.schedule.refuse_steps(self.steps)
        if self.jump_length < 1 or self.resamples < 1:
            raise ValueError("jump_length and resamples are at least 1")
        if self.styling.enabled and not 0 < self.styling.start < self.steps:
            raise ValueError("styling.start must lie between 1 and steps - 1")

    @property
    def networks(self) -> int:
        return self.clusters if self.models == "per_cluster" else 1
