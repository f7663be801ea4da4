"""Settings of `forge` that belong to the model: they are saved with its weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from polypforge.models.unet import UNetShape
from polypforge.recipes.forge.texture_loss import TILE_PX

WHOLE_WAY = 20  # plain steps that lose nothing
MOST_GRAIN = 8.0  # a coarser texture would need more of the drawing around a region than is brought into the frame


@dataclass(frozen=True)
class ForgeConfig:
    """Two stages look at one square window of the frame: `base` draws it small, `detail` redraws it at full size.

    base_px, detail_px: sides of the two stages' windows. detail_crop_px: side of the crops that train the detail stage.
    window_scale: side of the window / longer side of the region when generating. min_window_px: least side, frame pixels.
    normal_share: share of training regions that hold no lesion. turned: share of training windows that are
    moved, mirrored and turned; the others lie as those that are drawn into. drop_all, drop_each: chance to hide all attributes and the
    class, or one attribute. detail_batch_share: share of each batch that trains the detail stage.
    lesion_weight, surround_weight, mask_weight: loss weight inside the lesion, outside the region, and of the mask channel (1 = the
    weight of a colour channel inside the region; the detail stage weighs its mask like its colours). base_time: mean and spread of
    the logistic-normal times. low_res_noise: most noise added to the small image that the detail stage is shown in training.
    texture_weight: of the detail's texture, beside its error pixel by pixel. leap_rank: of the change of the base stage that draws in one
    step what the stage draws in several; 0: few steps are plain ones. learns: which of the stages and the leap do; the others stay as they
    are. grain: scale of the surroundings' fine detail that drawn tissue is given, standard deviation in pixels of a window of 256 (0:
    none). glints: share of the drawn tissue's reflected light that makes room for sharp wet spots. base_steps, guidance, base_shift: the
    sampler's defaults; up to MOST_LEAPT base_steps set out with the leap, where there is one and no guidance.
    """

    base: UNetShape = field(default_factory=lambda: UNetShape((96, 144, 192), (False, False, True), patch_px=4, norm_groups=48))
    detail: UNetShape = field(default_factory=lambda: UNetShape((64, 96, 128), (False, False, False), patch_px=4, norm_groups=32))
    base_px: int = 64
    detail_px: int = 256
    detail_crop_px: int = 128
    detail_batch_share: float = 0.25
    window_scale: float = 1.75
    min_window_px: int = 72
    normal_share: float = 0.25
    turned: float = 1.0
    drop_all: float = 0.12
    drop_each: float = 0.15
    lesion_weight: float = 0.5
    surround_weight: float = 0.08
    mask_weight: float = 0.7
    base_time: tuple[float, float] = (-0.5, 1.0)
    low_res_noise: float = 0.12
    texture_weight: float = 0.5
    leap_rank: int = 0
    learns: tuple[str, ...] = ("base", "detail")
    grain: float = 2.0
    glints: float = 0.8
    base_steps: int = WHOLE_WAY
    guidance: float = 1.0
    base_shift: float = 1.0

    def __post_init__(self) -> None:
        if self.detail_px % self.base_px or self.base_px % self.base.patch_px or self.detail_crop_px % self.detail.patch_px:
            raise ValueError("detail_px must be a multiple of base_px, and both of their patches")
        if not 0 <= self.drop_all < 1 or not 0 <= self.drop_each < 1 or not 0 <= self.normal_share <= 1 or not 0 <= self.turned <= 1:
            raise ValueError("drop_all, drop_each, normal_share and turned are probabilities")
        if self.detail_crop_px != TILE_PX and self.detail_crop_px % (2 * TILE_PX):
            raise ValueError(f"detail_crop_px must be {TILE_PX} or a multiple of {2 * TILE_PX}, in which textures are compared")
        if not self.learns or not set(self.learns) <= {"base", "detail", "leap"}:
            raise ValueError("learns names base, detail, leap or several of them")
        if self.leap_rank < 0 or ("leap" in self.learns and not self.leap_rank):
            raise ValueError("leap_rank is 1 or more for a leap that learns, 8 for example, and 0 for none")
        if self.leap_rank and self.base_px != TILE_PX and self.base_px % (2 * TILE_PX):
            raise ValueError(f"base_px must be {TILE_PX} or a multiple of {2 * TILE_PX} for leaps, whose textures are compared")
        if self.texture_weight < 0:
            raise ValueError("texture_weight is at least 0")
        if not 0 <= self.grain <= MOST_GRAIN:
            raise ValueError(f"grain lies between 0 and {MOST_GRAIN:g}")
        if not 0 <= self.glints <= 1:
            raise ValueError("glints is a share between 0 and 1")
