"""Image encoders behind one interface, by name:

starter:encoder, or a folder that `polypforge train frame_encoder` saved    the project's own, dense
starter:window_segmenter, or the folder of another window segmenter          the encoder of a judge
a folder or hub id of a transformers vision model                            DINOv2, DINO, ViT
inception_v3:FILE.safetensors, vgg19:FILE.safetensors                         torchvision networks with ImageNet weights

A denoiser's own features come from its recipe (`Recipe.encoder`).
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError

from polypforge.core.errors import UserError
from polypforge.core.files import read_json, sha256_of
from polypforge.features.base import Encoder
from polypforge.features.classic import TorchvisionEncoder
from polypforge.features.frame_encoder import DenseEncoder, FrameEncoder
from polypforge.features.judge import JudgeEncoder
from polypforge.features.vit import TransformersEncoder
from polypforge.models.locate import locate, weights_hash

__all__ = ["Encoder", "load_encoder"]


def load_encoder(name: str) -> Encoder:
    """The encoder that `name` says, frozen. Raises UserError."""
    kind, sign, path = name.partition(":")
    try:
        if sign and kind in ("inception_v3", "vgg19"):
            encoder: Encoder = TorchvisionEncoder(kind, Path(path))
            version = sha256_of(Path(path))[:16]
        else:
            folder = locate(name)
            encoder, version = _from_folder(folder), weights_hash(folder)
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"the encoder '{name}' could not be read ({str(error).splitlines()[0]}).") from error
    encoder.name, encoder.version = name, version
    return encoder.eval().requires_grad_(False)


def _from_folder(folder: Path) -> Encoder:
    config = read_json(folder / "config.json")
    if config.get("model") == FrameEncoder.name:
        return DenseEncoder(FrameEncoder.load_pretrained(folder))
    return JudgeEncoder(folder) if config.get("model") == "window_segmenter" else TransformersEncoder(folder)
