"""The benchmark of the verdict: its cases, what an artifact moves, and what pictures are taken to say."""

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cnn_xray.interventions import ANYWHERE
from cnn_xray.parameters import PHANTOM, ShortcutParameters

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import instruments  # noqa: E402


def test_the_cases_are_of_seeds_of_their_own_and_none_was_used_to_fix_what_counts():
    every = instruments.cases(PHANTOM)
    seeds = [seed for _, seed, _ in every]
    assert len(set(seeds)) == len(seeds) == 230 and min(seeds) >= 100
    assert max(seed for _, seed in instruments.NOTHING) < 10
    places = Counter(cell.place for cell, _, _ in every)
    assert places == {"none": 60, "border": 110, "inside": 20, "global": 30, "border and inside": 10}
    strong = sum(cell.place == "border" and cell.rho >= 0.8 for cell, _, _ in every)
    assert strong == 60 and sum(shap for *_, shap in every) >= 40
    first = [cell for cell, _, _ in every[: len(instruments.CELLS)]]
    assert first == list(instruments.CELLS)  # a round of all before the next, so that a part is a fair sample
    for cell in (*instruments.CELLS, *instruments.REAL):
        assert isinstance(cell.parameters(PHANTOM, 3), ShortcutParameters)


def test_what_is_in_the_table_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(instruments, "TABLE", tmp_path / "instruments.csv")
    few = [(instruments.CELLS[0], 100, False), (instruments.CELLS[6], 700, False)]
    monkeypatch.setattr(instruments, "cases", lambda data: few)
    made = []

    def case(data, cell, seed, explained):
        made.append(seed)
        if seed == 700 and len(made) == 2:
            raise KeyboardInterrupt
        return {"data": "phantom", "truth": cell.name, "seed": seed, "verdict": "none"}

    monkeypatch.setattr(instruments, "case", case)
    with pytest.raises(KeyboardInterrupt):
        instruments.write_cases(PHANTOM, jobs=1)
    instruments.write_cases(PHANTOM, jobs=1)
    assert made == [100, 700, 700]
    assert pd.read_csv(tmp_path / "instruments.csv")["seed"].tolist() == [100, 700]


def twins():
    """Two patients in the sets clean, neutral and test: the artifact is a bright corner, and a bright middle."""
    table = pd.DataFrame(
        [(split, label, mark) for split, marks in SETS.items() for label, mark in enumerate(marks)],
        columns=["split", "label", "artifact"],
    )
    pixels = np.zeros((len(table), 16, 16), np.uint8)
    pixels[table["label"] == 1, 4, 4] = 100  # the disease
    pixels[table["artifact"] == 1, 0, 0] = 40
    pixels[table["artifact"] == 1, 8, 8] = 20
    rows = {split: np.flatnonzero(table["split"] == split) for split in SETS}
    return SimpleNamespace(table=table, pixels=pixels, rows=rows.get)


SETS = {"clean": (0, 0), "neutral": (1, 0), "conflict": (1, 0), "test": (0, 1)}


def test_what_the_artifact_moves_worked_by_hand():
    data, p = twins(), SimpleNamespace(border=0.125)
    run = SimpleNamespace(score=lambda images: images.astype(float).sum(axis=(1, 2)))
    found = instruments.moved_by_artifact(run, p, data)
    # class difference on test: 100 + 60 (artifact with the disease); both patients move by 60, by 40 at the border
    assert found == pytest.approx({"moved": 60 / 160, "moved at border": 40 / 160})


