"""Encoders of segmentation-models-pytorch and their weights, by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from polypforge.core.errors import UserError


@contextmanager
def known_encoder(encoder: str) -> Iterator[None]:
    """Turns what the library says of an encoder that it doesn't know, or not in this depth, into one sentence."""
    try:
        yield
    except (KeyError, RuntimeError, ValueError) as error:
        what = str(error).splitlines()[0]
        raise UserError(f"encoder {encoder} can't be built ({what}): choose one of segmentation-models-pytorch.") from error


def named_weights(encoder: str, weights: str) -> str | None:
    """The name to build with; None for "". Raises UserError for what can be no name: for encoders of timm that library takes anything,
    a mistyped path too, for weights learned from ImageNet."""
    if weights and ("/" in weights or "\\" in weights or (encoder.startswith("tu-") and weights != "imagenet")):
        names = "imagenet" if encoder.startswith("tu-") else "a name that the encoder knows, such as imagenet"
        raise UserError(f"weights '{weights}': no such file or folder is here, and it is no name either ({names}).")
    return weights or None
