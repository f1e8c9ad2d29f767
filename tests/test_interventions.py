"""Swaps and occlusion worked by hand: fake classifiers that read the border, the centre, the seam or everything."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cnn_xray import InputError, geometry, interventions
from cnn_xray.data import Dataset
from cnn_xray.geometry import FRAME, Placement, View, soft_border
from cnn_xray.metrics import auc_difference
from cnn_xray.statistics import cluster_mean, paired_difference

# Borders of two NORMAL and two PNEUMONIA images, as grey / 10 − 5: logits −4, −3, −1, 3.
LABELS = np.array([0, 0, 1, 1])
BORDERS, CENTRES = np.array([10, 20, 40, 80]), np.array([70, 30, 50, 90])
Z = np.array([-4.0, -3.0, -1.0, 3.0])
PEOPLE = np.array(list("abcd"))
CENTRE = np.zeros((8, 8), bool)
CENTRE[2:6, 2:6] = True  # what a border of 0.25 leaves; so narrow a seam reaches no pixel's centre
FIGURES = [
    "R", "tau NORMAL", "tau PNEUMONIA",
    "flips cross NORMAL", "flips cross PNEUMONIA", "flips same NORMAL", "flips same PNEUMONIA",
]  # fmt: skip


def of_border(images):
    return images[:, ~CENTRE].mean(axis=1) / 10 - 5


def of_centre(images):
    return images[:, CENTRE].mean(axis=1) / 10 - 5


def of_both(images):
    return of_border(images) + of_centre(images)


def dataset(borders=BORDERS, centres=CENTRES, labels=LABELS, patients=None, lungs=CENTRE) -> Dataset:
    pixels = np.where(CENTRE, np.reshape(centres, (-1, 1, 1)), np.reshape(borders, (-1, 1, 1))).astype(np.uint8)
    n = len(pixels)
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(n)], "label": labels, "split": "train"})
    table["patient"] = [f"p{i}" for i in range(n)] if patients is None else patients
    masks = None if lungs is None else np.broadcast_to(lungs, pixels.shape).copy()
    return Dataset("tiny", None, table, View(size=8), pixels, [Placement(FRAME, FRAME)] * n, masks, None, "f", ())


def swapped(model, data, region, width=0.25, count=2, seed=0):
    labels, patients = data.table["label"].to_numpy(), data.table["patient"].to_numpy()
    rows = np.arange(len(labels))
    pairs = interventions.donor_pairs(labels, patients, count, seed)
    return interventions.swap_effects(model, data, rows, pairs, region, width)


def relied(model, data, region, width=0.25, count=2):
    labels, patients = data.table["label"].to_numpy(), data.table["patient"].to_numpy()
    found = swapped(model, data, region, width, count)
    return interventions.reliance(found, labels, model(data.pixels), patients)


def by_hand(recipient, donor, cross, change, z=0.0):
    """A table of pairs as `swap_effects` gives it, without images."""
    z = np.broadcast_to(z, len(change)).astype(float)
    return pd.DataFrame({"recipient": recipient, "donor": donor, "cross": cross, "z": z, "composite": z + change})


def test_donors_are_of_other_patients_and_as_many_as_asked_of_either_class():
    labels, patients = np.array([0] * 9 + [1] * 12), np.array([f"p{i // 2}" for i in range(21)])
    pairs = interventions.donor_pairs(labels, patients, 4, seed=1)
    assert (patients[pairs["recipient"]] != patients[pairs["donor"]]).all()
    assert ((labels[pairs["recipient"]] != labels[pairs["donor"]]) == pairs["cross"]).all()
    assert (pairs.groupby(["recipient", "cross"]).size() == 4).all() and len(pairs) == 21 * 2 * 4
    assert not pairs.duplicated(["recipient", "donor"]).any()
    assert pairs["recipient"].is_monotonic_increasing and list(pairs.index) == list(range(len(pairs)))


@pytest.mark.parametrize("count", [1, 4])
def test_every_image_gives_about_equally_often(count):
    labels = np.array([0] * 13 + [1] * 20)
    pairs = interventions.donor_pairs(labels, np.arange(33), count, seed=2)
    giver = labels[pairs["donor"]]
    for arm in (True, False):
        for label in (0, 1):
            given = pairs["donor"][(pairs["cross"] == arm) & (giver == label)].value_counts()
            given = given.reindex(np.flatnonzero(labels == label), fill_value=0)
            assert given.max() - given.min() <= (1 if arm else 2)  # none gives to itself, which unsettles the turns


def test_fewer_donors_are_used_where_there_are_not_so_many():
    pairs = interventions.donor_pairs(LABELS, np.array(list("aabc")), 5, seed=0)
    given = pairs.groupby(["recipient", "cross"])["donor"].apply(sorted).to_dict()
    # The NORMAL images are one patient's, so neither has a donor of its own class.
    both = {(0, True): [2, 3], (1, True): [2, 3], (2, True): [0, 1], (3, True): [0, 1]}
    assert given == both | {(2, False): [3], (3, False): [2]}


def test_the_seed_decides_who_gives():
    labels, patients = np.array([0, 1] * 10), np.arange(20)
    pairs = interventions.donor_pairs(labels, patients, 3, seed=5)
    assert pairs.equals(interventions.donor_pairs(labels, patients, 3, seed=5))
    assert not pairs.equals(interventions.donor_pairs(labels, patients, 3, seed=6))
    shuffled = pd.Series(labels, index=np.arange(20)[::-1])  # a column's index is no row number
    assert pairs.equals(interventions.donor_pairs(shuffled, patients, 3, seed=5))


def test_tau_and_flips_of_four_images_worked_by_hand():
    found = relied(of_border, dataset(), "border")
    # Image 10 takes the borders 40 and 80 (+3, +7) and 20 (+1): 5 − 1 = 4; image 20: (2 + 6) / 2 + 1 = 5.
    # Image 40: −((−3 − 2) / 2 − 4) = 6.5; image 80: −((−7 − 6) / 2 + 4) = 2.5.
    assert found["tau NORMAL"].value == pytest.approx((4 + 5) / 2)
    assert found["tau PNEUMONIA"].value == pytest.approx((6.5 + 2.5) / 2)
    assert found["R"].value == pytest.approx(4.5 / ((-1 + 3) / 2 - (-4 - 3) / 2))
    # NORMAL with border 80 is decided PNEUMONIA, with 40 not. Image 40 is decided NORMAL and changes with 80 alone.
    assert found["flips cross NORMAL"].value == 0.5 and found["flips same NORMAL"].value == 0
    assert found["flips cross PNEUMONIA"].value == 0.5 and found["flips same PNEUMONIA"].value == 1
    assert sorted(found) == sorted(FIGURES)
    assert [found[name].n for name in FIGURES] == [4, 2, 2, 2, 2, 2, 2]
    assert all(math.isnan(found[name].p) for name in FIGURES)  # of four images too many draws lack a class


def test_what_is_read_inside_is_the_mean_over_donors_of_both_classes():
    pairs = by_hand([0, 0, 0, 2, 2, 3], [1, 2, 3, 0, 3, 0], [False, True, True, True, False, True], [1, 2, 4, 5, 7, 1])
    found = interventions.read_inside(pairs, 4)
    np.testing.assert_array_equal(found, [(1 + (2 + 4) / 2) / 2, np.nan, 6, np.nan])
    # A network of the border alone reads nothing that differs inside, where every image gets the same borders.
    made = swapped(of_both, dataset(), "border")
    of_the_border = interventions.read_inside(swapped(of_border, dataset(), "border"), 4)
    np.testing.assert_allclose(interventions.read_inside(made, 4) - of_the_border, of_centre(dataset().pixels))


def test_tau_has_the_same_sign_in_both_classes():
    found = relied(lambda images: -of_border(images), dataset(), "border")
    assert found["tau NORMAL"].value == found["tau PNEUMONIA"].value == pytest.approx(-4.5)


@pytest.mark.parametrize(
    ("model", "region", "expected"),
    [
        (of_border, "border", 1),
        (of_border, "lung box", 0),
        (of_border, "outside the lungs", 1),
        (of_centre, "border", 0),
        (of_centre, "lung box", 1),
        (of_centre, "outside the lungs", 0),
        # Of the class difference 45/10 + 20/10 the border has 45/10.
        (of_both, "border", 45 / 65),
        (of_both, "lung box", 20 / 65),
    ],
)
def test_r_is_the_share_that_moves_with_the_region(model, region, expected):
    found = relied(model, dataset(), region)
    assert found["R"].value == pytest.approx(expected, abs=1e-6)
    assert {found[name].value for name in FIGURES if name.startswith("flips")} != {0} or expected == 0


def test_the_whole_image_carries_all_of_the_difference():
    found = relied(of_both, dataset(), "border", width=0.5)
    assert found["R"].value == pytest.approx(1)
    assert found["tau NORMAL"].value == pytest.approx(6.5)


def test_what_the_seam_does_cancels_between_the_arms():
    def of_seam(images):  # 7 logits for a visible edge, 1 for a grey centre
        return 7.0 * (images[:, 1, 4] != images[:, 2, 4]) + (images[:, 3, 3] >= 100)

    levels = np.r_[10:34:2, 100:124:2]  # every image is of one grey: any border but its own draws an edge
    data = dataset(levels, levels, np.repeat([0, 1], 12))
    pairs = swapped(of_seam, data, "border")
    assert (pairs["composite"] - pairs["z"] == 7).all()
    found = interventions.reliance(pairs, data.table["label"], of_seam(data.pixels), data.table["patient"])
    for name in ("R", "tau NORMAL", "tau PNEUMONIA"):
        assert (found[name].value, found[name].low, found[name].high, found[name].p) == (0, 0, 0, 1)


@pytest.mark.parametrize(("normal", "pneumonia"), [(234, 390), (312, 312), (390, 234)])
def test_a_seam_more_visible_between_the_classes_is_no_reliance_however_many_images_they_have(normal, pneumonia):
    labels = np.repeat([0, 1], [normal, pneumonia])
    centres = 100 + 40 * labels + np.random.default_rng(0).integers(-20, 20, len(labels))  # below 120: NORMAL
    data = dataset(50 + 100 * labels, centres, labels)

    def of_centre_and_seam(images):  # 3 logits where the border is not that of the centre's class
        centre, border = images[:, 3, 3].astype(float), images[:, 0, 0].astype(float)
        return (centre - 120) / 10 + 3 * (border != 50 + 100 * (centre >= 120))

    found = relied(of_centre_and_seam, data, "border")
    assert found["tau NORMAL"].value == pytest.approx(3) and found["tau PNEUMONIA"].value == pytest.approx(-3)
    assert found["R"].value == pytest.approx(0, abs=1e-6)  # (234 · 3 − 390 · 3) / 624 would be −0.75 logits


def test_a_seam_that_moves_one_class_more_does_not_cancel():
    labels = np.repeat([0, 1], [20, 40])
    data = dataset(50 + 100 * labels, 100 + 40 * labels, labels)

    def of_centre_and_seam(images):  # where border and centre disagree: 3 logits for a NORMAL centre, 1 for the other
        centre, border = images[:, 3, 3].astype(float), images[:, 0, 0].astype(float)
        return (centre - 120) / 10 + np.where(centre < 120, 3, 1) * (border != 50 + 100 * (centre >= 120))

    found = relied(of_centre_and_seam, data, "border")
    assert found["tau NORMAL"].value == pytest.approx(3) and found["tau PNEUMONIA"].value == pytest.approx(-1)
    assert found["R"].value == pytest.approx((3 - 1) / 2 / 4)  # the classes differ by 40 grey, 4 logits


def test_a_part_alone_has_the_rest_from_the_mean_training_image():
    data = dataset(borders=[10, 20, 30, 40, 90], centres=[100, 200, 200, 100, 90], labels=np.array([0, 0, 1, 1, 1]))
    data.lungs[4] = False  # has no mask: no part of it is asked, but it is a training image
    seen = []

    def watched(images):
        seen.append(images)
        return of_both(images)

    # the mean image: border ((10 + 20) / 2 + (30 + 40 + 90) / 3) / 2, centre (150 + 130) / 2
    found = interventions.auc_of_parts(watched, data, np.arange(5))
    assert [images[:, 0, 0].tolist() for images in seen] == [[34] * 4, [10, 20, 30, 40]]
    assert [images[:, 4, 4].tolist() for images in seen] == [[100, 200, 200, 100], [140] * 4]
    # lungs alone: 100, 200 against 200, 100: of four pairs one is right, two are even; without lungs: all are right
    assert found == {"lungs alone": 0.5, "without lungs": 1.0}
    assert interventions.auc_of_parts(watched, data, np.array([0, 1, 4])) == {}
    assert interventions.auc_of_parts(watched, dataset(lungs=None), np.arange(4)) == {}


def test_all_but_the_lungs_of_either_image_is_swapped():
    lungs = np.zeros((4, 8, 8), bool)
    lungs[0, :2] = lungs[1, 6:] = True
    seen = []

    def watched(images):
        seen.append(images)
        return images.mean(axis=(1, 2))

    pairs = pd.DataFrame({"recipient": [0], "donor": [1], "cross": [False]})
    data = dataset([50] * 4, [50, 200, 0, 0], lungs=lungs)
    data.pixels[1] = 200
    interventions.swap_effects(watched, data, np.arange(4), pairs, "outside the lungs", 0.125)
    (composite,) = next(images for images in seen if len(images) == 1)
    assert (composite[:2] == 50).all() and (composite[6:] == 50).all() and (composite[2:6] == 200).all()


def test_other_ways_to_swap_what_lies_outside_the_lungs():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 40, 40)).astype(np.uint8)
    lungs = np.zeros((2, 40, 40), bool)
    lungs[:, 14:26, 14:26] = True
    data = replace(dataset(), pixels=pixels, lungs=lungs, view=View(size=40))
    recipient, donor = np.array([0]), np.array([1])
    made = {
        surgery: interventions.composites(data, recipient, donor, f"outside the lungs, {surgery}", 0.2)[0]
        for surgery in interventions.SURGERIES
    }
    lung = lungs[0]
    for one in made.values():
        np.testing.assert_array_equal(one[lung], pixels[0][lung])
    hard = made["hard seam"]
    np.testing.assert_array_equal(hard[~lung], pixels[1][~lung])
    # dilated by .12 of 40 px, 4.8 px, and then the seam of .05, 2 px
    np.testing.assert_array_equal(made["lungs dilated"][20, 10:14], pixels[0][20, 10:14])
    np.testing.assert_array_equal(made["lungs dilated"][20, :7], pixels[1][20, :7])
    far = geometry.soft_outside(geometry.distance_from(lungs[:1]), 0.05)[0]
    flat = made["flat donor"][far == 1]
    assert np.ptp(flat) == 0 and flat[0] == pytest.approx((pixels[1] * far).sum() / far.sum(), abs=0.51)
    smooth = made["blurred donor"][far == 1]
    assert 0 < smooth.std() < 0.2 * hard[far == 1].std()


def test_pairs_without_lung_masks_are_left_out_and_counted():
    lungs = np.broadcast_to(CENTRE, (5, 8, 8)).copy()
    lungs[1] = False
    labels = np.array([0, 0, 0, 1, 1])
    data = dataset([10, 250, 20, 40, 80], [0] * 5, labels, lungs=lungs)
    pairs = swapped(of_border, data, "outside the lungs", count=4)
    assert len(swapped(of_border, data, "lung box", count=4)) == 3 * 2 + 2 * 3 + 3 * 2 + 2 * 1
    assert sorted(zip(pairs["recipient"], pairs["donor"], strict=True)) == [
        (i, j) for i in (0, 2, 3, 4) for j in (0, 2, 3, 4) if i != j
    ]
    assert interventions.pair_counts(pairs, labels).to_dict("index") == {
        "NORMAL": {
            "images": 3, "pairs cross": 4, "pairs same": 2,
            "images without cross": 1, "images without same": 1, "images without tau": 1,
        },
        "PNEUMONIA": {
            "images": 2, "pairs cross": 4, "pairs same": 2,
            "images without cross": 0, "images without same": 0, "images without tau": 0,
        },
    }  # fmt: skip
    found = interventions.reliance(pairs, labels, of_border(data.pixels), data.table["patient"])
    # As in the four images above: the odd one without a mask counts neither in τ nor in the class difference.
    assert found["R"].value == pytest.approx(1) and found["R"].n == 4
    assert found["tau NORMAL"].value == pytest.approx(4.5) and found["tau NORMAL"].n == 2


def test_a_image_without_one_of_the_arms_does_not_bend_tau():
    # Images 0 and 1 gain 2 − 1; image 2, with a cross donor alone, would add 1000.
    pairs = by_hand([0, 0, 1, 1, 2], [3, 1, 4, 0, 3], [True, False] * 2 + [True], [2, 1, 2, 1, 1000])
    found = interventions.reliance(pairs, np.array([0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1]), np.arange(5))
    assert found["tau NORMAL"].value == 1 and found["tau NORMAL"].n == 2
    assert found["flips cross NORMAL"].n == 3 and found["flips same NORMAL"].n == 2
    assert math.isnan(found["tau PNEUMONIA"].value) and found["tau PNEUMONIA"].n == 0


def test_every_image_counts_once_however_many_donors_it_has():
    # Image 0: mean of 1 and 3, image 1: 8; not the mean of all three.
    pairs = by_hand([0, 0, 0, 1, 1], [2, 3, 1, 2, 0], [True, True, False, True, False], [1, 3, 0, 8, 0])
    found = interventions.reliance(pairs, LABELS, Z, PEOPLE)
    assert found["tau NORMAL"].value == pytest.approx((2 + 8) / 2)
    assert found["flips cross NORMAL"].value == 1 and found["flips same NORMAL"].value == 0


def test_the_recipients_own_levels_do_not_widen_the_interval():
    labels, patients = np.array([0, 1] * 15), np.arange(30)
    pairs = interventions.donor_pairs(labels, patients, 3, seed=0)
    z = np.random.default_rng(0).normal(0, 100, 30)[pairs["recipient"]]
    composite = np.where(pairs["cross"], 1, 0)  # whatever the image was, the donor's class decides: τ = 1 or −1
    found = interventions.reliance(pairs.assign(z=z, composite=composite), labels, labels, patients)
    # Donors have no spread of their own, so neither has τ (in float32, at levels of 100).
    for name, tau in (("tau NORMAL", 1), ("tau PNEUMONIA", -1)):
        assert (found[name].value, found[name].low, found[name].high) == pytest.approx((tau,) * 3, abs=1e-3)


@pytest.mark.parametrize(
    ("labels", "patients"), [([1, 1, 1, 1], list("abcd")), ([0, 0, 1, 1], list("aaaa")), ([0, 0, 0, 0], list("aabb"))]
)
def test_one_class_or_one_patient_gives_nothing_and_says_so(labels, patients):
    data = dataset(labels=labels, patients=patients)
    found = relied(of_border, data, "border")
    for name in FIGURES[:3]:
        assert np.isnan([found[name].value, found[name].low, found[name].high, found[name].p]).all()
        assert found[name].n == 0
    counted = interventions.pair_counts(swapped(of_border, data, "border"), np.array(labels))
    assert counted["images without tau"].sum() == 4 and counted["images"].sum() == 4
    assert counted["pairs cross"].sum() == 0


def test_a_class_of_one_patient_has_flips_but_no_tau_and_leaves_r_undefined():
    found = relied(of_border, dataset(patients=list("aabc")), "border")
    assert math.isnan(found["tau NORMAL"].value) and math.isnan(found["R"].value)
    assert found["tau PNEUMONIA"].value == pytest.approx(4.5)
    crossed = found["flips cross NORMAL"]
    assert crossed.value == 0.5 and crossed.n == 2 and math.isnan(crossed.low)  # of one patient: no interval
    assert math.isnan(found["flips same NORMAL"].value)


@pytest.mark.parametrize("logits", [-Z, np.zeros(4)])
def test_r_is_undefined_without_a_class_difference_to_share_out(logits):
    pairs = swapped(of_border, dataset(), "border")
    found = interventions.reliance(pairs, LABELS, logits, PEOPLE)
    # Some replicates of −Z might have a difference; an undefined value has no interval all the same.
    assert np.isnan([found["R"].value, found["R"].low, found["R"].high, found["R"].p]).all()
    assert found["tau NORMAL"].value == pytest.approx(4.5)


def test_one_donor_an_arm_is_enough_for_an_interval():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    data = dataset(100 + 40 * labels + rng.integers(-20, 20, 40), rng.integers(90, 110, 40), labels)
    found = relied(of_border, data, "border", count=1)
    # With everyone giving once, the mean over recipients is the mean over donors.
    assert found["R"].value == pytest.approx(1, abs=1e-5)
    assert 0 < found["tau NORMAL"].low < found["tau NORMAL"].value < found["tau NORMAL"].high
    # A replicate in which nobody of a class keeps his donor is left out.
    assert 2 / 2001 <= found["R"].p < 2 / 1950


def test_the_interval_covers_the_mean_over_donors_and_recipients_alone_do_not():
    rng = np.random.default_rng(0)
    labels, people = np.repeat([0, 1], 20), np.arange(40)
    covered, too_narrow, simulations = 0, 0, 80
    for seed in range(simulations):
        effect = rng.normal(size=40) + labels  # of the donor; τ of NORMAL images is 1 in the long run
        pairs = interventions.donor_pairs(labels, people, 4, seed)
        pairs = pairs.assign(z=0.0, composite=effect[pairs["donor"]])
        tau = interventions.reliance(pairs, labels, labels, people, seed)["tau NORMAL"]
        arms = pairs[pairs["recipient"] < 20].groupby(["recipient", "cross"])["composite"].mean().unstack()
        alone = cluster_mean(arms[True] - arms[False], people[:20], n=300, seed=seed)
        assert tau.value == pytest.approx(alone.value, abs=1e-5)
        covered += tau.low <= 1 <= tau.high
        too_narrow += alone.low <= 1 <= alone.high
    assert covered / simulations >= 0.93
    assert too_narrow / simulations <= 0.85


def test_the_same_seed_gives_the_same_table_and_figures():
    rng = np.random.default_rng(3)
    data = dataset(rng.integers(0, 255, 12), rng.integers(0, 255, 12), np.array([0, 1] * 6))
    first, again, other = (swapped(of_both, data, "border", seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)
    labels, patients = data.table["label"], data.table["patient"]
    results = [interventions.reliance(first, labels, labels, patients, seed)["tau NORMAL"] for seed in (1, 1, 2)]
    bounds = [(one.value, one.low, one.high, one.p) for one in results]
    assert bounds[0] == bounds[1] != bounds[2]


def test_batches_and_rows_leave_the_table_as_it_is(monkeypatch):
    data = dataset()
    whole = swapped(of_both, data, "outside the lungs")
    monkeypatch.setattr(interventions, "CHUNK", 3)
    pd.testing.assert_frame_equal(swapped(of_both, data, "outside the lungs"), whole)
    pairs = pd.DataFrame({"recipient": [1], "donor": [0], "cross": [True]})
    (line,) = interventions.swap_effects(of_border, data, np.array([0, 3]), pairs, "border", 0.25).to_dict("records")
    assert line == {
        "recipient": 1, "donor": 0, "cross": True, "recipient_label": 1, "recipient_patient": "p3",
        "donor_label": 0, "donor_patient": "p0", "z": 3, "composite": -4,
    }  # fmt: skip


@pytest.mark.parametrize(("region", "width"), [("border", 0.05), ("inner border", 0.07)])
def test_a_border_without_a_whole_pixel_is_refused_not_a_silent_zero(region, width):
    with pytest.raises(InputError, match=f"border is {width}: the {region} of an image of 8 px has no whole pixel"):
        interventions.region_mask(region, dataset(), width)


def test_a_region_that_these_images_do_not_have_is_refused():
    with pytest.raises(InputError, match="no region 'inner circle'; choose one of border, border outside"):
        interventions.region_mask("inner circle", dataset(), 0.1)
    for region in ("lung box", "outside the lungs"):
        with pytest.raises(InputError, match=f"'{region}' needs lung masks"):
            interventions.region_mask(region, dataset(lungs=None), 0.1)
    for name in interventions.REGIONS:
        mask, spared = interventions.region_mask(name, dataset(), 0.2)
        assert mask.shape == (8, 8) and mask.max() == 1
        assert spared == (name in ("border outside the lungs", "outside the lungs", "random regions"))


def test_a_keras_network_is_asked_like_the_function_it_computes():
    from cnn_xray import backend, training

    keras = backend.start()
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    weights = np.where(CENTRE, 0, 0.1 / (~CENTRE).sum()).reshape(64, 1)
    model.layers[-1].set_weights([weights, np.array([-5.0])])
    pairs = swapped(lambda images: training.predict(model, images), dataset(), "border")
    found = interventions.reliance(pairs, LABELS, Z, PEOPLE)
    assert found["R"].value == pytest.approx(1, abs=1e-5)
    assert found["tau NORMAL"].value == pytest.approx(4.5, abs=1e-4)


def test_the_border_outside_the_lungs_leaves_lungs_in_the_border_alone():
    lungs = np.zeros((2, 8, 8), bool)
    lungs[0, :, :2] = True  # the recipient's lung fills the left edge, the donor's two rows at the bottom
    lungs[1, 6:] = True
    data = dataset([10, 200], [10, 200], labels=np.array([0, 1]), lungs=lungs)
    data.pixels[0], data.pixels[1] = 10, 200
    (one,) = interventions.composites(data, np.array([0]), np.array([1]), "border outside the lungs", 0.125)
    assert (one[:, :2] == 10).all() and (one[6:] == 10).all()  # lungs of either stay
    assert (one[0, 3:] == 200).all()  # the rest of the border is the donor's
    assert (one[3:5, 3:5] == 10).all()


def test_random_regions_have_the_area_of_the_border_outside_the_lungs_of_that_pair_and_no_place_of_their_own():
    rng = np.random.default_rng(0)
    n, side, width = 300, 32, 0.125
    lungs = np.zeros((n, side, side), bool)
    lungs[:, 6:26, 0:14] = rng.random(n)[:, None, None] < 0.5  # half of the images have one that reaches the edge
    lungs[:, 6:26, 18:28] = True
    data = replace(dataset(np.zeros(n), np.zeros(n), np.zeros(n, int), lungs=None), view=View(size=side), lungs=lungs)
    data = replace(data, pixels=np.zeros((n, side, side), np.uint8))
    data.pixels[n // 2 :] = 200
    takers, givers = np.arange(n // 2), np.arange(n // 2, n)
    swaps = {
        region: interventions.composites(data, takers, givers, region, width) / 200
        for region in ("border outside the lungs", "random regions")
    }
    areas = [one.mean(axis=(1, 2)) for one in swaps.values()]
    np.testing.assert_allclose(*areas, atol=2e-3)  # grey values are whole
    assert areas[0].std() > 0.02
    often = swaps["random regions"].mean(axis=0)
    edge = soft_border(side, width) == 1
    assert abs(often[edge].mean() - often[~edge].mean()) < 0.03 < areas[0].mean()
    first, again = (
        interventions.composites(data, np.array([3]), np.array([giver]), "random regions", width)
        for giver in (200, 201)
    )
    assert ((first > 0) == (again > 0)).mean() > 0.97  # one place for all donors of an image


def test_r_of_random_regions_is_the_share_of_the_area_for_a_network_of_the_mean_grey():
    levels = np.random.default_rng(0).integers(0, 60, 60) + np.repeat([40, 120], 30)
    data = dataset(levels, levels, np.repeat([0, 1], 30), lungs=None)

    def of_mean(images):
        return images.mean(axis=(1, 2))

    border, anywhere = (
        relied(of_mean, data, region, width=0.125, count=3)["R"] for region in ("border", "random regions")
    )
    assert border.value == pytest.approx(anywhere.value, abs=0.02)
    assert border.value == pytest.approx(28 / 64, abs=0.02)
    reader = relied(of_border, data, "random regions", count=3)["R"], relied(of_border, data, "border", count=3)["R"]
    assert reader[0].value == pytest.approx(0.75, abs=0.05) and reader[1].value == pytest.approx(1)  # 48 of 64 pixels


def test_the_conflict_made_by_swapping_worked_by_hand():
    borders, none = (
        interventions.swap_conflict(swapped(model, dataset(), "border")) for model in (of_border, of_centre)
    )
    # Same class: NORMAL −3, −4, PNEUMONIA 3, −1: all four pairs in order. Other class: NORMAL −1, 3 (each twice),
    # PNEUMONIA −4, −3: none.
    assert borders.value == 1 and borders.n == 4
    # With centres 70, 30 and 50, 90 (logits 2, −2, 0, 4), whatever the border, 3 of 4 pairs are in order.
    assert none.value == 0
    both = swapped(of_both, dataset(), "border")
    same, cross = both[~both["cross"]], both[both["cross"]]
    assert interventions.swap_conflict(both).value == pytest.approx(
        roc_auc_score(same["recipient_label"], same["composite"])
        - roc_auc_score(cross["recipient_label"], cross["composite"])
    )


def test_the_interval_of_the_conflict_is_wider_than_that_of_recipients_alone():
    labels, people = np.repeat([0, 1], 40), np.arange(80)
    effect = np.random.default_rng(0).normal(size=80) + labels  # of the donor's region
    pairs = interventions.donor_pairs(labels, people, 4, seed=0)
    pairs = pairs.assign(recipient_label=labels[pairs["recipient"]], recipient_patient=pairs["recipient"])
    pairs = pairs.assign(donor_patient=pairs["donor"], composite=effect[pairs["donor"]])
    found = interventions.swap_conflict(pairs)
    sets = pairs.assign(label=pairs["recipient_label"], logit=pairs["composite"], patient=pairs["recipient"])
    alone = auc_difference(sets[~sets["cross"]], sets[sets["cross"]])
    assert found.value == pytest.approx(alone.value) and found.n == 80
    assert found.high - found.low > 1.5 * (alone.high - alone.low)


def test_donors_can_be_kept_to_those_alike():
    size = np.array([1, 2, 9, 1, 9, 9, np.nan])  # the last is like none
    pairs = interventions.donor_pairs(np.array([0, 0, 0, 1, 1, 1, 1]), np.arange(7), 3, 0, size, within=1)
    assert set(zip(pairs["recipient"], pairs["donor"], strict=True)) == {
        (0, 1), (1, 0), (0, 3), (3, 0), (1, 3), (3, 1), (2, 4), (4, 2), (2, 5), (5, 2), (4, 5), (5, 4),
    }  # fmt: skip


def test_the_regions_that_images_have_depend_on_masks_and_room():
    of_training = partial(interventions.regions_of, split="train")
    assert of_training(dataset(), 0.2) == list(interventions.REGIONS)
    assert of_training(dataset(lungs=None), 0.2) == ["border", "inner border", "random regions"]
    assert of_training(dataset(), 0.01) == ["outside the lungs", "lung box"]
    no_masks_of_test = ["border", "inner border", "lung box"]
    assert sorted(interventions.regions_of(dataset(), 0.2)) == no_masks_of_test


def test_nothing_is_asked_of_a_network_where_nobody_can_give():
    asked = []
    found = swapped(
        lambda images: asked.append(len(images)) or of_both(images), dataset(patients=list("aaaa")), "border"
    )
    assert found.empty and asked == [4]


def test_a_flat_donor_of_an_image_that_is_all_lung_changes_nothing():
    data = dataset(lungs=np.ones((8, 8), bool))
    made = interventions.composites(data, np.array([0]), np.array([2]), "outside the lungs, flat donor", 0.25)
    np.testing.assert_array_equal(made[0], data.pixels[0])


SIDE, WIDTH = 32, 0.0625  # a border of two pixels, and a seam of half a pixel that reaches no pixel's centre
EDGE = np.ones((SIDE, SIDE), bool)
EDGE[2:-2, 2:-2] = False
MIDDLE = np.zeros((SIDE, SIDE), bool)
MIDDLE[14:18, 14:18] = True


def of_edge(images):
    return images[:, EDGE].mean(axis=1) / 10 - 10


def of_middle(images):
    return images[:, MIDDLE].mean(axis=1) / 10 - 10


def greys(pixels) -> np.ndarray:
    return pixels.astype(np.uint8)


def two_tone(borders, rest) -> np.ndarray:
    return greys(np.where(EDGE, np.reshape(borders, (-1, 1, 1)), np.reshape(rest, (-1, 1, 1))))


def random_greys(n=6, seed=0) -> np.ndarray:
    return greys(np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE)))


def occlude(score, images, width=WIDTH, seed=0) -> pd.DataFrame:
    return interventions.occlusion_effects(score, images, width, seed)


def at(found, fill, place, column="drop"):
    return found[(found["fill"] == fill) & (found["place"] == place)].sort_values("image")[column].to_numpy()


def test_one_row_an_image_fill_and_place():
    found = interventions.occlusion_effects(of_edge, random_greys(2), WIDTH, 0)
    assert list(found.columns) == ["image", "fill", "place", "drop", "flip"]
    assert len(found) == 2 * 3 * 2 and not found.duplicated(["image", "fill", "place"]).any()
    assert set(found["fill"]) == set(interventions.FILLS) and set(found["place"]) == set(interventions.PLACES)


def test_the_mean_fill_of_a_border_worked_by_hand():
    # 240 of 1024 pixels are border. Image 0: z = 10; mean grey (200 · 240 + 40 · 784) / 1024 = 77.5, painted as 78.
    # Image 1: z = −6; mean grey (40 · 240 + 180 · 784) / 1024 = 147.2: 10.7 logits for NORMAL gone. Image 2: one grey.
    found = occlude(of_edge, two_tone([200, 40, 100], [40, 180, 100]))
    np.testing.assert_allclose(at(found, "mean", "border"), [12.2, 10.7, 0], atol=1e-5)
    assert at(found, "mean", "border", "flip").tolist() == [1, 1, 0]


def test_a_network_of_the_centre_loses_nothing_with_the_border():
    pixels = np.where(MIDDLE, np.array([200, 20]).reshape(-1, 1, 1), 100)
    found = occlude(of_middle, greys(pixels))
    for fill in interventions.FILLS:
        assert at(found, fill, "border").tolist() == [0, 0]
    # z = 10 and −8; painted whole with 100 + 100/64 = 102 and 100 − 80/64 = 99 it would lose 9.8 and 7.9.
    found = occlude(of_middle, greys(pixels), width=0.25)
    lost = at(found, "mean", "random regions")
    assert (lost > [1, 0.8]).all() and (lost < [9.8, 7.9]).all()
    assert at(found, "mean", "random regions", "flip").tolist() == [0, 0]


def test_more_of_the_same_evidence_is_a_negative_drop():
    # z = −2, decided NORMAL; the mean grey, 59, is darker still: z = −4.1.
    found = occlude(of_edge, two_tone([80], [53]))
    assert at(found, "mean", "border") == pytest.approx([-2.1], abs=1e-5)
    assert at(found, "mean", "border", "flip") == [0]


def test_positions_are_averaged():
    images = random_greys()
    area = soft_border(SIDE, WIDTH).mean()
    masks = geometry.random_regions(SIDE, np.full(4, area), 3 * 4 + np.arange(4))
    assert len({mask.tobytes() for mask in masks}) == 4
    row, column = np.argwhere((np.sum(masks, axis=0) > 1) & (np.sum(masks, axis=0) < 3))[0]  # in some, not in all
    found = occlude(lambda images: images[:, row, column] - 128.5, images, seed=3)
    grey, mean = images[:, row, column], images.mean(axis=(1, 2))
    z = grey - 128.5
    after = [np.round(grey * (1 - mask[row, column]) + mean * mask[row, column]) - 128.5 for mask in masks]
    lost = [np.where(z > 0, 1, -1) * (z - one) for one in after]
    np.testing.assert_allclose(at(found, "mean", "random regions"), np.mean(lost, axis=0), atol=1e-3)
    flips = np.mean([(one > 0) != (z > 0) for one in after], axis=0)
    np.testing.assert_array_equal(at(found, "mean", "random regions", "flip"), flips)
    assert 0 < flips.max() < 1


def test_a_constant_image_is_changed_by_no_fill():
    found = occlude(lambda images: images[:, 1::3, 2::5].sum(axis=(1, 2)) - 5000, greys(np.full((2, 32, 32), 137)))
    assert (found["drop"] == 0).all() and (found["flip"] == 0).all()  # its noise has no spread either


def test_the_noise_has_mean_and_spread_of_the_image_and_is_its_own():
    pixels = np.random.default_rng(0).normal(120, 20, (2, 64, 64)).clip(0, 255).astype(np.uint8)
    seen = []

    def watched(images):
        seen.append(images)
        return images.mean(axis=(1, 2)) - 100

    occlude(watched, greys(pixels), width=0.1)
    first, second = seen[3][:2]  # after the images themselves: mean, blur, noise; the border comes first
    border = soft_border(64, 0.1) == 1
    for image, noisy in zip(pixels, (first, second), strict=True):
        assert (
            noisy[border].mean() == pytest.approx(image.mean(), abs=2) and (noisy[border] != image[border]).mean() > 0.9
        )
        assert noisy[border].std() == pytest.approx(image.std(), rel=0.1)
        assert (noisy[soft_border(64, 0.1) == 0] == image[soft_border(64, 0.1) == 0]).all()
    assert abs(np.corrcoef(first[border], second[border])[0, 1]) < 0.1


def test_the_blur_takes_the_detail_and_leaves_the_level():
    board = np.where((np.indices((32, 32)).sum(axis=0) % 2).astype(bool), 255, 0)[None]
    seen = []
    occlude(lambda images: seen.append(images) or images.mean(axis=(1, 2)), greys(board))
    blurred = seen[2][0][EDGE]
    assert blurred.mean() == pytest.approx(127.5, abs=2) and blurred.std() < 5 < board[0][EDGE].std()


def test_the_same_seed_gives_the_same_result_in_batches_of_any_size(monkeypatch):
    images = random_greys(7)

    def score(pixels):
        return pixels[:, 3:9, 5:14].mean(axis=(1, 2)) - 127

    first, other = (occlude(score, images, seed=seed) for seed in (1, 2))
    monkeypatch.setattr(interventions, "CHUNK", 15)
    pd.testing.assert_frame_equal(occlude(score, images, seed=1), first)
    assert not first.equals(other)


def test_the_summary_worked_by_hand():
    drops = ((0, (3, 1), (1, 0.25)), (1, (5, 0), (2, 0)), (2, (-2, 1), (4, 1)))
    rows = [
        (image, fill, place, drop + shift, flip)
        for fill, shift in (("mean", 0), ("blur", 10), ("noise", -10))
        for image, border, interior in drops
        for place, (drop, flip) in (("border", border), ("random regions", interior))
    ]
    occluded = pd.DataFrame(rows, columns=["image", "fill", "place", "drop", "flip"]).sample(frac=1, random_state=0)
    both = interventions.occlusion_summary(occluded, [1, 1, 0], np.array(["a", "b", "d"]), seed=4)
    assert list(both.index) == [(fill, name) for fill in ("mean", "blur", "noise") for name in ("NORMAL", "PNEUMONIA")]
    table = both.xs("PNEUMONIA", level="class")
    assert table["border"].tolist() == [4, 14, -6] and table["random regions"].tolist() == [1.5, 11.5, -8.5]
    assert (table["difference"] == 2.5).all() and (table["n"] == 2).all()  # 3 − 1 and 5 − 2
    expected = paired_difference([3, 5], [1, 2], ["a", "b"], seed=4)
    assert (table["low"] == expected.low).all() and (table["high"] == expected.high).all()
    assert table["flips border"].tolist() == [0.5] * 3
    assert table["flips random regions"].tolist() == [0.125] * 3
    other = both.xs("NORMAL", level="class")  # the one image of the other class moves nothing above
    assert other["difference"].tolist() == [-6] * 3 and other[["low", "high"]].isna().all(axis=None)
    one = interventions.occlusion_summary(occluded, [1, 1, 0], np.array(["a"] * 3)).xs("PNEUMONIA", level="class")
    assert one[["low", "high"]].isna().all(axis=None) and (one["difference"] == 2.5).all()
