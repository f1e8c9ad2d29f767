"""The phantom: anatomy as it should look, artifacts where they should be, paired test sets, and the oracle by hand."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import roc_auc_score

from cnn_xray import InputError
from cnn_xray.phantom import anatomy, artifacts, dataset
from cnn_xray.phantom.dataset import PhantomSpec, d_prime, oracle_auc, oracle_aucs, write

TEST_SETS = ["test", "neutral", "conflict", "clean"]


def rng(*key):
    return np.random.default_rng(key)


def radiograph(label=1, signal=0.4, size=128, number=0):
    return anatomy.radiograph(size, label, signal, rng(1, number), rng(2, number))


def grey(folder, path):
    return cv2.imread(str(folder / path), cv2.IMREAD_UNCHANGED)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = write(PhantomSpec(images=16, test_images=12, size=64, seed=3), tmp_path_factory.mktemp("phantom"))
    return folder, pd.read_csv(folder / "manifest.csv")


# ---- one radiograph


def test_lungs_are_dark_the_heart_and_spine_bright_and_the_air_outside_darkest():
    for number in range(5):
        one = radiograph(label=0, number=number)
        assert one.image.shape == (128, 128) and one.image.dtype == np.uint8
        lungs, middle, corner = one.image[one.lungs].mean(), one.image[70:80, 60:68].mean(), one.image[:6, :6].mean()
        assert corner < lungs - 20 and lungs < middle - 50
        assert not one.opacity.any()  # a NORMAL


def test_two_lungs_the_right_one_on_the_left_and_larger():
    for number in range(5):
        lungs = radiograph(number=number).lungs
        count, _, stats, centres = cv2.connectedComponentsWithStats(lungs.astype(np.uint8))
        assert count == 3  # background and two lungs
        first, second = sorted((centres[k][0], stats[k, cv2.CC_STAT_AREA]) for k in (1, 2))
        assert first[0] < 64 < second[0] and first[1] > second[1]


def test_opacities_brighten_the_lungs_where_the_mask_says_and_nowhere_else():
    for number in range(5):
        ill, well = radiograph(signal=0.4, number=number), radiograph(signal=0.0, number=number)  # the same draws
        change = ill.image.astype(int) - well.image.astype(int)
        assert ill.opacity.any() and not (ill.opacity & ~ill.lungs).any()
        assert change[ill.opacity].mean() > 10 and abs(change[~ill.lungs].mean()) < 3
        assert not well.opacity.any()


# ---- artifacts


@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("kind", artifacts.KINDS["border"])
def test_a_crop_of_one_eighth_removes_every_pixel_of_a_border_artifact(kind, size):
    one = radiograph(size=size)
    for number in range(6):
        painted, mask = artifacts.paint(one.image, one.lungs, "border", kind, rng(number), 3.0 - number % 2 * 2.0)
        assert mask.any()
        assert not mask[size // 8 : -size // 8, size // 8 : -size // 8].any()
        np.testing.assert_array_equal(painted != one.image, mask)


@pytest.mark.parametrize("kind", artifacts.KINDS["inside"])
def test_an_inside_artifact_lies_in_the_lungs(kind):
    for number in range(6):
        one = radiograph(number=number)
        painted, mask = artifacts.paint(one.image, one.lungs, "inside", kind, rng(number))
        assert mask.any() and not (mask & ~one.lungs).any()
        np.testing.assert_array_equal(painted != one.image, mask)


def test_an_inside_marker_is_a_whole_letter_not_one_cut_off_by_the_lung():
    one = radiograph()
    for number in range(6):
        _, mask = artifacts.paint(one.image, one.lungs, "inside", "marker", rng(number))
        rows, columns = np.nonzero(mask)
        assert np.ptp(rows) + 1 == round(0.085 * 128) and np.ptp(columns) >= 5


@pytest.mark.parametrize("kind", artifacts.KINDS["inside"])
def test_one_lung_is_enough_for_an_inside_artifact(kind):
    lungs = np.zeros((224, 224), bool)
    lungs[60:180, 20:100] = lungs[100:102, 100:115] = True  # a lung, and a sliver of it beyond the middle
    for number in range(12):  # each of which wants one lung or the other
        _, mask = artifacts.paint(np.zeros((224, 224), np.uint8), lungs, "inside", kind, rng(number))
        assert mask.any() and not (mask & ~lungs).any()


def test_a_lung_without_room_for_a_letter_is_said_in_a_sentence():
    lungs = np.zeros((64, 64), bool)
    lungs[30, 20] = True
    with pytest.raises(InputError, match="A lung mask of 1 px in an image of 64×64 px has no room for '[LR]'"):
        artifacts.paint(np.zeros((64, 64), np.uint8), lungs, "inside", "marker", rng(0))


def test_global_artifacts_change_everything_and_have_an_empty_mask():
    one = radiograph()
    blurred, mask = artifacts.paint(one.image, one.lungs, "global", "blur", rng(0))
    assert not mask.any()
    assert np.abs(np.diff(blurred.astype(int))).mean() < 0.7 * np.abs(np.diff(one.image.astype(int))).mean()
    flat, mask = artifacts.paint(one.image, one.lungs, "global", "contrast", rng(0), amplitude=1.0)
    assert not mask.any()
    assert flat.std() == pytest.approx(one.image.std() / 1.6, rel=0.01)
    assert flat.mean() == pytest.approx(one.image.mean(), abs=0.5)

    rough, mask = artifacts.paint(one.image, one.lungs, "global", "compression", rng(0))
    assert not mask.any() and 3 < np.abs(rough.astype(int) - one.image).mean() < 15
    steps = np.abs(np.diff(rough.astype(int), axis=1)).mean(axis=0)  # between columns
    assert steps[7::8].mean() > 1.5 * np.delete(steps, np.s_[7::8]).mean()  # the edges of its blocks


@pytest.mark.parametrize("kind", artifacts.KINDS[artifacts.BOTH])
def test_an_artifact_at_both_places_is_in_the_border_and_in_the_lungs(kind):
    one = radiograph()
    painted, mask = artifacts.paint(one.image, one.lungs, artifacts.BOTH, kind, rng(0))
    np.testing.assert_array_equal(painted != one.image, mask)
    border = np.ones(mask.shape, bool)
    border[16:-16, 16:-16] = False
    assert (mask & border & ~one.lungs).any() and (mask & one.lungs & ~border).any()
    assert not (mask & ~border & ~one.lungs).any()


def test_a_marker_is_as_bright_as_its_amplitude_and_jitters_about_its_corner():
    black, nothing = np.zeros((128, 128), np.uint8), np.zeros((128, 128), bool)
    for amplitude in (0.2, 1.0):
        painted, _ = artifacts.paint(black, nothing, "border", "marker", rng(0), amplitude)
        assert painted.max() == 150 * amplitude
    masks = [artifacts.paint(black, nothing, "border", "marker", rng(number))[1] for number in range(40)]
    assert not np.any(masks, axis=0)[64:].any()  # the upper corners
    on_the_left = np.mean([mask[:, :64].any() for mask in masks])
    assert on_the_left == pytest.approx(0.75, abs=0.15) and len({mask.tobytes() for mask in masks}) > 20


# ---- the data set


def test_manifest_has_its_columns_and_every_file_exists(small):
    folder, table = small
    sizes, masks = ["original_width", "original_height"], ["lung_mask", "artifact_mask", "opacity_mask"]
    assert set(table) == {"path", "label", "split", "patient", *sizes, *masks, "artifact"}
    assert table["split"].value_counts().to_dict() == {"train": 16, **dict.fromkeys(TEST_SETS, 12)}
    assert table["path"].is_unique and not table.isna().any(axis=None)
    for column in ("path", *masks):
        for path in table[column].unique():
            image = grey(folder, path)
            assert image.shape == (64, 64) and image.dtype == np.uint8
            assert column == "path" or set(np.unique(image)) <= {0, 255}
    assert (table[sizes] == 64).all(axis=None)


def test_classes_are_exactly_balanced_and_only_pneumonias_have_an_opacity(small):
    folder, table = small
    for _, rows in table[table["split"] != "train"].groupby("split"):
        assert (rows["label"] == "PNEUMONIA").sum() == 6
    for row in table.itertuples():
        assert grey(folder, row.opacity_mask).any() == (row.label == "PNEUMONIA")
        assert grey(folder, row.artifact_mask).any() == row.artifact


def test_every_seventh_training_patient_has_two_images_and_none_is_in_the_test_sets(small):
    folder, table = small
    train, test = table[table["split"] == "train"], table[table["split"] != "train"]
    images = train.groupby("patient")["path"].agg(list)
    assert images.str.len().value_counts().to_dict() == {1: 12, 2: 2}  # 16 images: two blocks of 7 patients
    assert not set(train["patient"]) & set(test["patient"])
    for pair in images[images.str.len() == 2]:
        assert train.set_index("path").loc[pair, "label"].nunique() == 1
        assert (grey(folder, pair[0]) != grey(folder, pair[1])).mean() > 0.5


def test_the_test_sets_are_paired_and_differ_only_in_the_artifact(small):
    folder, table = small
    sets = {name: table[table["split"] == name].reset_index(drop=True) for name in TEST_SETS}
    clean = sets["clean"]
    seen = {True: 0, False: 0}
    for rows in sets.values():
        for column in ("label", "patient", "lung_mask", "opacity_mask"):
            assert rows[column].tolist() == clean[column].tolist()
        for row, bare in zip(rows.itertuples(), clean.itertuples(), strict=True):
            differs = grey(folder, row.path) != grey(folder, bare.path)
            np.testing.assert_array_equal(differs, grey(folder, row.artifact_mask) > 0)
            assert differs.any() == bool(row.artifact)
            seen[bool(row.artifact)] += 1
    assert min(seen.values()) > 10
    assert not clean["artifact"].any()
    ill = (clean["label"] == "PNEUMONIA").astype(int)
    assert (sets["conflict"]["artifact"] == 1 - ill).all()
    both = sets["test"]["artifact"] & sets["conflict"]["artifact"] == 1
    assert sets["test"].loc[both, "artifact_mask"].tolist() == sets["conflict"].loc[both, "artifact_mask"].tolist()


@pytest.mark.parametrize("rho", [0.5, 0.0, -0.5])
def test_rho_sets_how_often_the_artifact_agrees_with_the_label(rho):
    luck = [((i + 0.5) / 1000, 0.9) for i in range(1000)]
    for label in (0, 1):
        assert np.mean([artifacts.marked(label, one, rho) == label for one in luck]) == (1 + rho) / 2
        assert not any(artifacts.marked(label, one, None) for one in luck)
        assert not any(artifacts.marked(label, one, rho, share=0.9) for one in luck)


def test_the_share_is_of_the_images_due_to_have_the_artifact(tmp_path):
    def marks(**change):
        table = pd.read_csv(write(PhantomSpec(2, 80, 64, 0.5, seed=2, **change), tmp_path) / "manifest.csv")
        return table.pivot(index="patient", columns="split", values="artifact")[list(TEST_SETS)].dropna()

    every, some = marks(), marks(share=0.4)
    assert (some <= every).all(axis=None)
    seen = some["conflict"][every["conflict"] == 1]
    assert 0.2 < seen.mean() < 0.6 and seen.mean() == pytest.approx(some["test"][every["test"] == 1].mean(), abs=0.2)
    both = every["test"] * every["conflict"] == 1  # an image has the artifact in all sets where it is due, or in none
    assert (some["test"][both] == some["conflict"][both]).all() and 0 < some["test"][both].mean() < 1


def test_training_and_test_set_follow_rho_the_other_test_sets_do_not(tmp_path):
    def agreement(rho):
        table = pd.read_csv(write(PhantomSpec(14, 12, 64, rho), tmp_path) / "manifest.csv")
        return ((table["label"] == "PNEUMONIA") == table["artifact"]).groupby(table["split"]).mean()

    along, against = agreement(1.0), agreement(-1.0)
    assert along[["train", "test"]].tolist() == [1, 1] and against[["train", "test"]].tolist() == [0, 0]
    assert along["conflict"] == against["conflict"] == 0 and along["clean"] == against["clean"] == 0.5
    assert 0 < along["neutral"] == against["neutral"] < 1


def test_an_image_depends_neither_on_their_number_nor_on_rho_nor_on_the_artifact(tmp_path):
    def images(**change):
        folder = write(PhantomSpec(**{"images": 5, "test_images": 4, "size": 64, "seed": 7, **change}), tmp_path)
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}

    few, more = images(), images(images=9, test_images=6)
    other = images(rho=0.0, location="inside", kinds=("text",))
    for number in range(5):
        assert few[f"train/train-{number:05d}.png"] == more[f"train/train-{number:05d}.png"]
    for number in range(4):
        for split in TEST_SETS:
            assert few[f"{split}/test-{number:05d}.png"] == more[f"{split}/test-{number:05d}.png"]
        assert few[f"clean/test-{number:05d}.png"] == other[f"clean/test-{number:05d}.png"]
    assert few["clean/test-00000.png"] != few["clean/test-00002.png"]
    assert few["clean/test-00000.png"] != images(seed=8)["clean/test-00000.png"]


def test_a_mixture_of_kinds_uses_each_of_them(tmp_path):
    folder = write(PhantomSpec(24, 2, 64, rho=0, kinds=("marker", "vignette")), tmp_path)
    table = pd.read_csv(folder / "manifest.csv")
    areas = [(grey(folder, path) > 0).mean() for path in table.loc[table["artifact"] == 1, "artifact_mask"]]
    assert min(areas) < 0.02 and max(areas) > 0.2


def test_a_finished_phantom_is_returned_untouched(small):
    folder, _ = small
    before = (folder / "manifest.csv").stat().st_mtime_ns
    assert write(PhantomSpec(images=16, test_images=12, size=64, seed=3), folder.parent) == folder
    assert (folder / "manifest.csv").stat().st_mtime_ns == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # no draft is left behind


def test_different_specs_have_different_folders():
    specs = [PhantomSpec(), PhantomSpec(signal=0.5), PhantomSpec(seed=1), PhantomSpec(kinds=("marker", "text"))]
    assert len({spec.identifier for spec in specs}) == 4
    assert PhantomSpec(seed=1).identifier.startswith("phantom-border-marker-rho0.95-n1200-seed1-")


def test_an_interrupted_phantom_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "radiograph", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(PhantomSpec(images=2, test_images=2, size=64), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_and_an_incomplete_folder_are_said_in_words(tmp_path):
    spec = PhantomSpec(images=2, test_images=2, size=64)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        write(spec, tmp_path / "file")
    (tmp_path / spec.identifier / "train").mkdir(parents=True)
    with pytest.raises(InputError, match="can be deleted"):
        write(spec, tmp_path)


@pytest.mark.parametrize(
    ("artifact", "said"),
    [
        (("outside", ("marker",)), "border, inside, border and inside, global"),
        (("inside", ("vignette",)), "marker, text, tubing"),
        (
            ("global", ("marker",)),
            "cannot be at the location 'global'; choose from blur, contrast, compression",
        ),
        (("border", ()), "No kind"),
    ],
)
def test_impossible_artifacts_are_refused(artifact, said):
    with pytest.raises(InputError, match=said):
        artifacts.check(*artifact)


# ---- the shortcut, and what a crop does to it


@pytest.mark.parametrize("location", ["border", "inside"])
def test_cropping_fixes_a_border_artifact_and_nothing_else(tmp_path, location):
    folder = write(PhantomSpec(160, 80, 64, location=location, signal=0.9), tmp_path)
    table = pd.read_csv(folder / "manifest.csv")
    ill, train, conflict = table["label"] == "PNEUMONIA", table["split"] == "train", table["split"] == "conflict"
    auc = {}
    for crop in (0, 8):
        images = [grey(folder, path)[crop : 64 - crop, crop : 64 - crop] for path in table["path"]]
        features = np.stack([cv2.resize(one, (32, 32), interpolation=cv2.INTER_AREA).ravel() for one in images])
        ridge = RidgeClassifier(alpha=1e5).fit(features[train], ill[train])
        auc[crop] = roc_auc_score(ill[conflict], ridge.decision_function(features[conflict]))
    assert auc[0] < 0.45
    assert auc[8] > 0.65 if location == "border" else auc[8] < 0.45


# ---- the oracle


def test_oracle_by_hand():
    # d = √2 makes d√2 = 2 and d² = 2; ρ = tanh(1/2) makes L = 1, so the arguments are (2 ± 2) / 2 = 2 and 0.
    d, rho, at_1, at_2 = math.sqrt(2), math.tanh(0.5), 0.841344746, 0.977249868
    assert oracle_auc(d, rho, 1.0) == pytest.approx(at_2)
    assert oracle_auc(d, rho, -1.0) == pytest.approx(0.5)
    assert oracle_auc(d, rho, 0.0) == pytest.approx(at_2 / 4 + at_1 / 2 + 0.5 / 4)
    np.testing.assert_allclose(oracle_auc(d, 0.0, np.array([-1, 0, 0.3, 1])), at_1)  # no reliance, no harm


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_oracle_agrees_with_a_simulated_ideal_observer(share):
    d, rho, rho_test, n = 2.0, 0.8, -0.5, 200_000
    draw = rng(0)
    label = np.arange(n) % 2
    due = np.where(draw.random(n) < (1 + rho_test) / 2, label, 1 - label)
    artifact = due * (draw.random(n) < share)
    told = np.where(artifact, (1 + rho) / (1 - rho), (1 - share * (1 + rho) / 2) / (1 - share * (1 - rho) / 2))
    score = d * (draw.normal(size=n) + d * label - d / 2) + np.log(told)
    assert oracle_auc(d, rho, rho_test, share) == pytest.approx(roc_auc_score(label, score), abs=0.005)


def test_d_prime_undoes_the_oracle_without_an_artifact():
    d = np.array([0.5, 1.0, 2.5])
    np.testing.assert_allclose(d_prime(oracle_auc(d, 0.0, 0.0)), d)


@pytest.mark.parametrize("arguments", [(0.0, 0.5, 0.5), (1.0, 1.0, 0.5), (1.0, 0.5, -1.5), (1.0, math.nan, 0.0)])
def test_oracle_refuses_what_has_no_answer(arguments):
    with pytest.raises(InputError, match="oracle needs"):
        oracle_auc(*arguments)


def test_the_oracle_of_each_set_has_the_networks_own_signal():
    found = oracle_aucs(0.9, 0.95)
    assert list(found) == ["test", "neutral", "conflict"] and found["conflict"] < found["neutral"] < found["test"]
    assert oracle_aucs(0.9, 0.0) == pytest.approx(dict.fromkeys(found, 0.9))  # an artifact that tells nothing
    assert oracle_aucs(0.5, 0.95) == oracle_aucs(1.0, 0.95) == {}
