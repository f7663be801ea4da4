"""Seeds that belong to a thing (a sample, a step), never to a position in a batch."""

import hashlib
import json
from typing import Any

import numpy as np


def content_hash(content: Any, length: int = 16) -> str:
    """Hexadecimal SHA-256 prefix of `content` written as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def seed_from(*parts: Any) -> int:
    """A 63-bit seed that is a pure function of `parts` (any JSON values)."""
    return int(content_hash(list(parts)), 16) >> 1


def numpy_rng(*parts: Any) -> np.random.Generator:
    """A NumPy generator whose stream depends only on `parts`."""
    return np.random.default_rng(seed_from(*parts))
