"""Transplants worked by hand: fake networks that read the ring, the centre, the seam or everything."""

import math

import numpy as np
import pandas as pd
import pytest

from cnn_xray import InputError, interventions
from cnn_xray.data import Dataset
from cnn_xray.geometry import FRAME, Placement, View
from cnn_xray.statistics import cluster_mean

# Rings of two NORMAL and two PNEUMONIA films, as grey / 10 − 5: logits −4, −3, −1, 3.
LABELS = np.array([0, 0, 1, 1])
RINGS, CENTRES = np.array([10, 20, 40, 80]), np.array([70, 30, 50, 90])
Z = np.array([-4.0, -3.0, -1.0, 3.0])
PEOPLE = np.array(list("abcd"))
CENTRE = np.zeros((8, 8), bool)
CENTRE[2:6, 2:6] = True  # what a ring of 0.25 leaves; so narrow a seam reaches no pixel's centre
FIGURES = [
    "R", "tau NORMAL", "tau PNEUMONIA",
    "flips cross NORMAL", "flips cross PNEUMONIA", "flips same NORMAL", "flips same PNEUMONIA",
]  # fmt: skip


def of_ring(images):
    return images[:, ~CENTRE].mean(axis=1) / 10 - 5


def of_centre(images):
    return images[:, CENTRE].mean(axis=1) / 10 - 5


def of_both(images):
    return of_ring(images) + of_centre(images)


@pytest.fixture(autouse=True)
def networks_are_functions_of_the_pixels(monkeypatch):
    monkeypatch.setattr(interventions, "predict", lambda model, images: model(images).astype(np.float32))


def films(rings=RINGS, centres=CENTRES, labels=LABELS, patients=None, lungs=CENTRE) -> Dataset:
    pixels = np.where(CENTRE, np.reshape(centres, (-1, 1, 1)), np.reshape(rings, (-1, 1, 1))).astype(np.uint8)
    n = len(pixels)
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(n)], "label": labels, "split": "train"})
    table["patient"] = [f"p{i}" for i in range(n)] if patients is None else patients
    masks = None if lungs is None else np.broadcast_to(lungs, pixels.shape).copy()
    return Dataset("tiny", None, table, View(size=8), pixels, [Placement(FRAME, FRAME)] * n, masks, None, "f", ())


def exchanged(model, data, region, width=0.25, count=2, seed=0):
    labels, patients = data.table["label"].to_numpy(), data.table["patient"].to_numpy()
    rows = np.arange(len(labels))
    pairs = interventions.donor_pairs(labels, patients, count, seed)
    return interventions.swap_effects(model, data, rows, pairs, region, width)


def relied(model, data, region, width=0.25, count=2):
    labels, patients = data.table["label"].to_numpy(), data.table["patient"].to_numpy()
    found = exchanged(model, data, region, width, count)
    return interventions.reliance(found, labels, model(data.pixels), patients)


def by_hand(recipient, donor, cross, change, z=0.0):
    """A table of pairs as `exchange` gives it, without films."""
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
def test_every_film_gives_about_equally_often(count):
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
    # The NORMAL films are one patient's, so neither has a donor of its own class.
    both = {(0, True): [2, 3], (1, True): [2, 3], (2, True): [0, 1], (3, True): [0, 1]}
    assert given == both | {(2, False): [3], (3, False): [2]}


def test_the_seed_decides_who_gives():
    labels, patients = np.array([0, 1] * 10), np.arange(20)
    pairs = interventions.donor_pairs(labels, patients, 3, seed=5)
    assert pairs.equals(interventions.donor_pairs(labels, patients, 3, seed=5))
    assert not pairs.equals(interventions.donor_pairs(labels, patients, 3, seed=6))
    shuffled = pd.Series(labels, index=np.arange(20)[::-1])  # a column's index is no row number
    assert pairs.equals(interventions.donor_pairs(shuffled, patients, 3, seed=5))


