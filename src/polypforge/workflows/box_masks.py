"""`polypforge data masks`: pixel masks for a data set that has only boxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from polypforge.core.console import console
from polypforge.core.errors import UserError
from polypforge.core.files import whole_folder
from polypforge.core.types import Case
from polypforge.data.folder import write_data_set
from polypforge.data.layouts import open_source
from polypforge.models.box_segmenter import BoxSegmenter
from polypforge.models.locate import locate, set_offline
from polypforge.workflows.device import device_of
from polypforge.workflows.export_cases import loadable, plain_name
from polypforge.workflows.run_folder import refuse_nesting, refuse_occupied


def mask_boxes(
    data: Path, out: Path, model: str, *, layout: str = "auto", skip_bad: bool = False, device: str = "auto", offline: bool = False
) -> dict[str, Any]:
    """Write `data` as a data set in which every box has become a mask, by a model of the SAM family.

    A case in one of whose boxes the model sees nothing is left out and named: its label would lack a lesion. Raises UserError.
    """
    set_offline(offline)
    refuse_occupied(out)
    source = open_source(data, layout)
    refuse_nesting(data, out)
    good = loadable(source, skip_bad)  # before hours of work
    segmenter = BoxSegmenter(locate(model, offline), device_of(device))
    left_out: list[str] = []
    columns = (TextColumn("masks for boxes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("masks", total=len(good))

        def cases() -> Iterator[Case]:
            for listed in good:
                case = listed.load()
                bar.advance(task)
                if case.mask is None:
                    masks = segmenter.masks(case.image, case.boxes) if case.boxes else [np.zeros(case.size, bool)]
                    if case.boxes and not all(m.any() for m in masks):
                        left_out.append(case.name)
                        continue
                    union = np.any(masks, axis=0)
                    case = replace(case, mask=union)
                yield replace(case, name=plain_name(case.name))

        with whole_folder(out) as folder:
            written = write_data_set(folder, cases())
            if not written:
                raise UserError(f"{model} sees nothing in any box of {data}: is it trained, and are the boxes in pixels?")
    for name in left_out:
        console.print(f"Left out: '{name}', in one of whose boxes the model sees nothing.")
    return {"cases": written, "left_out": left_out, "out": str(out)}
