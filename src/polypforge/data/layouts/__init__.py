"""Readers of published and usual folder layouts; each gives a `Source`."""

from polypforge.data.layouts.detect import LAYOUTS, listed_splits, open_source

__all__ = ["LAYOUTS", "listed_splits", "open_source"]
