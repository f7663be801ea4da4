import cv2
import numpy as np
import pytest
from PIL import Image as PIL

from polypforge.core.images import write_png
from polypforge.data.checks import CheckReport, check
from polypforge.data.layouts import open_source
from polypforge.phantom.render import render


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    """A folder with one fault of each kind."""
    root = tmp_path_factory.mktemp("messy")
    frames = {f"f{i}": render(100 + i, 256, polyps=1) for i in range(6)}
    for name, case in frames.items():
        write_png(root / "images" / f"{name}.png", case.image)
        write_png(root / "masks" / f"{name}.png", case.mask)
    first, second = frames["f0"], frames["f1"]

    def add(name, image, mask):
        write_png(root / "images" / f"{name}.png", image)
        write_png(root / "masks" / f"{name}.png", mask)

    (root / "images" / "twin.png").write_bytes((root / "images" / "f0.png").read_bytes())
    write_png(root / "masks" / "twin.png", first.mask)
    PIL.fromarray(second.image).save(root / "images" / "jpeg.jpg", quality=60)
    write_png(root / "masks" / "jpeg.png", second.mask)
    third = render(102, 256, polyps=1)
    moved = cv2.warpAffine(third.image, np.float32([[1.06, 0.04, 6], [-0.04, 1.06, -9]]), (256, 256), borderMode=cv2.BORDER_REFLECT)
    add("moved", moved, third.mask)
    add("inverted", render(110, 256, polyps=1).image, ~render(110, 256, polyps=1).mask)
    add("full", render(111, 256).image, np.ones((256, 256), bool))
    add("empty", render(112, 256).image, np.zeros((256, 256), bool))
    add("small", render(113, 256).image, np.zeros((128, 128), bool))
    soft = cv2.GaussianBlur(render(114, 256, polyps=1).mask.astype(np.uint8) * 255, (0, 0), 9)
    add("soft", render(114, 256).image, soft)
    add("written", render(115, 384, polyps=0, overlay=True).image, np.zeros((384, 384), bool))
    (root / "images" / "text.png").write_text("no image")
    write_png(root / "masks" / "text.png", first.mask)
    write_png(root / "images" / "alone.png", first.image)
    return root


@pytest.fixture(scope="module")
def report(messy) -> CheckReport:
    return check(open_source(messy))


def involved(report, kind):
    return {name for finding in report.of(kind) for name in finding.cases}


def test_every_planted_fault_is_found(report):
    assert "alone" in involved(report, "unpaired")
    assert involved(report, "unreadable") == {"text"}
    assert involved(report, "size-mismatch") == {"small"}
    assert involved(report, "inverted-mask") == {"inverted"}
    assert involved(report, "full-mask") == {"full"}
    assert {"empty", "written"} <= involved(report, "empty-mask")
    assert involved(report, "soft-mask") == {"soft"}
    assert {"f0", "twin"} <= involved(report, "exact-duplicate")
    assert {"f1", "jpeg"} <= involved(report, "duplicate")
    assert {"f2", "moved"} <= involved(report, "near-duplicate")


def test_clean_frames_are_not_linked(report):
    linked = {frozenset(p) for p in report.pairs}
    assert linked == {frozenset(p) for p in (("f0", "twin"), ("f1", "jpeg"), ("f2", "moved"))}


def test_unusable_cases_are_left_out(report):
    assert not {"text", "small", "inverted", "full"} & set(report.usable)
    assert {"f0", "empty", "soft"} <= set(report.usable)


def test_report_survives_json(report):
    assert CheckReport.from_json(report.to_json()).counts() == report.counts()


@pytest.mark.real
@pytest.mark.slow
def test_kvasir_duplicates_are_found(real_data):
    """Pairs judged by eye: three saved twice, and scenes seen twice (docs/data.md)."""
    from polypforge.data.duplicates import find_pairs, fingerprint

    known = [
        ("cju30bmab08bi0835mvlr6e0r", "cju77k828z46w0871r0avuoo9", "duplicate"),
        ("cju76lsehyia10987u54vn8rb", "cju772304yw5t0818vbw8kkjf", "duplicate"),
        ("cju886ryxnsl50801r93jai7q", "cju8amfdtqi4x09871tygrgqe", "duplicate"),
        ("cju33za6l2qy70988jhrlp2ev", "cjyzjzssvd8pq0838f4nolj5l", "near-duplicate"),
        ("cju45jpvfn6c809873pv1i34s", "cjyzkmjy8evns070165gf9dmq", "near-duplicate"),
        ("cju1hhj6mxfp90835n3wofrap", "cju3x9lttikfb0818a0g104zn", "near-duplicate"),
    ]
    cases = {c.name: c for c in open_source(real_data / "kvasir-seg").cases}
    others = [n for n in sorted(cases) if n not in {x for k in known for x in k[:2]}][:40]
    names = [n for a, b, _ in known for n in (a, b)] + others
    found = find_pairs([fingerprint(cases[n].load().image) for n in names])
    kinds = {frozenset((names[p.a], names[p.b])): p.kind for p in found}
    assert all(kinds.get(frozenset((a, b))) == kind for a, b, kind in known)
