"""Planted artifacts: how often, on whom, counterfactual twins, and never on the disk."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnn_xray import InputError
from cnn_xray.data import load_dataset, plant
from cnn_xray.parameters import DataParameters

TEST_SETS = ["test", "neutral", "conflict", "clean"]
FITTING, TESTING = 24, 12  # films


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A chest_xray folder: films of many sizes, each of its own brightness, brighter to the right, two lungs."""
    folder = tmp_path_factory.mktemp("films") / "chest_xray"
    for split, count in (("train", FITTING), ("test", TESTING)):
        for i in range(count):
            path = f"{split}/{('NORMAL', 'PNEUMONIA')[i % 2]}/{i}.png"
            height, width = 240 + 3 * i, 400 - 3 * i
            film = 60 + 3 * i + np.tile(np.linspace(0, 60, width), (height, 1))
            mask = np.zeros((height, width), np.uint8)
            mask[60 + i : 180 + i, 60:160] = mask[60:180, 220 : 260 + i] = 255
            for name, picture in ((path, film), (f"lung_masks/{path}", mask)):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.astype(np.uint8)).save(folder / name)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CNN_XRAY_CACHE", str(tmp_path_factory.getbasetemp() / "planted-cache"))


def load(films, **more):
    return load_dataset(DataParameters(data=str(films), **{"image_size": 64, "artifact_rho": 0.5, **more}))


def planted(table, rho, seed=0, location="border", kinds=("exposure",), lungs=None, films=None):
    films = np.full((len(table), 32, 32), 100, np.uint8) if films is None else films
    return list(plant(films, table, lungs, rho, location, kinds, 1.0, seed))


def many(count=900):
    """``count`` films of alternating class, a third each to train, to validate and to test on."""
    order = np.arange(count)
    return pd.DataFrame({"label": order % 2, "split": np.array(["train", "val", "test"])[order % 3]})


# ---- how often


@pytest.mark.parametrize("rho", [0.8, 0.0, -0.5])
def test_the_artifact_agrees_with_the_label_as_often_as_rho_says(rho):
    table = many()
    found = pd.DataFrame([(one.split, one.marked == table["label"][one.row]) for one in planted(table, rho)])
    share = found.groupby(0)[1].mean()
    expected = (1 + rho) / 2
    assert share[["train", "val", "test"]].tolist() == pytest.approx([expected] * 3, abs=0.08)
    assert share["neutral"] == pytest.approx(0.5, abs=0.08)
    assert share["conflict"] == 0


def test_both_classes_are_marked_in_their_measure():
    table = many()
    found = pd.DataFrame([(table["label"][one.row], one.marked) for one in planted(table, 0.8) if one.split == "train"])
    assert found.groupby(0)[1].mean().tolist() == pytest.approx([0.1, 0.9], abs=0.06)


def test_training_films_stay_one_and_test_films_become_four():
    table = many(6)
    found = planted(table, 0.5)
    assert [(one.row, one.split) for one in found] == [
        (0, "train"), (1, "val"), *((2, name) for name in TEST_SETS),
        (3, "train"), (4, "val"), *((5, name) for name in TEST_SETS),
    ]  # fmt: skip


def test_a_marked_film_differs_where_it_says_and_an_unmarked_one_nowhere():
    for one in planted(many(60), 0.5):
        np.testing.assert_array_equal(one.film != 100, one.changed)
        assert one.changed.any() == one.marked
        assert not (one.marked and one.split == "clean")


def test_a_global_artifact_marks_films_without_a_place():
    films = np.random.default_rng(0).integers(0, 256, (60, 32, 32)).astype(np.uint8)
    for one in planted(many(60), 0.5, location="global", kinds=("blur",), films=films):
        assert (one.film != films[one.row]).any() == one.marked and not one.changed.any()


def test_the_seed_decides_which_films_get_it():
    def marks(seed):
        return [one.marked for one in planted(many(60), 0.5, seed)]

    assert marks(0) == marks(0) != marks(1)


def test_every_kind_is_used():
    areas = [one.changed.mean() for one in planted(many(60), 0.0, kinds=("exposure", "vignette")) if one.marked]
    assert min(areas) < 0.1 and max(areas) > 0.3


def test_lungs_without_a_mask_cannot_hold_an_artifact():
    lungs = np.ones((6, 32, 32), bool)
    lungs[4] = False
    for masks, said in ((None, "6 of 6 films have no lung mask"), (lungs, "1 of 6 films have no lung mask")):
        with pytest.raises(InputError, match=f"artifact_location is 'inside', but {said}"):
            planted(many(6), 0.5, location="inside", kinds=("marker",), lungs=masks)


def test_data_with_test_sets_of_their_own_are_refused():
    table = many(6)
    table.loc[2, "split"] = "conflict"
    with pytest.raises(InputError, match="have the test set conflict"):
        planted(table, 0.5)


# ---- in a data set


