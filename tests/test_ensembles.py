"""Ensembles, on probabilities made by hand and on networks."""

import math

import numpy as np
import pytest
import torch
from conftest import randomize

from models import TinyTen
from utils.curves import Curve
from utils.measuring import (
    calibration_error,
    evaluate,
    evaluate_ensemble,
    probabilities,
    reestimate_batch_norm,
    scores,
)


def test_calibration_by_hand():
    """Two bins: 0.75 (twice, right once) and 0.95 (right)."""
    predicted = torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.95, 0.05], [0.05, 0.95]])
    labels = torch.tensor([0, 0, 0, 1])
    assert calibration_error(predicted, labels) == pytest.approx(100 * (2 * 0.25 + 2 * 0.05) / 4, rel=1e-5)
    assert calibration_error(torch.eye(2), torch.tensor([0, 1])) == 0
    assert calibration_error(torch.eye(2), torch.tensor([1, 0])) == 100
    assert calibration_error(predicted, labels, bins=1) == pytest.approx(100 * abs(0.75 - 0.85), rel=1e-5)


def test_scores_by_hand():
    predicted = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]])
    found = scores(predicted, torch.tensor([0, 1]))
    assert found["loss"] == pytest.approx((math.log(2) + math.log(8)) / 2)
    assert found["accuracy"] == 50
    assert math.isfinite(scores(torch.eye(2), torch.tensor([1, 0]))["loss"])


def line():
    ends = (randomize(TinyTen(4), seed).state_dict() for seed in (1, 2))
    return Curve.between(TinyTen(4), *ends, num_bends=2)


def of(table, what):
    (row,) = np.flatnonzero(table["what"] == what)
    return {name: table[name][row] for name in ("loss", "accuracy", "calibration_error", "t", "loss_held_out")}


def test_an_ensemble_is_the_mean_of_its_points(data):
    """Of two points it is that of the ends; the best point is chosen on other images than it is measured on."""
    curve = line()

    def prepare(model, _):
        reestimate_batch_norm(model, data.train, batch_size=80)

    ts = [0, 0.5, 1]
    table = evaluate_ensemble(curve, ts, prepare, data.test, data.held_out)
    two = evaluate_ensemble(curve, [0, 1], prepare, data.test, data.held_out)
    assert of(two, "ensemble") == pytest.approx(of(two, "ends"), abs=0, nan_ok=True)
    assert of(two, "ends") == pytest.approx(of(table, "ends"), abs=0, nan_ok=True)
    predicted, losses = [], []
    for i, t in enumerate(ts):
        model = curve.place(t)
        prepare(model, t)
        one, labels = probabilities(model, data.test)
        predicted.append(one.double())
        losses.append(evaluate(model, data.held_out)[0])
        loss, accuracy = evaluate(model, data.test)
        assert (table["what"][i], table["t"][i], table["loss_held_out"][i]) == ("point", t, losses[-1])
        assert table["loss"][i] == pytest.approx(loss, rel=1e-5)
        assert table["accuracy"][i] == pytest.approx(accuracy)
    expected = scores(sum(predicted) / 3, labels)
    assert {name: of(table, "ensemble")[name] for name in expected} == pytest.approx(expected)
    best = int(np.argmin(losses))
    assert of(table, "best point")["t"] == ts[best]
    assert of(table, "best point")["loss"] == table["loss"][best]


@pytest.mark.parametrize("use_test", [True, False])
def test_nothing_is_chosen_on_the_images_of_the_test(load_bars, use_test):
    """Chosen on are a tenth of the training images, whichever images the test has; and those of every class."""
    data = load_bars(use_test=use_test)
    held_out = data.held_out
    assert len(held_out) == len(data.train) // 10
    pixels = {tuple(row.tolist()) for row in held_out.packed(slice(None))}
    assert pixels <= {tuple(row.tolist()) for row in data.train.packed(slice(None))}
    assert not pixels & {tuple(row.tolist()) for row in data.test.packed(slice(None))}
    if use_test:
        others = load_bars(use_test=False).test
        assert pixels == {tuple(row.tolist()) for row in others.packed(slice(None))}


def test_probabilities_of_tokens_and_pixels_are_those_of_the_loss():
    """What does not count, as IGNORED labels and the token that nothing predicts, is in neither."""
    tokens = torch.randint(0, 9, (7, 6))
    text = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 9))
    pixels = torch.randint(0, 5, (7, 6, 6)).masked_fill(torch.rand(7, 6, 6) < 0.2, -100)
    shown = torch.nn.Conv2d(3, 5, 3, padding=1), (torch.randn(7, 3, 6, 6), pixels)
    for task, count, model, data in (
        ("language", 7 * 5, text, tokens),
        ("segmentation", int((pixels >= 0).sum()), *shown),
    ):
        found = probabilities(model, data, loss=task, batch_size=3)
        assert len(found[0]) == len(found[1]) == count
        loss, accuracy = evaluate(model, data, loss=task)
        known = scores(*found)
        assert (known["loss"], known["accuracy"]) == pytest.approx((loss, accuracy), rel=1e-5)
