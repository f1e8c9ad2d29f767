"""The real-data path on a slice of the Kermany set, where a copy of it is at hand."""

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cnn_xray import audit, images
from cnn_xray.data import load_dataset, read_manifest
from cnn_xray.geometry import View
from cnn_xray.parameters import DataParameters, TrainParameters
from cnn_xray.runs import run_of

ROOT = Path(os.environ.get("CNN_XRAY_DATA", Path(__file__).parents[2] / "shared" / "data" / "kermany224"))
pytestmark = pytest.mark.skipif(
    not ROOT.is_dir(), reason="no real X-rays here: set CNN_XRAY_DATA to a chest_xray folder to test with them"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_XRAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def part(tmp_path):
    """A folder in the Kaggle layout with every 40th image, by links, and the metadata of all."""
    table = read_manifest(ROOT).table.iloc[::40]
    folder, metadata = tmp_path / "part", ROOT / "metadata.csv"
    for row in table[table["split"] != "val"].itertuples():  # val has too few to be a folder of both classes
        for path in (row.path, row.lung_mask):
            if isinstance(path, str):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).symlink_to(ROOT / path)
    if metadata.is_file():
        (folder / "metadata.csv").write_text(metadata.read_text())
    return folder


def test_the_whole_manifest_and_its_size_probe():
    table = read_manifest(ROOT).table
    assert len(table) == 5856
    assert table["split"].value_counts().to_dict() == {"train": 5216, "test": 624, "val": 16}
    assert table["patient"].nunique() == 4097
    if table["original_width"].notna().any():
        test = table["split"] == "test"
        assert audit.size_only_probe(table[~test], table[test]).auc.value == pytest.approx(0.895, abs=0.02)


def test_the_second_load_of_all_images_takes_under_a_second(tmp_path):
    table = read_manifest(ROOT).table
    images.load(ROOT, table["path"], View(size=64), tmp_path / "cache")
    begun = time.perf_counter()
    again = images.load(ROOT, table["path"], View(size=64), tmp_path / "cache")
    assert time.perf_counter() - begun < 1
    assert again.pixels.shape == (5856, 64, 64) and not again.problems


def test_masks_lie_on_the_lungs():
    """Lungs are darker than what surrounds them, which is false for masks that are shifted or mirrored upside down."""
    data = load_dataset(DataParameters(data=str(ROOT), image_size=64, aspect="letterbox"))
    rows = data.rows("test")
    pixels, lungs = data.pixels[rows].astype(float), data.lungs[rows]
    chest = pixels > 8  # not the letterbox
    inside = np.array([image[lung].mean() for image, lung in zip(pixels, lungs, strict=True)])
    outside = np.array([image[~lung & body].mean() for image, lung, body in zip(pixels, lungs, chest, strict=True)])
    upside_down = np.array([image[lung[::-1]].mean() for image, lung in zip(pixels, lungs, strict=True)])
    assert (inside < outside).mean() > 0.6
    assert inside.mean() < upside_down.mean()


def test_a_slice_goes_the_whole_way(part, tmp_path):
    p = TrainParameters(data=str(part), image_size=64, width=8, epochs=2, runs=str(tmp_path / "runs"))
    run = run_of(p)
    assert 0 <= run.metrics["test_auc"] <= 1
    assert run.metrics["largest_evidence_residual"] < 1e-4
    attended = run.attention
    assert attended["lung_enrichment"].notna().all() and attended["artifact_sensitivity"].isna().all()
    assert "artifact_rho" not in run.record["parameters"]
    assert not any(str(part) in str(value) for value in run.record["parameters"].values())
    assert isinstance(run.predictions, pd.DataFrame) and run.predictions["path"].str.startswith("t").any()
