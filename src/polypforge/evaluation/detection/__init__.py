"""Lesion detection as a downstream task: networks, and average precision."""
