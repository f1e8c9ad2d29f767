"""Swaps in training: who gives to whom, what comes from the donor and what stays, and that a network unlearns by it."""

from functools import partial

import numpy as np
import pytest

from cnn_xray import InputError, backend, network, swaps, training
from cnn_xray.parameters import TrainParameters

P = TrainParameters(image_size=32, width=4, epochs=4, batch_size=16, swap="border")
LABELS, PATIENTS = np.arange(40) % 4 // 3, np.arange(40) // 2  # a quarter PNEUMONIA; two images a patient
ORDER = np.random.default_rng(0).integers(40, size=(50, 20, 16))
LUNGS = np.zeros((40, 32, 32), bool)
LUNGS[:, 8:24, 4:28] = True


def planned(order=ORDER, labels=LABELS, patients=PATIENTS, lungs=None, **changes):
    return swaps.planned(order, P.model_copy(update=changes), labels, patients, lungs)


def grey(values):
    return np.broadcast_to(np.array(values, np.float32)[:, None, None, None], (len(values), 32, 32, 1))


def numpy(tensor):
    return np.asarray(backend.start().ops.convert_to_numpy(tensor))[..., 0]


def test_without_swaps_there_is_no_plan():
    assert planned(swap="none") == ({}, None)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_donors_are_other_patients_of_either_class_alike_whatever_the_label(share):
    plan, _ = planned(swap_share=share)
    swapped = plan["reach"] >= 0
    assert swapped.mean() == pytest.approx(share * 19 / 20, abs=0.02)  # now and then the donor is the patient's own
    assert (PATIENTS[ORDER] != PATIENTS[plan["donors"]])[swapped].all()
    for label in (0, 1):
        of_class = LABELS[plan["donors"]][swapped & (LABELS[ORDER] == label)]
        assert of_class.mean() == pytest.approx(0.5, abs=0.03)
    low, high = swaps.BORDERS
    assert low <= plan["reach"][swapped].min() < low + 0.01 and high - 0.01 < plan["reach"].max() <= high
    again, _ = planned(swap_share=share)
    for name in plan:
        np.testing.assert_array_equal(plan[name], again[name])
    assert (planned(swap_share=share, repeat=1)[0]["donors"] != plan["donors"]).any()


def test_a_swapped_border_is_the_donors_and_the_middle_stays():
    reach, seam = np.array([0.125, 0.125, -1], np.float32), np.array([0.0625, 0.001, 0.0625], np.float32)
    found = numpy(swaps.border_swapped(grey([100, 100, 100]), grey([200, 200, 200]), reach, seam))
    # 32 px: pixel k has its centre (k + ½) / 32 from the edge; the border ends at 4 px, the seam of 2 px at 6
    np.testing.assert_allclose(found[0, 16, :8], [200, 200, 200, 200, 175, 125, 100, 100], atol=0.01)
    np.testing.assert_allclose(found[1, 16, :6], [200, 200, 200, 200, 100, 100], atol=0.01)
    for one in found[:2]:
        np.testing.assert_allclose(one, one[::-1, ::-1], atol=1e-4)
        np.testing.assert_allclose(one, one.T, atol=1e-4)
    assert (found[2] == 100).all()


def test_outside_is_swapped_beyond_the_dilated_lungs_of_both():
    lungs = np.zeros((2, 32, 32), bool)
    lungs[0, :, :8], lungs[1, :, 24:] = True, True  # of the recipient on the left, of the donor on the right
    far = swaps._steps_from(lungs)[..., None]
    reach, seam = np.array([0.0625], np.float32), np.array([0.03125], np.float32)  # 2 px, and a seam of 1 px
    found = numpy(swaps.outside_swapped(grey([100]), grey([200]), far[:1], far[1:], reach, seam))
    # the first pixel beyond a lung is 1 px from it: 0 and 1 px stay, 2 px is where the seam begins, 3 px is the donor's
    assert (np.abs(found[0, :, :10] - 100) < 1.5).all() and (np.abs(found[0, :, 22:] - 100) < 1.5).all()
    assert (np.abs(found[0, :, 10:22] - 200) < 2.5).all()


def test_the_donors_level_is_made_that_of_the_image_at_the_seam():
    donor = np.array(grey([200]))
    donor[0, :4] += 40  # its own structure stays
    reach, seam = np.array([0.125], np.float32), np.array([0.0625], np.float32)
    plain, level = (numpy(swaps.border_swapped(grey([100]), donor, reach, seam, levels))[0] for levels in (False, True))
    assert plain[28:].mean() == pytest.approx(200) and level[28:].mean() == pytest.approx(100, abs=0.01)
    assert (level[:4] - level[28:]).mean() == pytest.approx(40, abs=0.01)
    np.testing.assert_allclose(level[8:24, 8:24], 100)


def test_aligned_donors_have_their_lungs_where_the_image_has_them():
    lungs = np.zeros((2, 32, 32), bool)
    lungs[0, 4:12, 8:24], lungs[1, 10:26, 4:28] = True, True
    pixels = np.where(lungs, 200, 50).astype(np.uint8)[..., None]
    moves = swaps._moves(*swaps._boxes(lungs)[:, None])
    np.testing.assert_allclose(moves, [[24 / 16, 16 / 8, 15.5 - 1.5 * 15.5, 17.5 - 2 * 7.5]])
    found = numpy(swaps._moved(pixels[1:], moves))[0]
    assert ((found > 125) == lungs[0]).all()
    rows = np.array([[[0, 1]]])
    plan, change = planned(rows, np.arange(2), np.arange(2), lungs, swap="outside_lungs", swap_aligned=True)
    assert plan["moves"].shape == (1, 1, 2, 4) and change is not None
    with pytest.raises(InputError, match="needs swap = 'outside_lungs'"):
        TrainParameters.from_mapping({"swap": "border", "swap_aligned": True})


