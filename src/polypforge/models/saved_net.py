"""Saving and loading of models that are one network, `net`, built from `config`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from polypforge.core.config import from_dict
from polypforge.core.errors import UserError
from polypforge.core.files import read_json


class SavedNet:
    """To be mixed into a Trainable: `config.json` and `model.safetensors`."""

    name: ClassVar[str]
    config_class: ClassVar[type]
    net: nn.Module

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # clones: some networks hold one tensor under two names
        state = {k: v.detach().cpu().contiguous().clone() for k, v in self.net.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        self.save_config(folder)  # type: ignore[attr-defined]

    @classmethod
    def load_pretrained(cls, folder: Path) -> Self:
        """In single precision, whatever was stored. Raises UserError for another model's folder, or a damaged one."""
        stored = read_json(folder / "config.json")
        if not isinstance(stored, dict) or stored.get("model") != cls.name or "config" not in stored:
            raise UserError(f"{folder / 'config.json'} is no {cls.name} that `polypforge train` saved.")
        model: Any = cls(from_dict(cls.config_class, stored["config"], str(folder / "config.json")))  # type: ignore[call-arg]
        try:
            state = load_file(folder / "model.safetensors")
            model.net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"{folder} is incomplete or damaged ({str(error).splitlines()[0]}): restore it or train again.") from error
        return model