def test_everything_stays_aligned_with_the_film_it_came_from(films):
    plain, data = load(films, artifact_rho=None, image_size=224), load(films, image_size=224)
    assert data.table["split"].value_counts()[TEST_SETS].tolist() == [TESTING] * 4
    lengths = {len(part) for part in (data.table, data.pixels, data.placements, data.lungs, data.artifacts)}
    assert lengths == {FITTING + 4 * TESTING}
    source = [plain.table["path"].tolist().index(path) for path in data.table["path"]]
    untouched = ~data.artifacts
    np.testing.assert_array_equal(data.pixels[untouched], plain.pixels[source][untouched])
    assert (data.pixels != plain.pixels[source])[data.artifacts].all()
    np.testing.assert_array_equal(data.lungs, plain.lungs[source])
    assert data.placements == [plain.placements[row] for row in source]
    assert data.table["label"].tolist() == plain.table["label"].iloc[source].tolist()
    assert data.fingerprint == plain.fingerprint
    assert "An artifact (marker, border) was planted, ρ = 0.5." in data.notes
    assert data.artifacts.any(axis=(1, 2)).tolist() == (data.table["artifact"] == 1).tolist()
    assert data.table["has_artifact"].all()


@pytest.mark.parametrize("aspect", ["squash", "letterbox", "square"])
def test_the_test_sets_are_counterfactual_twins(films, aspect):
    data = load(films, aspect=aspect, artifact_kinds="vignette")
    sets = {name: data.rows(name) for name in TEST_SETS}
    clean = data.pixels[sets["clean"]]
    assert not data.artifacts[sets["clean"]].any()
    for rows in sets.values():
        assert data.table["path"].iloc[rows].tolist() == data.table["path"].iloc[sets["clean"]].tolist()
        assert not (data.pixels[rows] != clean)[~data.artifacts[rows]].any()
    marked, normal = data.table["artifact"].to_numpy() == 1, data.table["label"].to_numpy() == 0
    np.testing.assert_array_equal(marked[sets["conflict"]], normal[sets["conflict"]])
    assert (data.pixels[sets["conflict"]] != clean).any(axis=(1, 2)).tolist() == normal[sets["conflict"]].tolist()


@pytest.mark.parametrize("view", [{"aspect": "letterbox"}, {"aspect": "square", "crop": 0.2}, {"crop": 0.1}])
def test_a_clean_film_looks_as_it_does_where_nothing_is_planted(films, view):
    plain, data = load(films, artifact_rho=None, **view), load(films, **view)
    clean, test = data.rows("clean"), plain.rows("test")
    difference = data.pixels[clean].astype(int) - plain.pixels[test]
    assert np.abs(difference).max() <= 2  # grey levels, of a frame resampled twice
    assert plain.placements == [data.placements[row] for row in (*data.rows("train", "val"), *clean)]


def test_the_padding_of_a_letterbox_stays_black(films):
    data = load(films, aspect="letterbox", artifact_kinds="exposure")
    assert data.artifacts.any()
    for film, mask, place in zip(data.pixels, data.artifacts, data.placements, strict=True):
        top, bottom = round(place.target[1] * 64), round(place.target[3] * 64)
        assert 0 < top < bottom < 64
        assert not np.delete(film, np.s_[top:bottom], axis=0).any()
        assert not np.delete(mask, np.s_[top:bottom], axis=0).any()


@pytest.mark.parametrize("aspect", ["squash", "letterbox", "square"])
def test_a_crop_of_an_eighth_removes_a_marker_at_the_border(films, aspect):
    data = load(films, crop=0.125, aspect=aspect)
    assert not data.artifacts.any() and data.table["artifact"].any()
    for name in TEST_SETS:
        np.testing.assert_array_equal(data.pixels[data.rows(name)], data.pixels[data.rows("clean")])


def test_inside_the_lungs_it_needs_their_masks_and_stays_within(films, tmp_path):
    inside = {"artifact_location": "inside", "artifact_kinds": "marker, text, tubing"}
    data = load(films, image_size=224, **inside)
    assert data.artifacts.any() and not (data.artifacts & ~data.lungs).any()
    (tmp_path / "train").symlink_to(films / "train")
    (tmp_path / "test").symlink_to(films / "test")
    with pytest.raises(InputError, match="36 of 36 films have no lung mask"):
        load(tmp_path, **inside)


def test_the_same_seed_gives_the_same_films(films):
    first, again, other = load(films), load(films), load(films, seed=1)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    paths = [data.table.query("split == 'test' and artifact == 1")["path"].tolist() for data in (first, other)]
    assert paths[0] != paths[1]


def test_nothing_is_written_among_the_data(films):
    before = {path: path.stat().st_mtime_ns for path in films.rglob("*")}
    load(films, artifact_kinds="text", keep="border", labels="permuted")
    assert {path: path.stat().st_mtime_ns for path in films.rglob("*")} == before


def test_only_a_part_of_planted_films_can_be_kept(films):
    marked = load(films)
    ring, centre = load(films, keep="border"), load(films, keep="centre")
    for one in (ring, centre):
        np.testing.assert_array_equal(one.artifacts, marked.artifacts)
        assert one.table["artifact"].tolist() == marked.table["artifact"].tolist()
    np.testing.assert_array_equal(ring.pixels[:, :8], marked.pixels[:, :8])
    assert (ring.pixels[:, 8:-8, 8:-8] == 128).all()
    for name in TEST_SETS:  # the marker lies in the ring, so the centres are the same
        np.testing.assert_array_equal(centre.pixels[centre.rows(name)], centre.pixels[centre.rows("clean")])
        assert name == "clean" or (ring.pixels[ring.rows(name)] != ring.pixels[ring.rows("clean")]).any()
