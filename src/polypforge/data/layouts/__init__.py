"""Readers of published and usual folder layouts; each gives a `Source`."""

from polypforge.data.layouts.detect import LAYOUTS, open_source

__all__ = ["LAYOUTS", "open_source"]
