"""Requests in shards that can run anywhere: whoever needs another's result is in the same shard."""

from __future__ import annotations

from collections.abc import Sequence

from polypforge.core.types import Request


def shards_of(requests: Sequence[Request], size: int) -> list[list[Request]]:
    """Lists of about `size` requests, in order; a chain of parents and children is never torn, so a shard may be longer."""
    by_id = {r.id: r for r in requests}
    families: dict[str, list[Request]] = {}
    for request in requests:
        root = request
        while root.parent in by_id:
            root = by_id[root.parent]
        families.setdefault(root.id, []).append(request)
    shards: list[list[Request]] = []
    for family in families.values():
        if not shards or len(shards[-1]) >= size:
            shards.append([])
        shards[-1] += family
    return shards