def test_tau_and_flips_of_four_films_worked_by_hand():
    found = relied(of_ring, films(), "border")
    # Film 10 takes the rings 40 and 80 (+3, +7) and 20 (+1): 5 − 1 = 4; film 20: (2 + 6) / 2 + 1 = 5.
    # Film 40: −((−3 − 2) / 2 − 4) = 6.5; film 80: −((−7 − 6) / 2 + 4) = 2.5.
    assert found["tau NORMAL"].value == pytest.approx((4 + 5) / 2)
    assert found["tau PNEUMONIA"].value == pytest.approx((6.5 + 2.5) / 2)
    assert found["R"].value == pytest.approx(4.5 / ((-1 + 3) / 2 - (-4 - 3) / 2))
    # NORMAL with ring 80 is decided PNEUMONIA, with 40 not. Film 40 is decided NORMAL and changes with ring 80 alone.
    assert found["flips cross NORMAL"].value == 0.5 and found["flips same NORMAL"].value == 0
    assert found["flips cross PNEUMONIA"].value == 0.5 and found["flips same PNEUMONIA"].value == 1
    assert sorted(found) == sorted(FIGURES)
    assert [found[name].n for name in FIGURES] == [4, 2, 2, 2, 2, 2, 2]
    assert all(math.isnan(found[name].p) for name in FIGURES)  # of four films too many draws lack a class


def test_tau_has_the_same_sign_in_both_classes():
    found = relied(lambda images: -of_ring(images), films(), "border")
    assert found["tau NORMAL"].value == found["tau PNEUMONIA"].value == pytest.approx(-4.5)


@pytest.mark.parametrize(
    ("model", "region", "expected"),
    [
        (of_ring, "border", 1),
        (of_ring, "lung box", 0),
        (of_ring, "outside the lungs", 1),
        (of_centre, "border", 0),
        (of_centre, "lung box", 1),
        (of_centre, "outside the lungs", 0),
        # Of the class difference 45/10 + 20/10 the ring has 45/10.
        (of_both, "border", 45 / 65),
        (of_both, "lung box", 20 / 65),
    ],
)
def test_r_is_the_share_that_moves_with_the_region(model, region, expected):
    found = relied(model, films(), region)
    assert found["R"].value == pytest.approx(expected, abs=1e-6)
    assert {found[name].value for name in FIGURES if name.startswith("flips")} != {0} or expected == 0


def test_the_whole_film_carries_all_of_the_difference():
    found = relied(of_both, films(), "border", width=0.5)
    assert found["R"].value == pytest.approx(1)
    assert found["tau NORMAL"].value == pytest.approx(6.5)


def test_what_the_seam_does_cancels_between_the_arms():
    def of_seam(images):  # 7 logits for a visible edge, 1 for a grey centre
        return 7.0 * (images[:, 1, 4] != images[:, 2, 4]) + (images[:, 3, 3] >= 100)

    levels = np.r_[10:34:2, 100:124:2]  # every film is of one grey: any ring but its own draws an edge
    data = films(levels, levels, np.repeat([0, 1], 12))
    pairs = exchanged(of_seam, data, "border")
    assert (pairs["composite"] - pairs["z"] == 7).all()
    found = interventions.reliance(pairs, data.table["label"], of_seam(data.pixels), data.table["patient"])
    for name in ("R", "tau NORMAL", "tau PNEUMONIA"):
        assert (found[name].value, found[name].low, found[name].high, found[name].p) == (0, 0, 0, 1)


def test_all_but_the_lungs_of_either_film_is_exchanged():
    lungs = np.zeros((4, 8, 8), bool)
    lungs[0, :2] = lungs[1, 6:] = True
    seen = []

    def watched(images):
        seen.append(images)
        return images.mean(axis=(1, 2))

    pairs = pd.DataFrame({"recipient": [0], "donor": [1], "cross": [False]})
    data = films([50] * 4, [50, 200, 0, 0], lungs=lungs)
    data.pixels[1] = 200
    interventions.swap_effects(watched, data, np.arange(4), pairs, "outside the lungs", 0.125)
    (composite,) = next(images for images in seen if len(images) == 1)
    assert (composite[:2] == 50).all() and (composite[6:] == 50).all() and (composite[2:6] == 200).all()


