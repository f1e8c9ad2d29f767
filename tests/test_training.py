"""Training: the order of the images, their weights, the learning rate, and which weights are kept."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss

from cnn_xray import InputError, backend, network, training
from cnn_xray.parameters import TrainParameters

SMALL = TrainParameters(image_size=32, width=8, epochs=3, batch_size=16, seed=2)
LINEAR = TrainParameters(
    epochs=1,
    batch_size=8,
    learning_rate=0.01,
    weight_decay=0.0,
    schedule="constant",
    balance="weights",
    keep_epoch="best",
)


def bright_or_dark(count, seed):
    """Images whose class is the brightness of the centre: learned in a few steps."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(60, 120, (count, 32, 32))
    images[:, 8:24, 8:24] += 100 * labels[:, None, None]
    return images.astype(np.uint8), labels


def black_or_white(labels, side=8):
    """Black images of label 0, white ones of label 1."""
    y = np.asarray(labels)
    return (255 * y[:, None, None] * np.ones((1, side, side))).astype(np.uint8), y


def linear(kernel=0.0, bias=0.0):
    """logit = kernel × (mean of the image in 0..1 − ½) + bias: two weights, trained in no time."""
    keras = backend.start(0)
    image = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 255, -0.5)(image)
    logit = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D(name="gap")(x))
    model = keras.Model(image, logit)
    model.set_weights([np.full((1, 1), kernel), np.full(1, bias)])
    return model


def weights(model):
    """Kernel and bias of `linear`."""
    return np.array([float(w.ravel()[0]) for w in model.get_weights()])


def fitted(kernel=0.0, train=None, validation=None, **changes):
    """`linear` after training with ``changes``, and its history."""
    model, plain = linear(kernel), black_or_white([0, 1] * 16)
    p = LINEAR.model_copy(update=changes)
    return model, training.fit(model, p, train or plain, validation or plain)


# ---- the network learns


def test_training_learns_keeps_its_best_epoch_and_prints_a_line_an_epoch(capsys):
    train, validation = bright_or_dark(64, 0), bright_or_dark(32, 1)
    model = network.build(SMALL)
    history = training.fit(model, SMALL, train, validation)
    printed = capsys.readouterr().out
    assert printed.count("epoch ") == 3 and "val_auc" in printed and "left" in printed
    assert history["epoch"].tolist() == [1, 2, 3] and history["best"].sum() == 1
    assert history["val_auc"].max() > 0.95
    kept = history.loc[history["best"], "val_loss"].iloc[0]
    logits = training.predict(model, validation[0])
    assert log_loss(validation[1], training.probability(logits)) == pytest.approx(kept, abs=1e-4)


