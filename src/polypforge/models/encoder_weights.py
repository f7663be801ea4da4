"""Weights of an encoder by a name that segmentation-models-pytorch knows."""

from __future__ import annotations

from polypforge.core.errors import UserError


def named_weights(encoder: str, weights: str) -> str | None:
    """The name to build with; None for "". Raises UserError for what can be no name: for encoders of timm that library takes anything,
    a mistyped path too, for weights learned from ImageNet."""
    if weights and ("/" in weights or "\\" in weights or (encoder.startswith("tu-") and weights != "imagenet")):
        names = "imagenet" if encoder.startswith("tu-") else "a name that the encoder knows, such as imagenet"
        raise UserError(f"weights '{weights}': no such file or folder is here, and it is no name either ({names}).")
    return weights or None