def test_pairs_without_lung_masks_are_left_out_and_counted():
    lungs = np.broadcast_to(CENTRE, (5, 8, 8)).copy()
    lungs[1] = False
    labels = np.array([0, 0, 0, 1, 1])
    data = films([10, 250, 20, 40, 80], [0] * 5, labels, lungs=lungs)
    pairs = exchanged(of_ring, data, "outside the lungs", count=4)
    assert len(exchanged(of_ring, data, "lung box", count=4)) == 3 * 2 + 2 * 3 + 3 * 2 + 2 * 1
    assert sorted(zip(pairs["recipient"], pairs["donor"], strict=True)) == [
        (i, j) for i in (0, 2, 3, 4) for j in (0, 2, 3, 4) if i != j
    ]
    assert interventions.pair_counts(pairs, labels).to_dict("index") == {
        "NORMAL": {
            "films": 3, "pairs cross": 4, "pairs same": 2,
            "films without cross": 1, "films without same": 1, "films without tau": 1,
        },
        "PNEUMONIA": {
            "films": 2, "pairs cross": 4, "pairs same": 2,
            "films without cross": 0, "films without same": 0, "films without tau": 0,
        },
    }  # fmt: skip
    found = interventions.reliance(pairs, labels, of_ring(data.pixels), data.table["patient"])
    # As in the four films above: the odd one without a mask counts neither in τ nor in the class difference.
    assert found["R"].value == pytest.approx(1) and found["R"].n == 4
    assert found["tau NORMAL"].value == pytest.approx(4.5) and found["tau NORMAL"].n == 2


def test_a_film_without_one_of_the_arms_does_not_bend_tau():
    # Films 0 and 1 gain 2 − 1; film 2, with a cross donor alone, would add 1000.
    pairs = by_hand([0, 0, 1, 1, 2], [3, 1, 4, 0, 3], [True, False] * 2 + [True], [2, 1, 2, 1, 1000])
    found = interventions.reliance(pairs, np.array([0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1]), np.arange(5))
    assert found["tau NORMAL"].value == 1 and found["tau NORMAL"].n == 2
    assert found["flips cross NORMAL"].n == 3 and found["flips same NORMAL"].n == 2
    assert math.isnan(found["tau PNEUMONIA"].value) and found["tau PNEUMONIA"].n == 0


def test_every_film_counts_once_however_many_donors_it_has():
    # Film 0: mean of 1 and 3, film 1: 8; not the mean of all three.
    pairs = by_hand([0, 0, 0, 1, 1], [2, 3, 1, 2, 0], [True, True, False, True, False], [1, 3, 0, 8, 0])
    found = interventions.reliance(pairs, LABELS, Z, PEOPLE)
    assert found["tau NORMAL"].value == pytest.approx((2 + 8) / 2)
    assert found["flips cross NORMAL"].value == 1 and found["flips same NORMAL"].value == 0


def test_the_recipients_own_levels_do_not_widen_the_interval():
    labels, patients = np.array([0, 1] * 15), np.arange(30)
    pairs = interventions.donor_pairs(labels, patients, 3, seed=0)
    z = np.random.default_rng(0).normal(0, 100, 30)[pairs["recipient"]]
    composite = np.where(pairs["cross"], 1, 0)  # whatever the film was, the donor's class decides: τ = 1 or −1
    found = interventions.reliance(pairs.assign(z=z, composite=composite), labels, labels, patients)
    # Donors have no spread of their own, so neither has τ (in float32, at levels of 100).
    for name, tau in (("tau NORMAL", 1), ("tau PNEUMONIA", -1)):
        assert (found[name].value, found[name].low, found[name].high) == pytest.approx((tau,) * 3, abs=1e-3)


@pytest.mark.parametrize(
    ("labels", "patients"), [([1, 1, 1, 1], list("abcd")), ([0, 0, 1, 1], list("aaaa")), ([0, 0, 0, 0], list("aabb"))]
)
def test_one_class_or_one_patient_gives_nothing_and_says_so(labels, patients):
    data = films(labels=labels, patients=patients)
    found = relied(of_ring, data, "border")
    for name in FIGURES[:3]:
        assert np.isnan([found[name].value, found[name].low, found[name].high, found[name].p]).all()
        assert found[name].n == 0
    counted = interventions.pair_counts(exchanged(of_ring, data, "border"), np.array(labels))
    assert counted["films without tau"].sum() == 4 and counted["films"].sum() == 4
    assert counted["pairs cross"].sum() == 0


def test_a_class_of_one_patient_has_flips_but_no_tau_and_leaves_r_undefined():
    found = relied(of_ring, films(patients=list("aabc")), "border")
    assert math.isnan(found["tau NORMAL"].value) and math.isnan(found["R"].value)
    assert found["tau PNEUMONIA"].value == pytest.approx(4.5)
    crossed = found["flips cross NORMAL"]
    assert crossed.value == 0.5 and crossed.n == 2 and math.isnan(crossed.low)  # of one patient: no interval
    assert math.isnan(found["flips same NORMAL"].value)