def test_training_is_repeatable_even_where_images_are_erased():
    train, validation = bright_or_dark(32, 0), bright_or_dark(16, 1)
    p = SMALL.model_copy(update={"epochs": 1, "erasing": 0.5, "balance": "sampling"})
    losses = [training.fit(network.build(p), p, train, validation)["loss"].iloc[0] for _ in range(2)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_training_that_diverged_is_told_in_a_sentence():
    sentence = r"^Training diverged in epoch 1; try a learning_rate below 0\.01\.$"
    with pytest.raises(InputError, match=sentence):
        fitted(kernel=np.nan)


# ---- which image comes when


def order(labels, **changes):
    return training._order(
        np.asarray(labels), TrainParameters(**{"epochs": 4, "batch_size": 8, "balance": "weights", **changes})
    )


@pytest.mark.parametrize("balance", ["weights", "none"])
def test_every_image_comes_once_an_epoch_save_the_rest_of_a_batch(balance):
    rows = order([0] * 18 + [1] * 3, balance=balance)
    assert rows.shape == (4, 2, 8)
    for epoch in rows.reshape(4, 16):
        assert len(set(epoch)) == 16 and set(epoch) <= set(range(21))
    assert len({tuple(epoch) for epoch in rows.reshape(4, 16)}) == 4
    assert set(order([0] * 18 + [1] * 3, epochs=40).ravel()) == set(range(21))  # never the same that are left


def test_sampling_draws_as_many_of_either_class_and_all_of_them():
    labels = np.array([0] * 180 + [1] * 20)
    rows = order(labels, balance="sampling", epochs=10)
    assert rows.shape == (10, 25, 8)
    assert labels[rows].mean() == pytest.approx(0.5, abs=0.04)
    assert labels[rows].mean(axis=(1, 2)).min() > 0.35
    assert len(set(rows.ravel())) > 195
    assert labels[order(labels, epochs=10)].mean() == pytest.approx(0.1)


def test_propensity_draws_as_many_of_either_class_within_every_stratum():
    labels = np.array([0] * 90 + [1] * 10 + [0] * 10 + [1] * 90 + [1] * 50)
    strata = np.repeat([0, 1, 2], [100, 100, 50])  # the last has one class alone: nothing to balance
    p = TrainParameters(epochs=20, batch_size=10, balance="propensity")
    rows = training._order(labels, p, strata)
    assert rows.shape == (20, 25, 10) and (strata[rows] < 2).all()
    for stratum in (0, 1):
        own = strata[rows] == stratum
        assert own.mean() == pytest.approx(0.5, abs=0.03)
        assert labels[rows][own].mean() == pytest.approx(0.5, abs=0.03)


def test_strata_of_the_propensity_hold_alike_images_of_either_class():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    widths = np.round(1000 + 200 * labels + rng.normal(0, 150, 400))
    sizes, images = np.column_stack([widths, np.full(400, 800.0)]), np.full((400, 16, 16), 90, np.uint8)
    sizes[3, 0] = np.nan
    strata = training.propensity_strata(labels, images, sizes)
    assert np.bincount(strata).tolist() == pytest.approx([80] * 5, abs=2)
    table = pd.DataFrame({"label": labels, "width": widths})
    apart = table.groupby([strata, "label"])["width"].mean().unstack()
    whole = table.groupby("label")["width"].mean()
    assert (apart[1] - apart[0]).abs().mean() < 0.3 * (whole[1] - whole[0])
    assert table.groupby(strata)["label"].mean().is_monotonic_increasing
    images[labels == 1] = rng.integers(0, 255, (16, 16))  # sharpness alone
    assert training.propensity_strata(labels, images, np.full((400, 2), np.nan)).max() == 1


def test_the_last_layer_refitted_on_swaps_no_longer_reads_what_swaps_take_away(monkeypatch):
    """Two features, the means of the left and the right half: the class is in both, in training most of all in one."""
    keras = backend.start(0)
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    images = rng.normal(120, 15, (400, 8, 8))
    images[:, :, :4] += 60 * labels[:, None, None]
    images[:, :, 4:] += 6 * labels[:, None, None]
    images = np.clip(images, 0, 255).astype(np.uint8)
    image = keras.Input((8, 8, 1))
    halves = keras.layers.AveragePooling2D((8, 4))(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.Dense(1, name="logit")(keras.layers.Flatten(name="gap")(halves)))
    model.get_layer("logit").set_weights([np.array([[9.0], [0.0]]), np.array([-5.0])])

    def changes(order):
        def left_from_another(take, images, rows, donors):
            left = np.arange(8) < 4
            return keras.ops.where(left[:, None], take(images, donors), take(images, rows))

        return {"donors": np.random.default_rng(1).integers(400, size=order.shape)}, left_from_another

    folds, patients = [], np.arange(400) // 4

    class Folds(training.StratifiedGroupKFold):
        def split(self, x, y, groups):
            for fitting, judging in super().split(x, y, groups):
                folds.append(set(groups[fitting]) & set(groups[judging]))
                yield fitting, judging

    monkeypatch.setattr(training, "StratifiedGroupKFold", Folds)
    training.refit_last_layer(model, TrainParameters(batch_size=32), (images, labels), patients, changes)
    assert folds == [set()] * 5  # no patient is on both sides, neither as is nor swapped
    left, right = model.get_layer("logit").get_weights()[0][:, 0]
    assert right > 2 * abs(left)
    logits = training.predict(model, images)
    assert ((logits > 0) == labels).mean() > 0.8


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_the_order_follows_the_seed(balance):
    first, again, other = (order([0, 1] * 20, balance=balance, seed=seed) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).mean() > 0.5


def test_a_batch_larger_than_the_data_is_all_of_them():
    rows = order([0, 1, 0, 1, 1], batch_size=64)
    assert rows.shape == (4, 1, 5) and (np.sort(rows[:, 0]) == np.arange(5)).all()


def batches(images, labels, rows, class_weights=(1.0, 1.0)):
    """What `backend.feed_training` gives, batch by batch, as arrays."""
    fed = backend.feed_training(images, labels, rows, class_weights)
    assert fed["steps_per_epoch"] == rows.shape[1]
    return [tuple(np.asarray(part) for part in batch) for batch in fed["x"]]


def test_the_images_are_fed_in_that_order_with_their_labels_and_weights():
    backend.start()
    images = np.arange(7, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    labels = np.array([0, 1, 0, 0, 1, 0, 1])
    rows = np.array([[[6, 0], [2, 1]], [[4, 4], [3, 5]]])
    fed = batches(images, labels, rows, (0.75, 2.0))
    assert [x[:, 0, 0, 0].tolist() for x, _, _ in fed] == [[6, 0], [2, 1], [4, 4], [3, 5]]
    assert [y[:, 0].tolist() for _, y, _ in fed] == [[1, 0], [0, 1], [1, 1], [0, 0]]
    assert [w.tolist() for *_, w in fed] == [[2, 0.75], [0.75, 2], [2, 2], [0.75, 0.75]]
    assert fed[0][0].shape == (2, 4, 4, 1)


def test_class_weights_by_hand():
    labels = np.array([0] * 9 + [1] * 3)
    expected = [pytest.approx(2 / 3), 2.0]  # 12 / (2·9), 12 / (2·3)
    assert training._class_weights(labels, TrainParameters(balance="weights")) == expected
    for balance in ("sampling", "none"):
        assert training._class_weights(labels, TrainParameters(balance=balance)) == [1.0, 1.0]


def test_class_weights_reach_the_loss():
    unequal = black_or_white([0] * 24 + [1] * 8)
    p = LINEAR.model_copy(update={"batch_size": 32, "learning_rate": 1e-9})
    right, wrong = np.log1p(np.exp(-1)), np.log1p(np.exp(1))  # what a logit of 1 loses
    for balance, expected in (("weights", (right + wrong) / 2), ("none", 0.25 * right + 0.75 * wrong)):
        history = training.fit(linear(0.0, 1.0), p.model_copy(update={"balance": balance}), unequal, unequal)
        assert history["loss"].iloc[0] == pytest.approx(expected, abs=1e-5)


# ---- learning rate and labels


def rates(steps, **changes):
    model = linear()
    training.compile_model(model, TrainParameters(learning_rate=0.01, **changes), steps)
    return np.array([float(model.optimizer._learning_rate(step)) for step in range(steps)])


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_rate_climbs_to_its_peak_over_a_tenth(schedule):
    rate = rates(200, schedule=schedule)
    np.testing.assert_allclose(rate[:20], np.arange(20) / 20 * 0.01, atol=1e-8)
    assert rate[20] == pytest.approx(0.01) == rate.max()


def test_then_it_falls_along_a_cosine_or_stays():
    np.testing.assert_allclose(rates(200, schedule="constant")[20:], 0.01, rtol=1e-5)
    falling = rates(200, schedule="cosine")[20:]
    np.testing.assert_allclose(falling, 0.005 * (1 + np.cos(np.pi * np.arange(180) / 180)), atol=1e-7)
    assert falling[-1] < 1e-6


def test_a_few_steps_have_no_warm_up():
    for schedule in ("cosine", "constant"):
        assert rates(5, schedule=schedule)[0] == pytest.approx(0.01)
        assert rates(1, schedule=schedule).tolist() == pytest.approx([0.01])


def test_label_smoothing_by_hand():
    options = {"epochs": 12, "learning_rate": 0.3, "keep_epoch": "last"}
    plain, history = fitted(**options)
    assert history["loss"].iloc[-1] < 0.05
    smooth, history = fitted(**options, label_smoothing=0.5)
    least = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))  # of half a label: three quarters are its own class's
    assert history["loss"].min() >= least - 1e-6
    assert history["loss"].iloc[-1] == pytest.approx(least, abs=0.01)
    logits = training.predict(smooth, black_or_white([0, 1])[0])
    assert logits.tolist() == pytest.approx([-np.log(3), np.log(3)], abs=0.15)
    assert history["val_loss"].iloc[-1] == pytest.approx(np.log(4 / 3), abs=0.05)  # of the labels as they are
    assert weights(plain)[0] > 2 * weights(smooth)[0]


