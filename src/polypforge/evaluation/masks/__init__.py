"""Measures of generated labels."""
