import json

import numpy as np
import pytest
import torch

from polypforge.core.errors import UserError
from polypforge.data.prepared import prepare
from polypforge.features import load_encoder
from polypforge.features.frame_encoder import FrameEncoder, FrameEncoderConfig
from polypforge.features.frames import FrameFeatures
from polypforge.masks.shapes import bounding_box, box_iou, polygon_mask
from polypforge.phantom.render import render
from polypforge.proposals.database import Reference, ReferenceDatabase
from polypforge.proposals.fit import fit_outline
from polypforge.proposals.index import VectorIndex, kind_for
from polypforge.proposals.proposer import Proposer, ProposerConfig, cells_within
from polypforge.proposals.ranking import covering
from polypforge.proposals.retrieval import RetrievalConfig, lesion_cells, local_matches, places, retrieve
from polypforge.proposals.scene import read_scene

SQUARE = ((40, 40), (59, 40), (59, 59), (40, 59))
ATTRIBUTES = dict(fill=0.6, size=0.2, elongation=0.8, solidity=0.95, delta_l=1.0, delta_a=4.0, delta_b=1.0, contrast=9.0)


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def grid(rng, side=10, dim=24):
    return unit(rng.normal(size=(side, side, dim)))


def features(patches, cell_px=10.0):
    return FrameFeatures(unit(patches.reshape(-1, patches.shape[-1]).mean(0)), patches.astype(np.float16), cell_px)


def reference(name, lesions=(SQUARE,), group=""):
    return Reference(name, group, name, (100, 100), lesions, (ATTRIBUTES,) * len(lesions), None)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    FrameEncoder(FrameEncoderConfig(dim=24, look_px=80)).save_pretrained(folder)
    return load_encoder(str(folder))


def database(folder, encoder, grids, names=None, groups=None):
    db = ReferenceDatabase.create(folder, encoder, {"weights": "w", "seed": 0})
    names = names or [f"r{i}" for i in range(len(grids))]
    entries = [reference(n, group=(groups or {}).get(n, "")) for n in names]
    db.add(entries, [np.full((100, 100, 3), 9, np.uint8)] * len(grids), [features(g) for g in grids])
    return db


def test_the_matching_place_is_found_both_ways(encoder, tmp_path, rng):
    theirs = grid(rng)
    mine = grid(rng)
    mine[1:3, 6:8] = theirs[4:6, 4:6]  # what the reference's polyp covered shows here, elsewhere in the frame
    db = database(tmp_path / "db", encoder, [theirs])
    for directions in (("reference to frame",), ("frame to reference",), RetrievalConfig().directions):
        config = RetrievalConfig(references=1, matches=4, directions=directions)
        (match,) = retrieve(features(mine), np.ones((10, 10), bool), db, config)
        assert {tuple(c) for c in match.cells} == {(1, 6), (1, 7), (2, 6), (2, 7)}
        assert (match.score > 0.99).all() and match.cluster.max() == 0
        (place,) = places([match], 10.0, (100, 100))
        assert place.box == (60, 10, 80, 30) and (place.row, place.lesion) == (0, 0)


def test_the_papers_direction_is_nearest_neighbours_by_brute_force(rng):
    mine, theirs = grid(rng), grid(rng)
    lesions = lesion_cells(reference("r"), (10, 10))
    assert lesions.sum() == 4 and lesions[4:6, 4:6].all()
    cells, other, score = local_matches(mine, np.ones((10, 10), bool), theirs, lesions, RetrievalConfig(directions=("reference to frame",)))
    for cell, their, s in zip(cells, other, score, strict=True):
        similar = mine.reshape(100, -1) @ theirs[tuple(their)]
        assert np.argmax(similar) == cell[0] * 10 + cell[1] and s == pytest.approx(similar.max(), abs=1e-5)
    cells, other, _ = local_matches(mine, np.ones((10, 10), bool), theirs, lesions, RetrievalConfig(directions=("frame to reference",)))
    back = mine.reshape(100, -1) @ theirs.reshape(100, -1).T
    expected = {divmod(i, 10) for i in range(100) if lesions.ravel()[back[i].argmax()]}
    assert {tuple(c) for c in cells.tolist()} == expected


def test_only_usable_cells_are_matched_and_own_group_is_passed_over(encoder, tmp_path, rng):
    theirs = grid(rng)
    db = database(tmp_path / "db", encoder, [theirs, grid(rng)], ["own", "other"], {"own": "patient"})
    usable = np.zeros((10, 10), bool)
    usable[:2] = True
    (match,) = retrieve(features(theirs), usable, db, RetrievalConfig(references=1), group="patient", name="x")
    assert db.references[match.row].name == "other" and (match.cells[:, 0] < 2).all()
    (twin,) = retrieve(features(theirs), usable, db, RetrievalConfig(references=1), name="own")
    assert db.references[twin.row].name == "other"
    (stranger,) = retrieve(features(theirs), usable, db, RetrievalConfig(references=1), name="x")
    assert db.references[stranger.row].name == "own" and stranger.near == pytest.approx(1, abs=1e-3)


