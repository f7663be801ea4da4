"""Figures of an experiment, whatever its folders and arms are called."""

from polypforge.reporting.experiment import write_figures


def test_names_with_dollar_signs_are_drawn(tmp_path):
    rows = [
        {"network": "unet", "test": "hosp$a_$_b", "arm": arm, "amount": None, "size": size, "real": size, "images": 5, "value": 0.5,
         "interval": (0.4, 0.6), "difference": 0.1, "difference_interval": (0.0, 0.2)}
        for arm in ("$x$_", "a^{") for size in (8, 16)
    ]  # fmt: skip
    write_figures(tmp_path, {"rows": rows, "measure": "Dice", "baseline": "strong"})
    assert {p.name for p in tmp_path.iterdir()} == {"dose.png", "forest.png"}
