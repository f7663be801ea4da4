"""The networks of Stable-Diffusion-like recipes: first stage, text encoders, U-Net, and where there is one a ControlNet.

They are built small from scratch, or read from a diffusers pipeline folder (SD or SDXL), and saved as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from polypforge.core.config import read_yaml
from polypforge.core.errors import UserError
from polypforge.core.files import read_json
from polypforge.models.first_stage import Autoencoder, load_autoencoder
from polypforge.models.locate import locate
from polypforge.models.text import TextCondition, TextEncoders, small_text_encoder, word_tokenizer

LORA_TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]


@dataclass(frozen=True)
class BackboneConfig:
    """weights: a pipeline folder or hub id; "" starts from scratch. architecture: sizes from `configs/backbones`, used from scratch and
    by --dry-run. first_stage: where the autoencoder comes from when starting from scratch. control_weights: a ControlNet to start from.
    lora_rank: train low-rank adapters of that rank instead of the whole U-Net; 0 trains the U-Net."""

    weights: str = ""
    architecture: str = "starter"
    first_stage: str = "starter:first_stage"
    control_weights: str = ""
    lora_rank: int = 0

    def __post_init__(self) -> None:
        if self.lora_rank < 0:
            raise ValueError("lora_rank is 0 or more")
        if self.lora_rank and not self.weights:
            raise ValueError("lora_rank needs pretrained weights to adapt")


class LatentBackbone(nn.Module):
    """unet in latents of `vae`, told of prompts by `text`; see `network`."""

    def __init__(
        self, vae: Autoencoder, unet: UNet2DConditionModel, text: TextEncoders, scheduler: dict[str, Any], control: ControlNetModel | None
    ) -> None:
        super().__init__()
        self.vae, self.unet, self.text, self.scheduler, self.control = vae, unet, text, scheduler, control

    @property
    def is_xl(self) -> bool:
        return len(self.text.encoders) > 1

    def conditions(self, ids: Tensor) -> dict[str, Tensor]:
        """Text conditions of token ids (B, E, L)."""
        text: TextCondition = self.text(ids)
        return {"hidden": text.hidden} if text.pooled is None else {"hidden": text.hidden, "pooled": text.pooled}

    def network(self, state: Tensor, times: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B, 4, h, w) noisy latents -> the raw prediction. cond: hidden; pooled (SDXL); extra (B, 5, h, w), mask and masked-image latents
        in the order that pretrained inpainting weights know; control (B, 3, H, W) in [0, 1]."""
        seen = torch.cat([state, cond["extra"]], 1) if "extra" in cond else state
        added: dict[str, Any] = {}
        if self.is_xl:
            side = state.shape[-1] * self.vae.factor
            ids = torch.tensor([side, side, 0, 0, side, side], device=state.device, dtype=torch.float32).expand(len(state), -1)
            added["added_cond_kwargs"] = {"text_embeds": cond["pooled"], "time_ids": ids}
        if self.control is not None:
            down, middle = self.control(seen, times, cond["hidden"], cond["control"], return_dict=False, **added)
            added |= {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return self.unet(seen, times, cond["hidden"], **added).sample

    def save(self, folder: Path) -> None:
        """A pipeline folder that plain diffusers opens."""
        self.pipeline().save_pretrained(folder)

    def pipeline(self) -> Any:
        """The same networks in the pipeline of diffusers that is made for them."""
        shared = {
            "vae": self.vae.vae,
            "unet": self.unet,
            "scheduler": DDIMScheduler.from_config(self.scheduler | {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
            "tokenizer": self.text.tokenizers[0],
            "text_encoder": self.text.encoders[0],
        }
        if self.is_xl:
            shared |= {"tokenizer_2": self.text.tokenizers[1], "text_encoder_2": self.text.encoders[1]}
        else:
            shared |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        if self.control is not None:
            shared["controlnet"] = self.control
        import diffusers

        xl = "XL" if self.is_xl else ""
        kind = "ControlNetInpaint" if self.control is not None else "Inpaint" if self.unet.config.in_channels == 9 else ""
        return getattr(diffusers, f"StableDiffusion{xl}{kind}Pipeline")(**shared)


def build_backbone(config: BackboneConfig, in_channels: int, words: Sequence[str], control: bool) -> LatentBackbone:
    """in_channels: 9 for inpainting weights, 4 for plain ones. words: what a text encoder learned from scratch will know.

    Under `torch.device("meta")` nothing is read but the architecture. Raises UserError when the weights don't fit.
    """
    if config.weights and not _on_meta():
        return load_backbone(locate(config.weights), in_channels, control, config)
    settings = architecture(config.architecture)
    pretrained = "vocab_size" in settings["text"][0]
    if pretrained and not _on_meta():
        raise UserError(f"architecture {config.architecture} reads prompts by pretrained weights: name them (model.backbone.weights).")
    if _on_meta() or not config.first_stage:
        vae = AutoencoderKL(**_tuples(settings["vae"]) | _vae_blocks(settings["vae"]))
    else:
        vae = load_autoencoder(locate(config.first_stage))  # type: ignore[assignment]
    unet = UNet2DConditionModel(**_tuples(settings["unet"]), in_channels=in_channels, out_channels=vae.config.latent_channels)
    if pretrained:
        encoders = [
            (CLIPTextModelWithProjection if "projection_dim" in t else CLIPTextModel)(CLIPTextConfig(**t)) for t in settings["text"]
        ]
        text = TextEncoders([], encoders, frozen=True)
    else:
        tokenizer = word_tokenizer(words)
        text = TextEncoders([tokenizer], [small_text_encoder(tokenizer, settings["text"][0])], frozen=False)
    net = _control(unet, 2 ** (len(vae.config.block_out_channels) - 1)) if control else None
    _hold(unet, config, control)
    return LatentBackbone(Autoencoder(vae), unet, text, settings["scheduler"], net)


def untrained_backbone(name: str, in_channels: int, words: Sequence[str]) -> LatentBackbone:
    """Networks of that architecture that never learned anything, whatever weights it usually has: for measuring time, not for pictures."""
    settings = architecture(name)
    vae = AutoencoderKL(**_tuples(settings["vae"]) | _vae_blocks(settings["vae"]))
    unet = UNet2DConditionModel(**_tuples(settings["unet"]), in_channels=in_channels, out_channels=vae.config.latent_channels)
    text, tokenizer = settings["text"][0], word_tokenizer(words)
    if "vocab_size" in text:
        tokenizer.model_max_length = text["max_position_embeddings"]
        encoder = CLIPTextModel(CLIPTextConfig(**text))
    else:
        encoder = small_text_encoder(tokenizer, text)
    return LatentBackbone(Autoencoder(vae), unet, TextEncoders([tokenizer], [encoder], frozen=True), settings["scheduler"], None)


def load_backbone(folder: Path, in_channels: int, control: bool, config: BackboneConfig) -> LatentBackbone:
    """From a pipeline folder of diffusers. Raises UserError for missing parts and for another channel count."""
    index = read_json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    parts = ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] + (
        ["text_encoder_2", "tokenizer_2"] if "text_encoder_2" in index else []
    )
    missing = [p for p in parts if not (folder / p).is_dir()]
    if missing:
        raise UserError(f"{folder} is no complete pipeline: {', '.join(missing)} is missing; fetch the whole repository again.")
    found = read_json(folder / "unet" / "config.json").get("in_channels")
    if found != in_channels:
        kind = "an inpainting checkpoint" if in_channels == 9 else "a plain checkpoint, not an inpainting one"
        raise UserError(f"{folder / 'unet'} takes {found} channels where this recipe needs {in_channels}: choose {kind}.")
    try:
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True, use_safetensors=True)
        encoders: list[nn.Module] = [CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True, use_safetensors=True)]
        tokenizers = [AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)]
        if "text_encoder_2" in index:
            encoders.append(
                CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2", local_files_only=True, use_safetensors=True)
            )
            tokenizers.append(AutoTokenizer.from_pretrained(folder / "tokenizer_2", local_files_only=True))
        net = None
        if control:
            own = folder / "controlnet" if (folder / "controlnet").is_dir() else None
            place = locate(config.control_weights) if config.control_weights else own
            net = ControlNetModel.from_pretrained(place, local_files_only=True, use_safetensors=True) if place else None
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} is incomplete or damaged ({str(error).splitlines()[0]}): restore it or fetch it again.") from error
    vae = load_autoencoder(folder / "vae")
    if control:
        net = net or _control(unet, 2 ** (len(vae.config.block_out_channels) - 1))
    _hold(unet, config, control)
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    return LatentBackbone(Autoencoder(vae), unet, TextEncoders(tokenizers, encoders, frozen=True), scheduler, net)


