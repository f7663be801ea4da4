from hypothesis import given
from hypothesis import strategies as st

from polypforge.core.types import Request
from polypforge.generation.shards import shards_of


@given(st.lists(st.integers(-1, 8), max_size=25), st.integers(1, 6))
def test_every_request_is_in_one_shard_together_with_its_family(links, size):
    """links: each request's parent among those before it, or none."""
    requests: list[Request] = []
    for i, link in enumerate(links):
        requests.append(Request("a", "polyp", (), i, parent=requests[link].id if 0 <= link < i else ""))
    shards = shards_of(requests, size)
    assert sorted(r.id for s in shards for r in s) == sorted(r.id for r in requests)
    for shard in shards:
        inside = {r.id for r in shard}
        assert all(not r.parent or r.parent in inside for r in shard)
    assert all(len(s) >= size for s in shards[:-1])
    if set(links) <= {-1}:
        assert all(len(s) <= size for s in shards)
