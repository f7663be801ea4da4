"""Drawing cases: batches, bf16, a second-order sampler and few steps, against the loops of the published programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import replace
from functools import partial
from io import StringIO
from itertools import cycle
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.core.types import Case
from polypforge.models.latent_backbone import untrained_backbone
from polypforge.models.precision import fast_format, fast_inference
from polypforge.recipes import Job, Recipe
from polypforge.recipes.forge.config import WHOLE_WAY
from polypforge.recipes.forge.leap import MOST_LEAPT
from polypforge.recipes.forge.networks import context, enlarge, shrink
from polypforge.recipes.forge.recipe import Forge
from polypforge.recipes.forge.sampling import finish, noise_of, request_vectors
from polypforge.recipes.polyp_ddpm.recipe import PolypDDPM, PolypDDPMConfig
from polypforge.recipes.polyp_gen.recipe import POLYP_PROMPT, PolypGen, PolypGenConfig
from polypforge.recipes.windows import View, channels_last, finished
from polypforge.workflows.bench.contest import Contest, Side
from polypforge.workflows.bench.setting import Setting
from polypforge.workflows.train import read_settings

PLAIN_STEPS = 50
DDPM_STEPS = 250
INPAINT_STEPS = 20
INPAINT_GUIDANCE = 7.5  # diffusers' default, and the paper's


def sampling(setting: Setting) -> Contest:
    """The recipe's own steps, and other numbers, against a loop as published scripts have it: one image at a time, 50 first-order steps."""
    recipe = setting.recipe
    if not isinstance(recipe, Forge):
        raise UserError(f"the contest of sampling is for forge, and {setting.model} is {recipe.name}: leave --model out.")
    counts = dict.fromkeys((recipe.config.base_steps, WHOLE_WAY, MOST_LEAPT, *([1] if recipe.leap is not None else [])))
    ways = [Forge(replace(recipe.config, base_steps=n), recipe.base, recipe.detail, recipe.leap).eval() for n in counts]
    jobs = setting.jobs(setting.batch_size)
    ours = fast_format(setting.device)
    sides = [_in_batches(r, jobs, r.config.base_steps, _sampler(r)) for r in ways]
    for precision in dict.fromkeys(("float32", ours)):
        name = f"one at a time, {precision}, {PLAIN_STEPS} Euler steps (diffusers)"
        sides.append(Side(name, _in_turn(jobs, partial(plain_forge, recipe, steps=PLAIN_STEPS, fast=precision == "bf16")), 1))
    return Contest("sampling", f"a case of {setting.side_px} px, forge", sides, "the same weights; a whole case: window to paste")


def _sampler(recipe: Forge) -> str:
    return "leap first" if recipe.leaps else "2M"


def sampling_inpaint(setting: Setting) -> Contest:
    """Polyp-Gen's networks in the pipeline that its script calls, one image at a time: of the paper's size on a GPU, small on a CPU."""
    size = "paper" if setting.device.type == "cuda" else "starter"
    path, values, *_ = read_settings("polyp_gen", size, [], None)
    config = from_dict(PolypGenConfig, values["model"], str(path))
    config = replace(config, backbone=replace(config.backbone, weights=""), steps=PLAIN_STEPS, guidance=INPAINT_GUIDANCE)
    torch.manual_seed(0)
    backbone = untrained_backbone(config.backbone.architecture, 9, PolypGen.words).to(setting.device).eval()
    same = PolypGen(config, backbone)
    quick = PolypGen(replace(config, steps=INPAINT_STEPS, sampler="dpmpp_2m"), backbone)
    jobs, ours = setting.jobs(setting.batch_size), fast_format(setting.device)
    sides = [_in_batches(r, jobs, r.config.steps, r.config.sampler) for r in (quick, same)]
    pipeline = backbone.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    for precision in dict.fromkeys(("float32", ours)):
        name = f"one at a time, {precision}, {PLAIN_STEPS} steps (StableDiffusionInpaintPipeline)"
        sides.append(Side(name, _in_turn(jobs, partial(_plain_inpaint, pipeline, config, fast=precision == "bf16")), 1))
    what = f"a case of {setting.side_px} px, polyp_gen of {size} size at {config.size_px} px"
    return Contest("sampling_inpaint", what, sides, "random weights, guidance at every step: time, not quality")


