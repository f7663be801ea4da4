"""Tiny real models that the tests write to disk: pipelines of diffusers, first stages, and phantom cases."""

from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from polypforge.core.types import Case
from polypforge.models.text import word_tokenizer
from polypforge.phantom.render import render

WORDS = ["polyp", "normal", "mucosa", "healthy", "small", "large", "sessile"]


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, block_out_channels=(8, 8, 8), layers_per_block=1,
        latent_channels=4, norm_num_groups=4, mid_block_add_attention=False, scaling_factor=0.5,
    )  # fmt: skip


def tiny_unet(channels: int, cross: int, **more) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16, in_channels=channels, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8, cross_attention_dim=cross, **more,
    )  # fmt: skip


def text_config(tokenizer, width: int, **more) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length, bos_token_id=1, eos_token_id=2, pad_token_id=0, **more,
    )  # fmt: skip


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1)


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory) -> dict[str, Path]:
    """Folders of tiny real pipelines: "inpaint" (SD, 9 channels), "plain" (SD, 4 channels), "xl" (SDXL, 9 channels)."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("pipelines")
    tokenizer = word_tokenizer(WORDS)
    for name, channels, kind in (("inpaint", 9, StableDiffusionInpaintPipeline), ("plain", 4, StableDiffusionPipeline)):
        kind(
            vae=tiny_vae(), text_encoder=CLIPTextModel(text_config(tokenizer, 16)), tokenizer=tokenizer, unet=tiny_unet(channels, 16),
            scheduler=scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        ).save_pretrained(root / name)  # fmt: skip
    unet = tiny_unet(9, 32, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=16 + 48)
    StableDiffusionXLInpaintPipeline(
        vae=tiny_vae(), text_encoder=CLIPTextModel(text_config(tokenizer, 16)), tokenizer=tokenizer, unet=unet, scheduler=scheduler(),
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer, 16, projection_dim=16)), tokenizer_2=tokenizer,
    ).save_pretrained(root / "xl")  # fmt: skip
    return {p.name: p for p in root.iterdir()}


@pytest.fixture(scope="session")
def first_stage(tmp_path_factory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("first_stage")
    tiny_vae().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def cases() -> list[Case]:
    found = [render(seed, 160) for seed in range(8)]
    for number, case in enumerate(found):
        case.name = f"case-{number}"
    return [c for c in found if c.mask is not None and c.mask.sum() > 150]
