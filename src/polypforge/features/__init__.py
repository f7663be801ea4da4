"""Image encoders behind one interface, by name:

starter:encoder, or a folder that `polypforge train frame_encoder` saved    the project's own, dense
starter:window_segmenter, or the folder of another window segmenter          the encoder of a judge
a folder or hub id of a transformers vision model                            DINOv2, DINO, ViT, CLIP
fid_inception, clean_inception, either with :FILE                            the network of FID; by default torch.hub's copy of its weights
random_vgg                                                                   a VGG16 with fixed random weights: needs no file
inception_v3:, vgg16:, vgg19:FILE.safetensors                                torchvision networks with ImageNet weights

A denoiser's own features come from its recipe (`Recipe.encoder`).
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torchvision.models.inception import Inception3

from polypforge.core.errors import UserError
from polypforge.core.files import read_json_object, sha256_of
from polypforge.features.base import Encoder
from polypforge.features.classic import TorchvisionEncoder
from polypforge.features.frame_encoder import DenseEncoder, FrameEncoder
from polypforge.features.inception import SOURCE, WEIGHTS, FidInception, inception_network, weights_file
from polypforge.features.judge import JudgeEncoder
from polypforge.features.random_vgg import RandomVGG
from polypforge.features.vit import ClipEncoder, TransformersEncoder
from polypforge.models.locate import locate, weights_hash

__all__ = ["Encoder", "load_encoder"]


def load_encoder(name: str) -> Encoder:
    """The encoder that `name` says, frozen. Raises UserError."""
    kind, sign, path = name.partition(":")
    encoder: Encoder
    try:
        if name == "random_vgg":
            return RandomVGG().eval().requires_grad_(False)
        if kind in ("fid_inception", "clean_inception"):
            file = Path(path) if sign else weights_file()
            encoder, version = FidInception(_read_inception(file), "clean" if kind[0] == "c" else "tensorflow"), sha256_of(file)[:16]
        elif sign and kind in ("inception_v3", "vgg16", "vgg19"):
            encoder = TorchvisionEncoder(kind, Path(path))
            version = sha256_of(Path(path))[:16]
        else:
            folder = locate(name)
            encoder, version = _from_folder(folder), weights_hash(folder)
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError, UnpicklingError, EOFError) as error:
        raise UserError(f"the encoder '{name}' could not be read ({str(error).splitlines()[0]}).") from error
    encoder.name, encoder.version = name, version
    return encoder.eval().requires_grad_(False)


def _read_inception(file: Path) -> Inception3:
    """The network of FID with weights from a safetensors file or torch.hub's. Raises UserError that tells where they come from."""
    if not file.is_file():
        digest = WEIGHTS.rsplit("-", 1)[1].removesuffix(".pth")
        raise UserError(
            f"{file} is missing: it holds the Inception weights of FID. Fetch {SOURCE} (SHA-256 begins with {digest}) to that place, "
            "or name a copy: fid_inception:FILE. Without it, use starter:encoder or random_vgg."
        )
    digest = file.stem.rsplit("-", 1)[-1]
    if file.name == WEIGHTS and not sha256_of(file).startswith(digest):
        raise UserError(f"{file} is damaged: its SHA-256 doesn't begin with {digest}. Fetch it again from {SOURCE}.")
    state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    net = inception_network()
    net.load_state_dict(state)
    return net


def _from_folder(folder: Path) -> Encoder:
    config = read_json_object(folder / "config.json")
    if config.get("model_type") in ("clip", "clip_vision_model"):
        return ClipEncoder(folder)
    if config.get("model") == FrameEncoder.name:
        return DenseEncoder(FrameEncoder.load_pretrained(folder))
    return JudgeEncoder(folder) if config.get("model") == "window_segmenter" else TransformersEncoder(folder)