def test_donors_of_the_images_own_class_can_be_made_more_frequent():
    plan, _ = planned(swap_share=1.0, swap_agrees=0.75)
    agree = LABELS[ORDER] == LABELS[plan["donors"]]
    for label in (0, 1):
        assert agree[(plan["reach"] >= 0) & (LABELS[ORDER] == label)].mean() == pytest.approx(0.75, abs=0.03)


def test_images_without_a_mask_neither_take_nor_give_what_lies_outside():
    lungs = LUNGS.copy()
    lungs[::3] = False
    plan, _ = planned(swap="outside_lungs", swap_share=1.0, lungs=lungs)
    swapped = plan["reach"] >= 0
    assert not swapped[ORDER % 3 == 0].any() and (plan["donors"] % 3 != 0).all()
    assert swapped[ORDER % 3 != 0].mean() > 0.9


@pytest.mark.parametrize("lungs", [None, LUNGS & (LABELS == 1)[:, None, None]])
def test_the_swap_recipe_swaps_the_border_where_masks_are_missing(lungs):
    recipe = TrainParameters.from_mapping({"recipe": "swap"})
    assert swaps.suited(recipe, LABELS, LUNGS) == recipe and recipe.swap == "outside_lungs"
    assert swaps.suited(recipe, LABELS, lungs) == recipe.model_copy(update={"swap": "border"})
    named = TrainParameters.from_mapping({"swap": "outside_lungs"})
    assert swaps.suited(named, LABELS, lungs) == named  # who names it is told that masks are missing


@pytest.mark.parametrize("lungs", [None, LUNGS & (LABELS == 1)[:, None, None]])
def test_swaps_outside_the_lungs_need_masks_of_both_classes(lungs):
    with pytest.raises(InputError, match="swap is 'outside_lungs', but .* Without masks, swap the border"):
        planned(swap="outside_lungs", lungs=lungs)


def test_with_consistency_each_image_comes_twice_and_the_second_is_swapped():
    p = P.model_copy(update={"consistency": 1.0, "epochs": 2, "batch_size": 15})
    order = training._order(LABELS, p)
    assert order.shape[-1] == 14 and (order[..., :7] == order[..., 7:]).all()
    plan, _ = planned(order, consistency=1.0, patients=np.arange(40))
    assert (plan["reach"][..., :7] < 0).all()
    same = order[..., 7:] == plan["donors"][..., 7:]
    assert ((plan["reach"][..., 7:] >= 0) == ~same).all()


def test_the_loss_of_consistency_worked_by_hand():
    keras = backend.start()
    loss = training._consistent(keras, P.model_copy(update={"consistency": 0.5}))
    labels, logits = np.array([[1.0], [0], [1], [0]], np.float32), np.array([[2.0], [0], [1], [3]], np.float32)
    entropy = [np.log1p(np.exp(-2)), np.log(2), np.log1p(np.exp(-1)), np.log1p(np.exp(3))]
    apart = 0.5 * np.array([1.0, 9, 1, 9])  # (2 − 1)² and (0 − 3)²
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loss(labels, logits)), entropy + apart, rtol=1e-5)


def test_consistency_without_swaps_is_refused():
    with pytest.raises(InputError, match="say what is swapped"):
        TrainParameters.from_mapping({"consistency": 1.0})


@pytest.mark.slow
@pytest.mark.parametrize("swap", ["border", "outside_lungs", "aligned"])
def test_a_network_trained_with_swaps_unlearns_the_border(swap):
    """The class is in the border, plain to see, and in the middle, faintly; the test has them at odds."""
    rng = np.random.default_rng(0)

    def images(labels, border):
        made = rng.normal(110, 10, (len(labels), 32, 32))
        made[:, 13:19, 13:19] += 45 * labels[:, None, None]
        made[:, :2] += 80 * border[:, None, None]
        return np.clip(made, 0, 255).astype(np.uint8)

    labels = np.arange(240) % 2
    train, conflict = (images(labels, labels), labels), images(labels, 1 - labels)
    lungs = np.broadcast_to(np.pad(np.ones((20, 20), bool), 6), (240, 32, 32))
    still = {"rotation": 0.0, "shift": 0.0, "zoom": 0.0, "aspect_jitter": 0.0, "blur": 0.0, "epochs": 40}
    accuracy = {}
    how = {"swap": "outside_lungs", "swap_aligned": True, "swap_levels": True} if swap == "aligned" else {"swap": swap}
    for name, more in {"none": {"swap": "none"}, swap: how}.items():
        p = P.model_copy(update={**still, **more, "swap_share": 1.0, "learning_rate": 5e-3})
        model = network.build(p)
        changes = partial(swaps.planned, p=p, labels=labels, patients=np.arange(240), lungs=lungs)
        training.fit(model, p, train, train, changes)
        accuracy[name] = ((training.predict(model, conflict) > 0) == labels).mean()
    assert accuracy["none"] < 0.1 and accuracy[swap] > 0.7