def test_pictures_call_where_their_figure_lies_above_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    count, names = 40, ["image", "randomised weights"]
    heat = {"image": rng.normal(-1, 0.1, count), "randomised weights": rng.normal(-2, 0.1, count)}
    attention = pd.concat([pd.DataFrame({"arm": arm, "log2_border_density_ratio": heat[arm]}) for arm in names])
    drops = pd.DataFrame({"image": np.repeat(np.arange(count), 2), "place": ["border", ANYWHERE] * count})
    drops["drop"] = np.where(drops["place"] == "border", 3.0, 1.0)
    monkeypatch.setattr(instruments.interventions, "occlusion_effects", lambda *_: drops)
    table = pd.DataFrame({"label": [0, 1, 1, 1] * 10, "patient": np.arange(count)})
    data = SimpleNamespace(table=table, rows=lambda split: np.arange(count), pixels=np.zeros((count, 8, 8), np.uint8))
    run = SimpleNamespace(attention=attention, score=None)
    found = instruments.rivals(run, SimpleNamespace(seed=0, border=0.125), data, explained=False)
    assert set(found) == {"Grad-CAM above uniform", "Grad-CAM above untrained", "occlusion"}
    assert found["Grad-CAM above uniform"].high < 0 < found["Grad-CAM above untrained"].low
    assert found["occlusion"].value == pytest.approx(2)  # whatever the numbers of the classes


def trial(place, rho, moved, called, heat=1.0, shap=np.nan):
    pictures = {f"{reader}: low": heat for reader in instruments.READERS}
    told = {"place": place, "rho": rho, "moved at border": moved, "border shortcut": called, "Used: value": moved}
    values = {f"{reader}: value": heat for reader in instruments.READERS} | {"The border's own: value": 0.1 * called}
    return told | values | {"Displayed: value": -moved} | pictures | {"SHAP: low": shap, "SHAP: value": shap}


def test_how_often_the_verdict_is_right_worked_by_hand():
    trials = [trial("none", 0.0, 0.3, False, -1.0), trial("none", 0.0, 0.0, True, shap=-0.1)]
    trials += [trial("border", 0.5, 0.2, True), trial("border", 0.5, 0.05, False), trial("border", 0.95, 0.9, True)]
    trials += [trial("border", 0.8, 0.5, False, -1.0, 0.2), trial("inside", 0.95, 0.0, False)]
    trials += [trial("border and inside", 0.95, 0.2, True), trial("global", 0.95, 0.2, False)]
    found = instruments.how_often_right(pd.DataFrame(trials))
    assert list(found.index) == [
        ("artifact that has nothing to do with the label", "no"),
        ("border artifact that is not relied on", "no"),
        ("border artifact, ρ 0.5", "yes"),
        ("border artifact, ρ at least 0.8", "yes"),
        ("artifact at the border, another inside", "yes"),
        ("artifact inside the lungs", "no"),
        ("change of the whole image", "no"),
    ]
    assert list(found["networks"]) == [2, 1, 1, 2, 1, 1, 1]
    calls = [one.split(" [")[0] for one in found["the verdict"]]
    assert calls == ["1 of 2", "0 of 1", "1 of 1", "1 of 2", "1 of 1", "0 of 1", "0 of 1"]
    assert found["the verdict"].iloc[0] == "1 of 2 [0.01, 0.99]"  # Clopper and Pearson
    shap = found[instruments.READERS["SHAP"]]
    assert shap.iloc[0].startswith("0 of 1") and shap.iloc[3].startswith("1 of 1") and shap.iloc[2] == ""


def test_a_figure_by_itself_is_judged_without_a_threshold():
    trials = [trial("none", 0.0, 0.3, False, 2.0), trial("none", 0.0, 0.0, True, 1.0)]
    trials += [trial("border", 0.95, 0.9, True, 3.0), trial("border", 0.5, 0.2, False, 0.0)]
    found = instruments.how_well_figures_tell(pd.DataFrame(trials))
    assert found["verdict: Used"].value == 0.75  # 0.9 above 0.3 and 0, 0.2 above 0 alone
    assert found["verdict: Displayed"].value == 0.25
    assert found["verdict: The border's own"].value == 0.5
    assert found[instruments.READERS["occlusion"]].value == 0.5  # 3 above both, 0 above none
    assert instruments.READERS["SHAP"] not in found  # not asked of any
