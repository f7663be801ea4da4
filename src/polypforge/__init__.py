"""PolypForge: expand a small labelled endoscopy data set with realistic, validated, synthetic labelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Recipe", "UserError", "__version__", "downstream", "evaluate", "expand", "load_dataset", "register_gate"]

if TYPE_CHECKING:
    from polypforge.core.errors import UserError
    from polypforge.data.layouts import open_source as load_dataset
    from polypforge.quality.gates import register_gate
    from polypforge.recipes import Recipe
    from polypforge.workflows.downstream.experiment import downstream
    from polypforge.workflows.evaluate import evaluate
    from polypforge.workflows.expand import expand

_HOMES = {
    "expand": ("polypforge.workflows.expand", "expand"),
    "evaluate": ("polypforge.workflows.evaluate", "evaluate"),
    "downstream": ("polypforge.workflows.downstream.experiment", "downstream"),
    "load_dataset": ("polypforge.data.layouts", "open_source"),
    "Recipe": ("polypforge.recipes", "Recipe"),
    "register_gate": ("polypforge.quality.gates", "register_gate"),
    "UserError": ("polypforge.core.errors", "UserError"),
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import polypforge` stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'polypforge' has no attribute '{name}'")
    from importlib import import_module

    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
