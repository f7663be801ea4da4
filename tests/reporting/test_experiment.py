"""Figures of an experiment, whatever its folders and arms are called."""

from polypforge.reporting.experiment import as_csv, dose_response, forest, latex, markdown, write_figures


def test_names_with_dollar_signs_are_drawn(tmp_path):
    rows = [
        {"network": "unet", "test": "hosp$a_$_b", "arm": arm, "amount": None, "size": size, "real": size, "images": 5, "value": 0.5,
         "interval": (0.4, 0.6), "difference": 0.1, "difference_interval": (0.0, 0.2)}
        for arm in ("$x$_", "a^{") for size in (8, 16)
    ]  # fmt: skip
    write_figures(tmp_path, {"rows": rows, "measure": "Dice", "baseline": "strong"})
    assert {p.name for p in tmp_path.iterdir()} == {"dose.png", "forest.png"}


def row(**changes):
    return {
        "network": "unet", "test": "a", "arm": "forge", "amount": None, "size": 16, "real": 16, "images": 5, "value": 0.5, "synthetic": 32, "steps": 9, "runs": 1,
        "interval": None, "difference": 0.1, "difference_interval": None, "better": 1, "worse": 0, "units": 1, "p": 1.0, "beside": {"value": 0.4},
    } | changes  # fmt: skip


def test_what_shows_nothing_yet_is_not_drawn_as_shown():
    """One run, or one scene: a point without an interval, in the colour of what is not known."""
    results = {
        "title": "t",
        "question": "q",
        "words": [],
        "measure": "Dice",
        "baseline": "strong",
        "beside": "IoU",
        "published": [],
        "versions": {},
    }
    results |= {"rows": [row(), row(size=32, difference_interval=(0.05, 0.2), interval=(0.4, 0.6))], "trainings": 2}
    assert "| 50.0 | 40.0 | +10.0 | 1 of 1 |" in markdown(results) and "+10.0 (+5.0 to +20.0)" in markdown(results)
    assert "nan" not in latex(results) + as_csv(results["rows"]) and "None" not in as_csv(results["rows"])
    lines = [line for line in forest(results).axes[0].lines if len(line.get_xdata()) == 1]
    assert [line.get_color() for line in lines] == ["#009e73", "#444444"]
    dose_response(results)


def test_all_cases_lie_at_their_number_also_for_arms_that_learn_from_none():
    rows = [row(), row(size=0, arm="strong", real=90), row(size=0, arm="synthetic only", real=0)]
    panel = dose_response({"rows": rows, "measure": "Dice"}).axes[0]
    assert sorted(float(t) for t in panel.get_xticks()) == [16, 90]