def test_agreeing_clusters_of_several_candidates_count_together(encoder, tmp_path, rng):
    theirs = [grid(rng) for _ in range(3)]
    mine = grid(rng)
    mine[1:3, 6:8] = unit(theirs[0][4:6, 4:6] + theirs[1][4:6, 4:6])  # two references say here
    mine[7:9, 1:3] = unit(1.2 * theirs[2][4:6, 4:6] + 0.8 * mine[7:9, 1:3])  # one says there, more clearly
    db = database(tmp_path / "db", encoder, theirs)
    matches = retrieve(features(mine), np.ones((10, 10), bool), db, RetrievalConfig(references=3, matches=4))
    best = places(matches, 10.0, (100, 100))
    alone = {m.row: m for m in matches}
    assert best[0].score >= best[-1].score and len(alone) == 3
    assert any(p.box == (60, 10, 80, 30) for p in best)
    twice = next(p for p in best if p.box == (60, 10, 80, 30))
    single = places([m for m in matches if m.row == twice.row], 10.0, (100, 100))[0]
    assert twice.score > single.score


def test_a_database_grows_reopens_and_refuses_another_encoder(encoder, tmp_path, rng):
    folder = tmp_path / "db"
    db = database(folder, encoder, [grid(rng) for _ in range(3)])
    more = [grid(rng) for _ in range(2)]
    db.add([reference("n0"), reference("n1")], [np.zeros((100, 100, 3), np.uint8)] * 2, [features(g) for g in more])
    again = ReferenceDatabase.open(folder, encoder)
    assert len(again) == 5 and [r.name for r in again.references][-1] == "n1"
    assert np.array_equal(again.patches(4), more[1].astype(np.float16)) and again.picture(0).shape == (100, 100, 3)
    assert again.search(features(more[0]).vector[None], 1)[1][0, 0] == 3
    assert len(list(folder.glob("index-*.faiss"))) == 1
    again.suit_index("hnsw")
    assert ReferenceDatabase.open(folder).kind == "hnsw"
    with pytest.raises(UserError, match="at least 1000"):
        again.suit_index("ivfpq")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"encoder_version": "other"}))
    with pytest.raises(UserError, match="was built with the encoder"):
        ReferenceDatabase.open(folder, encoder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    next(folder.glob("index-*.faiss")).write_bytes(b"broken")
    with pytest.raises(UserError, match="missing or damaged"):
        ReferenceDatabase.open(folder)


def test_an_unfinished_growth_leaves_the_database_as_it_was(encoder, tmp_path, rng, monkeypatch):
    folder = tmp_path / "db"
    db = database(folder, encoder, [grid(rng)])
    monkeypatch.setattr(VectorIndex, "save", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        db.add([reference("late")], [np.zeros((100, 100, 3), np.uint8)], [features(grid(rng))])
    monkeypatch.undo()
    again = ReferenceDatabase.open(folder, encoder)
    assert len(again) == 1
    again.add([reference("late")], [np.zeros((100, 100, 3), np.uint8)], [features(grid(rng))])
    assert len(ReferenceDatabase.open(folder, encoder)) == 2


def test_empty_database_and_too_large_k_say_so(encoder, tmp_path, rng):
    empty = ReferenceDatabase.create(tmp_path / "empty", encoder, {})
    with pytest.raises(UserError, match="is empty"):
        retrieve(features(grid(rng)), np.ones((10, 10), bool), ReferenceDatabase.open(tmp_path / "empty"), RetrievalConfig())
    assert len(empty) == 0
    db = database(tmp_path / "one", encoder, [grid(rng)])
    with pytest.raises(UserError, match="holds 1"):
        retrieve(features(grid(rng)), np.ones((10, 10), bool), db, RetrievalConfig(references=3))
    with pytest.raises(UserError, match="no reference database"):
        ReferenceDatabase.open(tmp_path)


@pytest.mark.parametrize(("kind", "least"), [("flat", 1.0), ("hnsw", 0.95), ("ivfpq", 0.9)])
def test_indexes_find_what_exact_search_finds(kind, least, rng):
    centres = rng.normal(size=(40, 32))
    vectors = unit(centres[rng.integers(40, size=4000)] + 0.6 * rng.normal(size=(4000, 32)))
    index = VectorIndex.create(vectors, kind)
    assert index.recall(vectors) >= least
    distance, rows = index.search(vectors[:3], 1)
    assert rows[:, 0].tolist() == [0, 1, 2] and distance.max() < 0.05
    with pytest.raises(ValueError, match="of 4000"):
        index.search(vectors[:1], 5000)
    assert [kind_for(n) for n in (100, 10**5, 10**7)] == ["flat", "hnsw", "ivfpq"]


def test_covering_prefers_places_that_others_agree_with():
    boxes = [(0, 0, 10, 10), (1, 0, 11, 10), (50, 50, 60, 60), (80, 80, 90, 90)]
    chosen = covering(boxes, [1, 1, 1.5, 0.4], 3)
    assert [i for i, _ in chosen] == [0, 2, 3] and chosen[0][1] == pytest.approx(2 / 3.9)
    assert covering([], [], 3) == [] and len(covering(boxes, [1, 1, 1, 1], 9)) == 3
    assert box_iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)


def test_outlines_are_moved_cut_and_shrunk_onto_allowed_ground():
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = 20 * np.stack([np.cos(angle), np.sin(angle)], 1)
    area = np.pi * 400

    def drawn(points, shape=(120, 160)):
        return polygon_mask(np.rint(points), shape)

    allowed = np.ones((120, 160), bool)
    free = drawn(fit_outline(circle, (80, 60), allowed, None))
    assert free.sum() == pytest.approx(area, rel=0.1) and np.allclose(np.argwhere(free).mean(0), (60, 80), atol=1.5)
    allowed[:, :70] = False
    moved = drawn(fit_outline(circle, (75, 60), allowed, None))
    assert not (moved & ~allowed).any() and moved.sum() > 0.8 * area
    narrow = np.zeros((120, 160), bool)
    narrow[50:76] = True
    small = drawn(fit_outline(circle, (80, 62), narrow, None))
    assert not (small & ~narrow).any() and small.sum() > 0.3 * area
    lumen = np.zeros((120, 160), bool)
    lumen[40:80, 60:100] = True
    beside = drawn(fit_outline(circle, (60, 60), np.ones((120, 160), bool), lumen))
    assert (beside & lumen).sum() < 0.35 * beside.sum()
    assert fit_outline(circle, (80, 60), np.zeros((120, 160), bool), None) is None


def test_the_scene_knows_lumen_border_and_foreign_things():
    case = render(302, 256)
    scene = read_scene(prepare(case))
    assert not scene.allowed[:8, :8].any() and scene.lumen_at is not None
    x, y = scene.lumen_at
    assert case.image[int(y), int(x)].max() < 70
    steel = case.image.copy()
    steel[120:150, 20:120] = (150, 160, 170)
    held = read_scene(prepare(type(case)("steel", steel, case.mask)))
    assert held.allowed[125:145, 30:110].mean() < 0.05 and scene.allowed[125:145, 30:110].mean() > 0.5
    black = type(case)("black", np.zeros((90, 120, 3), np.uint8), np.zeros((90, 120), bool))
    assert not read_scene(prepare(black)).allowed.any()


def test_proposals_keep_off_what_is_forbidden_and_black_frames_get_none(encoder, tmp_path, rng):
    db = database(tmp_path / "db", encoder, [grid(rng) for _ in range(6)])
    proposer = Proposer(db, ProposerConfig(count=4, retrieval=RetrievalConfig(references=3)))
    case = render(302, 100)
    found = proposer.propose(prepare(case), features(grid(rng)), case.mask)
    scene = read_scene(prepare(case))
    assert found and len(found) <= 4 and [p.score for p in found] == sorted((p.score for p in found), reverse=True)
    for proposal in found:
        lesion = polygon_mask(list(proposal.lesion), case.size)
        assert lesion.any() and not (lesion & ~(scene.allowed & ~case.mask)).any() and (lesion & scene.lumen).sum() < 0.4 * lesion.sum()
        assert proposal.source in ("retrieval", "prior")
        size = np.sqrt(lesion.sum() / prepare(case).field_area_px)
        assert proposal.attributes["size"] == pytest.approx(size, abs=1e-3) and proposal.attributes["elongation"] == 0.8
        region = polygon_mask(list(proposal.region), case.size)
        assert (lesion & ~region).sum() <= 0.03 * lesion.sum() + 4
    black = type(case)("black", np.zeros((100, 100, 3), np.uint8), np.zeros((100, 100), bool))
    assert proposer.propose(prepare(black), features(grid(rng))) == []


def test_a_long_video_does_not_drown_the_other_frames(encoder, tmp_path, rng):
    scene = grid(rng)
    names = [f"v{i}" for i in range(130)] + ["a", "b", "c"]
    grids = [unit(scene + 0.01 * rng.normal(size=scene.shape)) for _ in range(130)] + [grid(rng) for _ in range(3)]
    db = database(tmp_path / "db", encoder, grids, names, dict.fromkeys(names[:130], "video"))
    case = render(301, 100)
    case.name, case.group = "v3", "video"
    found = Proposer(db, ProposerConfig(retrieval=RetrievalConfig(references=3))).propose(prepare(case), features(scene))
    assert found and all(p.reference in ("a", "b", "c") for p in found)


def test_where_nothing_matches_the_datas_habits_answer(encoder, tmp_path, rng):
    db = database(tmp_path / "db", encoder, [grid(rng) for _ in range(4)])
    config = ProposerConfig(habits=0.0, retrieval=RetrievalConfig(references=2, directions=("frame to reference",), matches=1))
    case = render(301, 100)
    nothing = features(np.zeros((10, 10, 24), np.float32) + unit(-np.ones(24)))
    found = Proposer(db, config).propose(prepare(case), nothing)
    assert found
    assert cells_within(np.ones((95, 100), bool), (10, 10), 10.0)[:9].all()
    box = bounding_box(polygon_mask(list(SQUARE), (100, 100)))
    assert any(box_iou(bounding_box(polygon_mask(list(p.lesion), case.size)), box) > 0.1 for p in found)
