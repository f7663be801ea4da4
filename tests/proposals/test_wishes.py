import numpy as np
import pytest

from polypforge.core.errors import UserError
from polypforge.core.types import Attributes
from polypforge.data.prepared import prepare
from polypforge.masks.attributes import shape
from polypforge.masks.shapes import region_mask
from polypforge.phantom.render import render
from polypforge.proposals.census import BINS, Lesion, belongs, classify, measure_lesions, moved_into, place_mask, relative, take_census
from polypforge.proposals.outlines import PARIS, KnownOutlines, ParisOutlines, blob, of_unit_area, unit_outline
from polypforge.proposals.plan import PlanConfig, Planner
from polypforge.proposals.wishes import Quota, Turns, quotas

PLAIN = Attributes(0.6, 0.2, 0.8, 0.95, 0.0, 5.0, 0.0, 11.0)


@pytest.fixture(scope="module")
def frames():
    return {c.name: c for c in (render(i, 200, polyps=i % 3) for i in range(9))}


@pytest.fixture(scope="module")
def census(frames):
    return take_census(list(frames), frames.__getitem__)


def test_every_lesion_has_one_bin_of_each_dimension(frames, census):
    assert len(census.lesions) == sum(len(measure_lesions(c)) for c in frames.values()) > 3
    assert sum(census.per_frame.values()) == len(frames)
    for lesion in census.lesions:
        kind = classify(lesion)
        assert set(kind) == set(BINS) and all(kind[name] in labels for name, labels in BINS.items())
        assert belongs(lesion, kind) and not belongs(lesion, {"size": next(b for b in BINS["size"] if b != kind["size"])})
    for shares in census.shares().values():
        assert sum(shares.values()) == pytest.approx(1, abs=0.01)


def test_places_divide_the_field(frames):
    field = prepare(frames[next(iter(frames))]).field
    parts = [place_mask(label, field) for label in BINS["place"]]
    assert (np.sum(parts, 0)[field] == 1).all() and not np.any(parts, 0)[~field].any()
    rows, columns = np.nonzero(place_mask("upper", field))
    assert all(classify(Lesion(PLAIN, relative(x, y, field)))["place"] == "upper" for x, y in list(zip(columns, rows, strict=True))[::50])


def test_attributes_are_moved_into_every_bin(rng):
    for name, labels in BINS.items():
        for label in labels:
            if name != "place":
                assert classify(Lesion(moved_into(PLAIN, {name: label}, rng), (0, 0)))[name] == label
    assert moved_into(PLAIN, {"size": "medium"}, rng) == PLAIN