def _hold(unet: UNet2DConditionModel, config: BackboneConfig, control: bool) -> None:
    """Freeze what pretrained weights keep: the U-Net beside a ControlNet, or all but low-rank adapters."""
    if control and config.weights:
        unet.requires_grad_(False)
    if config.lora_rank:
        try:
            from peft import LoraConfig
        except ImportError:
            raise UserError("lora_rank needs peft: pip install 'polypforge[lora]'.") from None
        unet.requires_grad_(False)
        rank = config.lora_rank
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=LORA_TARGETS))


def architecture(name: str) -> dict[str, Any]:
    folder = Path(str(files("polypforge") / "configs" / "backbones"))
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if name not in known:
        raise UserError(f"there is no backbone architecture '{name}': choose one of {', '.join(known)}.")
    return read_yaml(folder / f"{name}.yaml")


def _control(unet: UNet2DConditionModel, factor: int) -> ControlNetModel:
    """A ControlNet that starts as a copy of the U-Net's encoder and changes nothing yet (Zhang et al. 2023)."""
    widths = (16, 32, 96, 256)[: factor.bit_length()]  # each width after the first halves the control image
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=widths)


def _on_meta() -> bool:
    return torch.empty(0).is_meta


def _tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}


def _vae_blocks(settings: Mapping[str, Any]) -> dict[str, Any]:
    levels = len(settings["block_out_channels"])
    return {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