# ---- which weights are kept

INVERTED = black_or_white([0, 1] * 8)[0], np.array([1, 0] * 8)  # the more is learned, the worse is the validation


def test_the_best_epoch_is_kept_and_training_stops_when_patience_is_out():
    model, history = fitted(-0.1, validation=INVERTED, epochs=9, patience=3, learning_rate=0.02)
    # The kernel climbs from −0.1 by 0.02 a step; four steps are an epoch, the rates of the first three 0, ⅓ and ⅔.
    assert history["val_auc"].tolist() == [1, 0, 0, 0] and history["best"].tolist() == [True, False, False, False]
    assert weights(model)[0] == pytest.approx(-0.06, abs=0.002)


def test_the_last_epoch_is_kept_whatever_the_validation_says():
    model, history = fitted(-0.1, validation=INVERTED, epochs=6, patience=1, learning_rate=0.02, keep_epoch="last")
    assert history["val_auc"].tolist() == [1, 0, 0, 0, 0, 0] and history["best"].tolist() == [False] * 5 + [True]
    assert weights(model)[0] == pytest.approx(-0.1 + 22.5 * 0.02, rel=0.05)  # the first two steps make half a one
    logits = training.predict(model, INVERTED[0])
    assert log_loss(INVERTED[1], training.probability(logits)) == pytest.approx(history["val_loss"].iloc[-1], abs=1e-5)


# ---- views of a image, each judged


def test_logits_are_the_mean_over_the_views():
    keras = backend.start(0)
    images = np.random.default_rng(0).integers(0, 256, (3, 25, 25)).astype(np.uint8)
    kernel = np.random.default_rng(1).normal(size=(25, 25)) / 1000
    image = keras.Input((25, 25, 1))
    model = keras.Model(image, keras.layers.Dense(1, use_bias=False)(keras.layers.Flatten()(image)))
    model.set_weights([kernel.reshape(-1, 1)])

    def logits(*views):
        return np.mean([(view * kernel).sum(axis=(1, 2)) for view in views], axis=0)

    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))  # a 25th of the side is one pixel; black beyond the edge
    corners = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    moved = [padded[:, top : top + 25, left : left + 25] for top, left in corners]
    flipped = [view[:, :, ::-1] for view in moved]
    for tta, expected in (("none", logits(images)), ("flip", logits(images, images[:, :, ::-1])),
                          ("shifts", logits(*moved, *flipped))):  # fmt: skip
        np.testing.assert_allclose(training.predict(model, images, tta=tta), expected, atol=1e-4)
    assert np.abs(logits(*moved, *flipped) - logits(images)).max() > 0.01