def test_wishes_become_shares(census, tmp_path):
    matched = quotas("match the data", census.lesions)
    assert sum(q.share for q in matched) == pytest.approx(1)
    balanced = quotas("balance size", census.lesions)
    assert [(dict(q.cell), q.share) for q in balanced] == [({"size": s}, pytest.approx(1 / 3)) for s in ("small", "medium", "large")]
    assert len(quotas("balance size and place", census.lesions)) == 15
    more = quotas("more small and flat lesions", census.lesions)

    def share(found):
        return sum(q.share for q in found if q.cell.get("size") == "small" and q.cell.get("relief") == "flat")

    assert share(more) > share(matched)
    table = tmp_path / "quotas.csv"
    table.write_text("size,relief,count\nsmall,flat,30\n,raised,10\n")
    assert [(dict(q.cell), q.share) for q in quotas(str(table), census.lesions)] == [
        ({"size": "small", "relief": "flat"}, 0.75),
        ({"relief": "raised"}, 0.25),
    ]


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("fewer polyps", "is not understood"),
        ("balance weight", "'weight' can't be balanced"),
        ("more blue", "no kind 'blue'"),
        ("more small large", "at once"),
        ("nowhere.csv", "no such file"),
    ],
)
def test_wishes_that_mean_nothing_say_what_would(wish, message, census):
    with pytest.raises(UserError, match=message):
        quotas(wish, census.lesions)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size\nsmall\n", "column `share` or `count`"),
        ("weight,share\n1,1\n", "no dimension 'weight'"),
        ("size,share\ntiny,1\n", "line 2: size is 'tiny'"),
        ("size,share\nsmall,-1\n", "line 2: share is '-1'"),
        ("size,share\nsmall,0\n", "asks for nothing"),
    ],
)
def test_bad_tables_name_the_line(text, message, tmp_path, census):
    (tmp_path / "q.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        quotas(str(tmp_path / "q.csv"), census.lesions)


def test_turns_keep_every_prefix_near_its_due():
    wanted = [Quota({"size": "small"}, 0.57), Quota({"size": "medium"}, 0.3), Quota({"size": "large"}, 0.13)]
    turns = Turns(wanted)
    counts = {str(q): 0 for q in wanted}
    for k in range(500):
        counts[str(turns.turn(k))] += 1
        assert all(abs(counts[str(q)] - q.share * (k + 1)) <= 1 for q in wanted)


def test_many_kinds_keep_the_bins_of_the_data_also_in_short_plans():
    rng = np.random.default_rng(3)
    values = zip(rng.uniform(0.05, 0.5, 300), rng.uniform(0.3, 1, 300), rng.normal(5, 5, 300), rng.normal(10, 3, 300), strict=True)
    lesions = [Lesion(Attributes(0.6, s, e, 0.95, 0, a, 0, c), tuple(rng.uniform(-1, 1, 2))) for s, e, a, c in values]
    wanted = quotas("match", lesions)
    assert len(wanted) > 80
    for seed in (20, 50, 100, 200):
        turns = Turns(wanted)
        kinds = [turns.turn(k).cell for k in range(seed)]
        for name, labels in BINS.items():
            for label in labels:
                due = sum(q.share for q in wanted if q.cell[name] == label)
                assert abs(np.mean([k[name] == label for k in kinds]) - due) <= max(0.02, 1.6 / seed), (name, label, seed)


def test_a_request_that_names_an_outline_has_its_shape(frames, census):
    wanted = quotas("balance shape", census.lesions)
    for outlines in (None, ParisOutlines()):
        planner = Planner(
            list(frames), frames.__getitem__, census.lesions, 0, PlanConfig(0.5, 0.5, 0.0), shapes=True, wanted=wanted, outlines=outlines
        )
        for index in range(12):
            (request,) = planner.requests(index)
            drawn = region_mask(request.lesion, frames[request.background].size)
            assert shape(drawn)[0] == pytest.approx(request.attributes["elongation"], abs=0.06)


def test_a_plan_meets_its_quotas_within_two_percent_and_repeats_no_place(frames, census):
    wanted = quotas("balance size place", census.lesions)
    planner = Planner(list(frames), frames.__getitem__, census.lesions, 0, PlanConfig(0.5, 0.5, 0.0), wanted=wanted)
    kinds, seen = [], set()
    for index in range(60):
        (request,) = planner.requests(index)
        points = np.array(request.region)
        case = frames[request.background]
        rows, columns = np.nonzero(region_mask(request.region, case.size))
        at = relative(float(columns.mean()), float(rows.mean()), prepare(case).field)
        kinds.append(classify(Lesion(Attributes(**request.attributes), at)))
        key = (request.background, tuple(points.mean(0) // 4), request.attributes["size"])
        assert key not in seen
        seen.add(key)
    for quota in wanted:
        share = np.mean([all(kind[n] == b for n, b in quota.cell.items()) for kind in kinds])
        assert abs(share - quota.share) <= 0.02
    again = Planner(list(frames), frames.__getitem__, census.lesions, 0, PlanConfig(0.5, 0.5, 0.0), wanted=wanted)
    assert again.requests(59) == planner.requests(59)


def test_a_quota_that_cannot_be_met_is_named(frames, census):
    full = {n: type(c)(c.name, c.image, np.ones(c.size, bool)) for n, c in frames.items()}
    planner = Planner(list(full), full.__getitem__, census.lesions, 0, PlanConfig(0, 1, 0), wanted=[Quota({"size": "small"}, 1.0)])
    with pytest.raises(UserError, match="quota 'small' can't be met"):
        planner.requests(0)


def test_outlines_enclose_the_area_of_a_unit_circle(frames, rng):
    import cv2

    lesion = next(c for c in frames.values() if c.mask.sum() > 400).mask
    known = [((0.8, 0.95), unit_outline(lesion))]
    sources = [ParisOutlines([c]) for c in PARIS] + [KnownOutlines(known), KnownOutlines(known, stretch=0, bend=0)]
    for source in sources:
        for _ in range(4):
            points = source.draw(rng, PLAIN)
            assert cv2.contourArea(points.astype(np.float32)) == pytest.approx(np.pi, rel=0.02)
            assert np.abs(points).max() < 5
    varied = [KnownOutlines(known).draw(np.random.default_rng(k), PLAIN) for k in (0, 1, 0)]
    assert not np.allclose(varied[0], varied[1]) and np.allclose(varied[0], varied[2])
    turned = KnownOutlines(known, stretch=0, bend=0).draw(rng, PLAIN)
    assert np.allclose(np.sort(np.linalg.norm(turned, axis=1)), np.sort(np.linalg.norm(known[0][1], axis=1)), atol=1e-3)
    assert np.allclose(of_unit_area(3 * unit_outline(lesion) + 7), unit_outline(lesion), atol=1e-3)
    long = blob(np.random.default_rng(1), 0.35)
    assert np.linalg.svd(long - long.mean(0), compute_uv=False)[1] / np.linalg.svd(long - long.mean(0), compute_uv=False)[0] < 0.6
    with pytest.raises(UserError, match="Paris class"):
        ParisOutlines(["IV"])
    with pytest.raises(UserError, match="no lesion mask"):
        KnownOutlines([])
