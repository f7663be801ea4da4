"""A critic of small patches: which parts of an image look real, given what the image should show (Isola et al. 2017)."""

import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from polypforge.models.precision import fast_layout


class PatchCritic(ModelMixin, ConfigMixin):
    """(B, channels, H, W) -> scores and features of patches of growing size. H and W are multiples of 8.

    It starts on blocks of 2x2 pixels; each entry of `widths` after the first halves the resolution once more.
    """

    @register_to_config
    def __init__(self, channels: int, widths: tuple[int, ...] = (48, 96, 128), groups: int = 8) -> None:
        super().__init__()
        ins = (4 * channels, *widths[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, width, 4 if number else 3, 2 if number else 1, 1),
                nn.GroupNorm(groups, width),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, width, 3, 1, 1),
                nn.GroupNorm(groups, width),
                nn.LeakyReLU(0.2),
            )
            for number, (before, width) in enumerate(zip(ins, widths, strict=True))
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in widths)

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(scores (B, 1, h, w), features (B, C, h, w)), one of each a stage; real is meant to score 1 and made 0."""
        state = F.pixel_unshuffle(image, 2).contiguous(memory_format=fast_layout(self, image.device))
        scores, features = [], []
        for stage, head in zip(self.stages, self.heads, strict=True):
            state = stage(state)
            features.append(state)
            scores.append(head(state))
        return scores, features
