import re
from html.parser import HTMLParser

import numpy as np

from polypforge.core.window import Window
from polypforge.masks.shapes import box_mask
from polypforge.reporting.charts import paired_histogram, place_map
from polypforge.reporting.page import Page, Picture, write_page
from polypforge.reporting.panels import LABEL_COLOUR, data_uri, outlined, sheet, strip


def test_page_is_self_contained_and_escapes_hostile_names(tmp_path):
    evil = '<script>alert("x")</script>'
    page = Page(
        evil, evil, [{"value": "1", "name": evil}], warnings=[evil], accepted=[Picture(data_uri(np.zeros((8, 8, 3), np.uint8)), evil)]
    )
    page.charts = [paired_histogram(evil, [0.1], [0.2], 0, 1)]
    write_page(tmp_path / "r.html", page)
    text = (tmp_path / "r.html").read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    HTMLParser().feed(text)


def test_histogram_bars_are_shares():
    svg = paired_histogram("size", [0.1] * 3 + [0.9], [0.9] * 4, 0, 1, bins=2)
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" fill="#[0-9a-f]+"', svg)]
    assert heights == [69.0, 23.0, 0.0, 92.0]
    assert "n=4" in svg


def test_empty_samples_are_drawn_too():
    assert "n=0" in paired_histogram("size", [], [], 0, 1) and "n=0" in place_map("places", [], "#000")


def test_strip_shows_outlines_only_where_they_belong():
    source = np.full((100, 100, 3), 90, np.uint8)
    result = np.full((100, 100, 3), 150, np.uint8)
    region, label = box_mask((20, 20, 80, 80), (100, 100)), box_mask((40, 40, 60, 60), (100, 100))
    view = strip(source, result, region, label, Window(49.5, 49.5, 100), 100)
    assert view.shape == (100, 409, 3)
    assert (view[:, :100] == 90).all() and (view[:, 206:306] == 150).all()
    assert (outlined(source, label, LABEL_COLOUR) == LABEL_COLOUR).all(-1).sum() == 76


def test_sheet_places_tiles():
    tiles = [np.full((10, 20, 3), i, np.uint8) for i in range(5)]
    page = sheet(tiles, 2, gap_px=2)
    assert page.shape == (34, 42, 3) and (page[12:22, 22:42] == 3).all() and (page[24:, 22:] == 255).all()
