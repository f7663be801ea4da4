import json

import numpy as np
import pytest
import torch
from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

from polypforge.core.errors import UserError
from polypforge.data.layouts import open_source
from polypforge.models.box_segmenter import BoxSegmenter
from polypforge.phantom.render import render
from polypforge.workflows.box_masks import mask_boxes


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    """A real SAM, only tiny, with random weights."""
    folder = tmp_path_factory.mktemp("sam")
    torch.manual_seed(0)
    config = SamConfig(
        vision_config=dict(
            hidden_size=16, output_channels=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=8, mlp_dim=32,
            num_pos_feats=8, global_attn_indexes=[0], window_size=0,
        ),
        prompt_encoder_config=dict(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4),
        mask_decoder_config=dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, mlp_dim=32, iou_head_hidden_dim=16),
    )  # fmt: skip
    SamModel(config).save_pretrained(folder)
    processor = SamImageProcessor(
        size={"longest_edge": 64},
        pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    )
    SamProcessor(processor).save_pretrained(folder)
    return folder


def test_masks_have_the_frames_size_and_stay_near_their_boxes(sam):
    segmenter = BoxSegmenter(sam)
    image = render(5, 120).image[:90]
    boxes = [(10, 20, 60, 70), (70, 5, 110, 40)]
    masks = segmenter.masks(image, boxes)
    assert [m.shape for m in masks] == [(90, 120)] * 2 and all(m.dtype == bool for m in masks)
    assert not masks[0][:, 63:].any() and not masks[1][:, :67].any()
    raw = segmenter.model(
        **segmenter.processor(images=image, input_boxes=[[[10.0, 20.0, 60.0, 70.0]]], return_tensors="pt"), multimask_output=False
    )
    direct = segmenter.processor.post_process_masks(raw.pred_masks.detach(), [[90, 120]], [[48, 64]])[0][0, 0].numpy().astype(bool)
    inner = (slice(20, 70), slice(10, 60))
    assert np.array_equal(masks[0][inner], direct[inner])


def test_box_only_data_becomes_a_masked_data_set(sam, tmp_path, monkeypatch):
    from polypforge.core.images import write_png

    listing = {}
    for i in range(4):
        case = render(40 + i, 100, polyps=1)
        write_png(tmp_path / "data" / "images" / f"f{i}.png", case.image)
        listing[f"f{i}"] = {"height": 100, "width": 100, "bbox": [{"label": "polyp", "xmin": 20, "ymin": 30, "xmax": 70, "ymax": 80}]}
    (tmp_path / "data" / "boxes.json").write_text(json.dumps(listing))

    def seen(self, image, boxes):
        masks = [np.zeros(image.shape[:2], bool) for _ in boxes]
        for m, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
            m[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2] = image[0, 0, 0] >= 0
        return masks

    monkeypatch.setattr(BoxSegmenter, "masks", seen)
    result = mask_boxes(tmp_path / "data", tmp_path / "out", str(sam), device="cpu")
    assert result["cases"] == 4 and result["left_out"] == []
    made = [c.load() for c in open_source(tmp_path / "out").cases]
    assert all(c.mask.sum() == 46 * 46 and c.boxes == ((22, 32, 68, 78),) for c in made)
    monkeypatch.setattr(BoxSegmenter, "masks", lambda self, image, boxes: [np.zeros(image.shape[:2], bool) for _ in boxes])
    with pytest.raises(UserError, match="sees nothing in any box"):
        mask_boxes(tmp_path / "data", tmp_path / "none", str(sam), device="cpu")
    assert not (tmp_path / "none").exists()


def test_other_models_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="no model of the SAM family"):
        BoxSegmenter(tmp_path)
