"""Distances between two sets of pictures, from their features or their pixels."""
