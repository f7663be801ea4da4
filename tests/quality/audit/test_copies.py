import cv2
import numpy as np
import pytest

from polypforge.data.votes import VoteIndex
from polypforge.phantom.render import render
from polypforge.quality.audit.copies import CopyIndex, frame_view
from polypforge.quality.audit.training import TrainingPictures, frame_pictures, lesion_pictures, lesions_of, match_lesion
from polypforge.quality.gates.memory import COPIED

rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def cases():
    """Phantoms with fine texture: theirs is smoother than mucosa."""
    found = []
    for seed in range(14):
        case = render(seed, 320, polyps=1)
        grain = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 60, case.image.shape[:2]).astype(np.float32), (0, 0), 2)
        case.image = (case.image + grain[..., None]).clip(0, 255).astype(np.uint8)
        if lesions_of(case) and case.mask.sum() > 2500:
            found.append(case)
    return found


def jpeg(image, quality=50):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


def tinted(image):
    return (255 * (image / 255.0) ** 1.3 * np.array([0.9, 1.1, 1.0])).clip(0, 255).astype(np.uint8)


CHANGES = {
    "exact": lambda x: x,
    "flipped": lambda x: np.ascontiguousarray(x[:, ::-1]),
    "turned": lambda x: np.ascontiguousarray(np.rot90(x)),
    "cropped": lambda x: np.ascontiguousarray(x[40:270, 60:290]),
    "recompressed": jpeg,
    "recoloured": tinted,
    "all": lambda x: jpeg(tinted(np.ascontiguousarray(x[40:270, 290:60:-1])), 70),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_of_a_frame_is_found_and_a_new_frame_is_not(cases, change):
    training = TrainingPictures([p for c in cases[:-3] for p in frame_pictures(c, c.name)])
    for number, case in enumerate(cases[:3]):
        match = training.nearest(frame_view(CHANGES[change](case.image)))
        assert match.index == number and match.correlation > COPIED
    assert all(training.nearest(frame_view(CHANGES[change](c.image))).correlation < COPIED for c in cases[-3:])


def test_a_pasted_lesion_is_found_in_another_frame(cases):
    training = TrainingPictures([p for c in cases[:-3] for p in lesion_pictures(c, c.name)])
    host = cases[-1].image
    for number, case in enumerate(cases[:3]):
        lesion = lesions_of(case)[0]
        image, mask = np.ascontiguousarray(np.rot90(case.image)[:, ::-1]), np.ascontiguousarray(np.rot90(lesion)[:, ::-1])
        pasted = jpeg(tinted(np.where(mask[..., None], image, host)), 80)
        match = match_lesion(training, pasted, mask)
        assert training.origins[match.index].case == cases[number].name and match.correlation > COPIED
    strangers = [match_lesion(training, c.image, lesions_of(c)[0]).correlation for c in cases[-3:]]
    assert max(strangers) < COPIED


def test_a_case_is_not_compared_with_its_own_group(cases):
    training = TrainingPictures([p for k, c in enumerate(cases) for p in frame_pictures(c, "all" if k < 2 else c.name)])
    assert training.nearest(training.view(0)).index == 0
    assert training.nearest(training.view(0), "all").index not in (0, 1)


def test_votes_go_to_the_owner_and_not_to_oneself():
    unit = rng.normal(size=(40, 128)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    index = VoteIndex([unit[:20], unit[20:], np.zeros((0, 128), np.float32)])
    assert index.votes(unit[:5]).argmax() == 0 and index.votes(unit[25:30]).argmax() == 1
    assert index.votes(unit[:5], own=0)[0] == 0
    assert VoteIndex([np.zeros((0, 128), np.float32)]).votes(unit[:5]).tolist() == [0]


def test_nothing_to_compare_with_is_an_error():
    with pytest.raises(ValueError, match="nothing to compare"):
        CopyIndex([])
    blank = frame_view(np.full((100, 100, 3), 90, np.uint8))
    assert CopyIndex([blank]).nearest(blank).correlation == -1
