"""An encoder by name, a denoiser's own features included."""

from __future__ import annotations

from polypforge.features import Encoder, load_encoder
from polypforge.models.locate import locate, weights_hash
from polypforge.recipes import load_recipe
from polypforge.workflows.device import device_of

DENOISER = "denoiser:"
STARTER_ENCODER = "starter:encoder"


def open_encoder(name: str, device: str = "auto") -> Encoder:
    """`denoiser:MODEL` gives the features of a recipe's own network, else see `features.load_encoder`. Raises UserError."""
    if name.startswith(DENOISER):
        folder = locate(name.removeprefix(DENOISER))
        encoder = load_recipe(folder).to(device_of(device)).encoder().eval()
        encoder.name, encoder.version = name, weights_hash(folder)
    else:
        encoder = load_encoder(name)
    return encoder.to(device_of(device))
