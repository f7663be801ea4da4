"""Lesion segmentation as a downstream task: networks, and scores of their predictions."""