def sampling_ddpm(setting: Setting) -> Contest:
    """Polyp-DDPM's network in the loop of the library that its program is made of, with as many steps and as many random numbers."""
    from denoising_diffusion_pytorch import GaussianDiffusion

    path, values, *_ = read_settings("polyp_ddpm", None, [], None)
    config = from_dict(PolypDDPMConfig, values["model"], str(path))
    torch.manual_seed(0)
    recipe = PolypDDPM(replace(config, steps=DDPM_STEPS)).to(setting.device).eval()
    quick = PolypDDPM(replace(config, steps=DDPM_STEPS // 10, sampler="dpmpp_2m"), recipe.unet).to(setting.device).eval()
    jobs = setting.jobs(setting.batch_size)
    theirs = GaussianDiffusion(
        Unmasked(recipe), image_size=config.size_px, timesteps=DDPM_STEPS, objective="pred_x0", beta_schedule="cosine"
    ).to(setting.device)
    sides = [_in_batches(r, jobs, r.config.steps, r.config.sampler) for r in (recipe, quick)]
    name = f"batches of {len(jobs)}, float32, {DDPM_STEPS} steps (denoising-diffusion-pytorch)"
    plain = Side(name, partial(_without_bar, partial(theirs.sample, batch_size=len(jobs))), len(jobs))
    return Contest(
        "sampling_ddpm", f"a frame of {config.size_px} px, polyp_ddpm", [*sides, plain], "starter size, random weights: time, not quality"
    )


def _in_batches(recipe: Recipe, jobs: Sequence[Job], steps: int, sampler: str) -> Side:
    name = f"batches of {len(jobs)}, {fast_format(next(recipe.parameters()).device)}, {steps} steps ({sampler})"
    return Side(name, partial(recipe.generate, jobs), len(jobs), _tflop(recipe, jobs))


def _in_turn(jobs: Sequence[Job], draw: Callable[[Sequence[Job]], object]) -> Callable[[], object]:
    """Draws one job, and the next one each time it is called: they take differently long."""
    turn = cycle(jobs)
    return lambda: draw([next(turn)])


@torch.inference_mode()
def _plain_inpaint(pipeline: Any, config: PolypGenConfig, jobs: Sequence[Job], fast: bool) -> list[Case]:
    """As Polyp-Gen's script: the pipeline fills the window, which then goes back into the frame."""
    made = []
    with fast_inference(pipeline.device) if fast else nullcontext():
        for job in jobs:
            view = View.of(job, config.window_scale, config.min_window_px)
            image, region, _ = (channels_last(p[None])[0] for p in view.planes(config.size_px))
            shown, repainted = (Image.fromarray(p.astype(np.uint8)) for p in ((image + 1) * 127.5, region[..., 0] * 255))
            drawn = pipeline(
                POLYP_PROMPT, shown, repainted, height=config.size_px, width=config.size_px, num_inference_steps=config.steps,
                guidance_scale=config.guidance, generator=torch.Generator().manual_seed(job.request.seed), output_type="np",
            ).images[0]  # fmt: skip
            pixels = view.paste(view.enlarged(drawn.astype(np.float32) * 2 - 1))
            made.append(finished(job, view.region, view.field, pixels, view.region))
    return made


@torch.inference_mode()
def plain_forge(recipe: Forge, jobs: Sequence[Job], steps: int = PLAIN_STEPS, fast: bool = False) -> list[Case]:
    """What `Forge.generate` does, written as diffusers' example loops are: no batch, first-order steps. fast: with autocast to bf16."""
    device = next(recipe.parameters()).device
    with fast_inference(device) if fast else nullcontext():
        return [_plain_case(recipe, job, steps, device) for job in jobs]


def _plain_case(recipe: Forge, job: Job, steps: int, device: torch.device) -> Case:
    config = recipe.config
    view = View.of(job, config.window_scale, config.min_window_px)
    image, region, field = (p[None].to(device) for p in view.planes(config.detail_px))
    factor = config.detail_px // config.base_px
    small = shrink(image, region, field, factor)
    asked = {"context": context(*small), "vector": torch.from_numpy(request_vectors([job])).to(device)}
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(steps)
    state = noise_of([job.request.seed], 0, config.base_px).to(image)
    for time, level in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        clean = recipe.base(state, (1 - level).expand(1).to(device), asked)
        state = scheduler.step((state - clean) / level, time, state).prev_sample
    coarse = state.clamp(-1, 1)
    coarse[:, :3] = torch.where(small[1] > 0, coarse[:, :3], small[0])
    noise = noise_of([job.request.seed], 1, config.detail_px).to(image)
    fine = recipe.detail(noise, enlarge(coarse, factor), context(image, region, field)).clamp(-1, 1)
    drawn = torch.where(region > 0, fine, torch.cat([image, -torch.ones_like(region)], 1))
    return finish(config, job, view, channels_last(drawn)[0])


def _without_bar(draw: Callable[[], object]) -> object:
    """The library shows a bar of its own for each image; ours is above it."""
    with redirect_stderr(StringIO()):
        return draw()


class Unmasked(nn.Module):
    """Polyp-DDPM's network with one mask, as the library wants its model."""

    channels, out_dim, self_condition, random_or_learned_sinusoidal_cond = 3, 3, False, False

    def __init__(self, recipe: PolypDDPM) -> None:
        super().__init__()
        self.recipe = recipe
        self.mask = torch.zeros(1, 1, recipe.config.size_px, recipe.config.size_px)

    def forward(self, x: Tensor, times: Tensor, x_self_cond: Tensor | None = None) -> Tensor:
        return self.recipe.network(x, times, self.mask.to(x).expand(len(x), -1, -1, -1))


def _tflop(recipe: Recipe, jobs: Sequence[Job]) -> float:
    """Of one case, all networks."""
    with FlopCounterMode(display=False) as counter:
        recipe.generate(jobs)
    return counter.get_total_flops() / len(jobs) / 1e12
