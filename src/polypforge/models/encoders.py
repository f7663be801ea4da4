"""Frozen image encoders that recipes cluster with and are guided by, named by where their weights are.

starter:window_segmenter, or any folder of a trained judge     its encoder
a folder or hub id of a transformers vision model               DINO ViT and the like: the vector is the class token
inception_v3:FILE.safetensors, vgg19:FILE.safetensors           torchvision networks with ImageNet weights
"""

from __future__ import annotations

from pathlib import Path

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from polypforge.core.errors import UserError
from polypforge.core.files import read_json
from polypforge.models.locate import locate

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VGG_LAYERS = (1, 6)  # after the activations of conv1_1 and conv2_1


class Encoder(nn.Module):
    """`maps(image)`: feature maps (B, C, h, w), fine to coarse; `vector(image)`: (B, D). image (B, 3, H, W) in [-1, 1]."""

    def maps(self, image: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def vector(self, image: Tensor) -> Tensor:
        return self.maps(image)[-1].mean((-2, -1))


class JudgeEncoder(Encoder):
    """The encoder of a window segmenter, which was trained on frames in [-1, 1]."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        config = read_json(folder / "config.json")["config"]
        self.size = config["window_px"]
        self.net = smp.encoders.get_encoder(config["encoder"], depth=config["depth"], weights=None)
        stored = load_file(folder / "model.safetensors")
        self.net.load_state_dict({k.removeprefix("encoder."): v.float() for k, v in stored.items() if k.startswith("encoder.")})

    def maps(self, image: Tensor) -> list[Tensor]:
        if image.shape[-1] != self.size:
            image = F.interpolate(image, (self.size, self.size), mode="bilinear", antialias=True)
        return list(self.net(image))[1:]


class TorchvisionEncoder(Encoder):
    """Inception v3 (pool features) or VGG19 (conv1_1 and conv2_1), fed with ImageNet-normalised images."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__()
        from torchvision.models import inception_v3, vgg19

        net = vgg19(weights=None) if name == "vgg19" else inception_v3(weights=None, init_weights=False, aux_logits=True)
        net.load_state_dict(load_file(path))
        if name == "inception_v3":
            net.fc = nn.Identity()
        self.name, self.net = name, net

    def maps(self, image: Tensor) -> list[Tensor]:
        if self.name != "vgg19":
            raise UserError("inception_v3 gives no feature maps here: use vgg19 for the perceptual loss.")
        x, found = imagenet(image), []
        for i, layer in enumerate(self.net.features):
            x = layer(x)
            if i in VGG_LAYERS:
                found.append(x)
            if i == VGG_LAYERS[-1]:
                break
        return found

    def vector(self, image: Tensor) -> Tensor:
        if self.name == "vgg19":
            return super().vector(image)
        return self.net(F.interpolate(imagenet(image), (299, 299), mode="bilinear", antialias=True))


class TransformersEncoder(Encoder):
    """A vision transformer of the transformers library; the vector is its class token after the last norm."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        self.net = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)

    def vector(self, image: Tensor) -> Tensor:
        size = self.net.config.image_size
        resized = F.interpolate(imagenet(image), (size, size), mode="bicubic", antialias=True)
        return self.net(pixel_values=resized).last_hidden_state[:, 0]

    def maps(self, image: Tensor) -> list[Tensor]:
        raise UserError("a vision transformer gives no feature maps here: use vgg19 or a judge for the perceptual loss.")


def imagenet(image: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1] -> normalised by ImageNet's mean and spread."""
    mean, std = (torch.tensor(v, device=image.device).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((image + 1) / 2 - mean) / std


def load_encoder(name: str) -> Encoder:
    """The encoder that `name` says, frozen. Raises UserError."""
    kind, sign, path = name.partition(":")
    try:
        if sign and kind in ("inception_v3", "vgg19"):
            encoder: Encoder = TorchvisionEncoder(kind, Path(path))
        else:
            folder = locate(name)
            is_judge = read_json(folder / "config.json").get("model") == "window_segmenter"
            encoder = JudgeEncoder(folder) if is_judge else TransformersEncoder(folder)
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"the encoder '{name}' could not be read ({str(error).splitlines()[0]}).") from error
    return encoder.eval().requires_grad_(False)