@pytest.mark.parametrize("logits", [-Z, np.zeros(4)])
def test_r_is_undefined_without_a_class_difference_to_share_out(logits):
    pairs = exchanged(of_ring, films(), "border")
    found = interventions.reliance(pairs, LABELS, logits, PEOPLE)
    # Some replicates of −Z might have a difference; an undefined value has no interval all the same.
    assert np.isnan([found["R"].value, found["R"].low, found["R"].high, found["R"].p]).all()
    assert found["tau NORMAL"].value == pytest.approx(4.5)


def test_one_donor_an_arm_is_enough_for_an_interval():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    data = films(100 + 40 * labels + rng.integers(-20, 20, 40), rng.integers(90, 110, 40), labels)
    found = relied(of_ring, data, "border", count=1)
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
        effect = rng.normal(size=40) + labels  # of the donor; τ of NORMAL films is 1 in the long run
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
    data = films(rng.integers(0, 255, 12), rng.integers(0, 255, 12), np.array([0, 1] * 6))
    first, again, other = (exchanged(of_both, data, "border", seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)
    labels, patients = data.table["label"], data.table["patient"]
    results = [interventions.reliance(first, labels, labels, patients, seed)["tau NORMAL"] for seed in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


def test_batches_and_rows_leave_the_table_as_it_is(monkeypatch):
    data = films()
    whole = exchanged(of_both, data, "outside the lungs")
    monkeypatch.setattr(interventions, "_CHUNK", 3)
    pd.testing.assert_frame_equal(exchanged(of_both, data, "outside the lungs"), whole)
    pairs = pd.DataFrame({"recipient": [1], "donor": [0], "cross": [True]})
    (line,) = interventions.swap_effects(of_ring, data, np.array([0, 3]), pairs, "border", 0.25).to_dict("records")
    assert line == {
        "recipient": 1, "donor": 0, "cross": True, "recipient_label": 1, "recipient_patient": "p3",
        "donor_label": 0, "donor_patient": "p0", "z": 3, "composite": -4,
    }  # fmt: skip


@pytest.mark.parametrize(("region", "width"), [("border", 0.05), ("inner border", 0.07)])
def test_a_ring_without_a_whole_pixel_is_refused_not_a_silent_zero(region, width):
    with pytest.raises(InputError, match=f"ring is {width}: the {region} of a film of 8 px has no whole pixel"):
        interventions.region_mask(region, films(), width)


def test_a_region_that_these_films_do_not_have_is_refused():
    with pytest.raises(InputError, match="no region 'inner circle'; choose one of outer ring, ring outside"):
        interventions.region_mask("inner circle", films(), 0.1)
    for region in ("lung box", "outside the lungs"):
        with pytest.raises(InputError, match=f"'{region}' needs lung masks"):
            interventions.region_mask(region, films(lungs=None), 0.1)
    assert all(
        interventions.region_mask(name, films(), 0.1) is not None for name in interventions.REGIONS if name[:3] != "out"
    )


def test_a_keras_network_is_scored_like_the_function_it_computes(monkeypatch):
    from cnn_xray import backend, training

    keras = backend.start()
    monkeypatch.setattr(interventions, "predict", training.predict)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    weights = np.where(CENTRE, 0, 0.1 / (~CENTRE).sum()).reshape(64, 1)
    model.layers[-1].set_weights([weights, np.array([-5.0])])
    found = interventions.reliance(exchanged(model, films(), "border"), LABELS, Z, PEOPLE)
    assert found["R"].value == pytest.approx(1, abs=1e-5)
    assert found["tau NORMAL"].value == pytest.approx(4.5, abs=1e-4)


def test_the_ring_outside_the_lungs_leaves_lungs_in_the_ring_alone():
    lungs = np.zeros((2, 8, 8), bool)
    lungs[0, :, :2] = True  # the recipient's lung fills the left edge, the donor's two rows at the bottom
    lungs[1, 6:] = True
    data = films([10, 200], [10, 200], labels=np.array([0, 1]), lungs=lungs)
    data.pixels[0], data.pixels[1] = 10, 200
    (one,) = interventions.composites(data, np.array([0]), np.array([1]), "border outside the lungs", 0.125)
    assert (one[:, :2] == 10).all() and (one[6:] == 10).all()  # lungs of either stay
    assert (one[0, 3:] == 200).all()  # the rest of the ring is the donor's
    assert (one[3:5, 3:5] == 10).all()
