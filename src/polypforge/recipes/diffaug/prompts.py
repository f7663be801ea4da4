"""Prompt banks of DiffAug: what endoscopists and ophthalmologists call what they see, and how a lesion's measurements translate."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from polypforge.core.types import Attributes
from polypforge.masks.attributes import SIZES


@dataclass(frozen=True)
class Bank:
    """facets: name -> values, in the order in which they are written; "" leaves a facet out. template: how they join. normal: the prompt
    of healthy tissue, which is also the negative prompt."""

    facets: Mapping[str, tuple[str, ...]]
    template: str
    normal: str

    def prompts(self) -> list[str]:
        """Every combination."""
        return [self.write(dict(zip(self.facets, values, strict=True))) for values in itertools.product(*self.facets.values())]

    def write(self, values: Mapping[str, str]) -> str:
        """A prompt from some facets; those left out are not mentioned. Raises ValueError for a value outside the bank."""
        for name, value in values.items():
            if value and value not in self.facets[name]:
                raise ValueError(f"'{value}' is no {name} of this bank")
        parts = {name: values.get(name, "") for name in self.facets}
        return re.sub(r"\s+", " ", self.template.format(**parts)).strip()

    def draw(self, rng: np.random.Generator) -> str:
        return self.write({name: values[rng.integers(len(values))] for name, values in self.facets.items()})

    def words(self) -> list[str]:
        text = " ".join([self.template.format(**dict.fromkeys(self.facets, "")), self.normal, *itertools.chain(*self.facets.values())])
        return sorted(set(re.findall(r"\w+", text.lower())))


POLYP_BANK = Bank(
    {
        "size": ("small", "medium", "large"),
        "colour": ("", "reddish", "pale", "pink"),
        "morphology": ("polyp", "sessile polyp", "pedunculated polyp", "flat lesion"),
        "surface": ("", "with smooth surface", "with irregular surface"),
        "vessels": ("", "with prominent vessels", "with regular vessels"),
        "borders": ("", "with clear borders", "with unclear borders"),
    },
    "{size} {colour} {morphology} {surface} {vessels} {borders}",
    "healthy mucosa",
)
FUNDUS_BANK = Bank(
    {
        "size": ("small", "medium", "large"),
        "structure": ("optic nerve head", "optic cup", "optic disc"),
        "colour": ("", "pale", "reddish"),
        "borders": ("", "with clear borders", "with unclear borders"),
    },
    "{size} {colour} {structure} {borders}",
    "healthy retina",
)
BANKS = {"polyp": POLYP_BANK, "fundus": FUNDUS_BANK}


def describe(bank: Bank, lesion: Attributes | Mapping[str, float]) -> str:
    """The bank's words for measured (or asked) attributes; what can't be measured stays unsaid. Unknown attributes are passed over."""
    known = asdict(lesion) if isinstance(lesion, Attributes) else dict(lesion)
    said: dict[str, str] = {"size": _band(known.get("size"), (SIZES["medium"][0], SIZES["large"][0]), ("small", "medium", "large"))}
    redness, light = known.get("delta_a"), known.get("delta_l")
    if redness is not None and light is not None:
        said["colour"] = "reddish" if redness > 8 else "pale" if light > 6 else ""
    step = None if light is None or redness is None else abs(light) + abs(redness)
    said["borders"] = "" if step is None else "with unclear borders" if step < 5 else "with clear borders" if step > 12 else ""
    if "morphology" in bank.facets:
        flat = known.get("contrast", 99.0) < 8 and step is not None and step < 8
        said["morphology"] = (
            "flat lesion" if flat else _band(known.get("elongation"), (0.55, 0.55), ("pedunculated polyp", "", "sessile polyp"))
        )
        said["morphology"] = said["morphology"] or "polyp"
        said["surface"] = _band(known.get("contrast"), (9.0, 14.0), ("with smooth surface", "", "with irregular surface"))
    else:
        said["structure"] = _band(known.get("size"), (0.2, 0.2), ("optic cup", "", "optic disc")) or "optic nerve head"
    return bank.write(said)


def _band(value: float | None, limits: tuple[float, float], names: tuple[str, str, str]) -> str:
    return "" if value is None else names[int(value >= limits[0]) + int(value >= limits[1])]
