import json

from polypforge.core.types import Request


def request(**changes):
    return Request(
        **({"background": "a", "label": "polyp", "region": ((0, 0), (9, 0), (9, 9)), "seed": 1, "attributes": {"size": 0.2}} | changes)
    )


def test_id_depends_on_content_only():
    assert request().id == request().id
    changed = [
        request(seed=2),
        request(background="b"),
        request(region=((0, 0), (8, 0), (9, 9))),
        request(attributes={"size": 0.3}),
        request(parent="x"),
    ]
    assert len({r.id for r in [request(), *changed]}) == 6


def test_json_round_trip_keeps_the_id():
    back = Request.from_json(json.loads(json.dumps(request().to_json())))
    assert back == request() and back.id == request().id
