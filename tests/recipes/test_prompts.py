import pytest

from polypforge.core.seeding import numpy_rng
from polypforge.recipes.diffaug.prompts import BANKS, FUNDUS_BANK, POLYP_BANK, describe

LESION = {"fill": 0.5, "size": 0.1, "elongation": 0.9, "solidity": 0.95, "delta_l": -8.0, "delta_a": 10.0, "delta_b": 0.0, "contrast": 16.0}


def test_measurements_become_words():
    assert describe(POLYP_BANK, LESION) == "small reddish sessile polyp with irregular surface with clear borders"
    assert describe(POLYP_BANK, LESION | {"size": 0.5, "elongation": 0.4}).startswith("large reddish pedunculated polyp")
    flat = describe(POLYP_BANK, LESION | {"delta_l": 1.0, "delta_a": 2.0, "contrast": 5.0})
    assert flat == "small flat lesion with smooth surface with unclear borders"
    assert describe(POLYP_BANK, {}) == "polyp" and describe(FUNDUS_BANK, {}) == "optic nerve head"
    assert describe(FUNDUS_BANK, LESION).startswith("small reddish optic cup")


@pytest.mark.parametrize("name", BANKS)
def test_a_bank_knows_every_word_that_it_writes(name):
    bank = BANKS[name]
    written = bank.prompts()
    assert len(set(written)) > 40 and not any("  " in p for p in written)
    assert {w for p in [*written, bank.normal] for w in p.split()} <= set(bank.words())
    assert bank.draw(numpy_rng(1)) == bank.draw(numpy_rng(1)) and bank.draw(numpy_rng(1)) in written


def test_a_value_outside_the_bank_is_refused():
    with pytest.raises(ValueError, match="no morphology"):
        POLYP_BANK.write({"morphology": "cauliflower"})
