"""How the detail stage learns: like the decoder of a latent diffusion model, from a reconstruction and a critic of patches.

An error in pixels alone makes smooth lesions, because detail can't be foreseen from the coarse image. The critic asks for *some* detail
like that of real lesions (least squares, Mao et al. 2017); matching its features keeps the training stable (Wang et al. 2018, pix2pixHD).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from polypforge.models.patch_critic import PatchCritic
from polypforge.recipes.forge.networks import Target

CRITIC_CHANNELS = 4 + 4 + 1  # detail of image and mask; coarse image and mask; region
DETAIL_GAIN = 6.0
PIXEL_SHARE = 0.25  # detail has its price, or patterns grow that are nobody's
CRITIC_RATE = 5.0  # it must learn faster than what it judges (two time scales, Heusel et al. 2017)


@dataclass(frozen=True)
class DetailLosses:
    """rebuilt: see `rebuilt_error`. fooling: what the critic still sees. judged: the critic's own loss."""

    rebuilt: Tensor
    fooling: Tensor
    judged: Tensor


def detail_losses(critic: PatchCritic, drawn: Tensor, target: Target, coarse: Tensor, factor: int) -> DetailLosses:
    """drawn, coarse: (B, 4, H, W), what the stage drew and what it was shown, both at full size.

    Only what lies in the region is compared: outside it the real image stays when lesions are made, so there `drawn` is replaced by it.
    """
    region = target.context[:, 3:4]
    made = torch.where(region > 0, drawn, target.state)
    rebuilt = rebuilt_error(made, target, factor)

    def added(state: Tensor) -> Tensor:  # what a fine image adds to the coarse one is faint beside it
        return torch.cat([DETAIL_GAIN * (state - coarse), coarse, region], 1)

    real_scores, real_features = critic(added(target.state))
    made_scores, _ = critic(added(made.detach()))
    judged = _judgement(real_scores, 1.0, region) + _judgement(made_scores, 0.0, region)
    frozen = {name: value.detach() for name, value in critic.named_parameters()}  # fooling must not teach the critic
    scores, features = functional_call(critic, frozen, (added(made),))
    pairs = zip(features, real_features, strict=True)
    matched = sum((_over_region((f - r.detach()).abs().mean(1, keepdim=True), region) for f, r in pairs), drawn.new_zeros(()))
    return DetailLosses(rebuilt, _judgement(scores, 1.0, region) + matched, judged)


def rebuilt_error(made: Tensor, target: Target, factor: int) -> Tensor:
    """Mean absolute error inside the region: of colours, as the coarse image would show them and (PIXEL_SHARE of it) pixel by pixel,
    plus that of the mask. What `made` shows outside the region is not used, so it is not judged.
    """
    region = target.context[:, 3:4]
    error, weight = region * (made - target.state), region * target.weight
    coarse = _mean(F.avg_pool2d(error[:, :3], factor).abs(), F.avg_pool2d(weight[:, :3], factor))
    fine = _mean(error[:, :3].abs(), weight[:, :3])
    return (1 - PIXEL_SHARE) * coarse + PIXEL_SHARE * fine + _mean(error[:, 3:].abs(), weight[:, 3:])


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp_min(1e-6)


def _judgement(scores: list[Tensor], wanted: float, region: Tensor) -> Tensor:
    errors = [_over_region((s.float() - wanted).square(), region) for s in scores]
    return torch.stack(errors).mean()


def _over_region(values: Tensor, region: Tensor) -> Tensor:
    """Mean of (B, 1, h, w) over those patches that show the region, by the share that they show of it."""
    return _mean(values.float(), F.adaptive_avg_pool2d(region, values.shape[-2:]))
