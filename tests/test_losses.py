"""What is computed of outputs and targets, and what is refused: any task, and never a number that means nothing."""

import copy
import dataclasses
import io
import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from utils import (
    activations,
    align,
    align_many,
    barrier,
    evaluate,
    evaluate_curve,
    evaluate_ensemble,
    fit_curve,
    learn_pam,
    line,
    merge,
    permutation_spec,
    permute,
    plot_path,
    plot_plane,
    reestimate_batch_norm,
    repair,
)
from utils.activations import cross_correlations

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(40, 6, generator=GENERATOR)
LABELS = torch.arange(40) % 3


def mlp(outputs=3):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, outputs))


class Heads(nn.Module):
    """A network that puts out more than its logits, in some form."""

    def __init__(self, form, width=8):
        super().__init__()
        self.net, self.form, self.wide = mlp(), form, nn.Linear(6, width)

    def forward(self, x):
        return self.form(self.wide(x), self.net(x))


@dataclasses.dataclass
class Found:
    hidden: torch.Tensor
    pred: torch.Tensor


FORMS = {
    "pair": lambda features, logits: (features, logits),
    "dictionary": lambda features, logits: {"feat": features, "pred": logits},
    "dataclass": Found,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_logits_are_what_has_a_column_for_each_class(form):
    expected = evaluate(mlp(), (X, LABELS))
    assert evaluate(Heads(form), (X, LABELS), batch_size=2) == pytest.approx(expected)
    with pytest.raises(ValueError, match="none has a column for each class"):
        evaluate(Heads(form), (X, LABELS % 2))


@pytest.mark.parametrize(
    "targets",
    [
        LABELS.float(),
        torch.where(LABELS == 2, -1, LABELS),
        torch.where(LABELS == 2, 3, LABELS),
        torch.where(LABELS == 2, -100, LABELS),
        F.one_hot(LABELS),
        LABELS.view(20, 2).repeat(2, 1),
    ],
    ids=["floats", "-1", "too many", "-100", "one-hot", "tokens"],
)
def test_targets_that_are_no_classes(targets):
    network, curve = mlp(), fit_curve(mlp(), mlp(), (X, LABELS), epochs=1, verbose=False)
    data = [(X, targets), DataLoader(list(zip(X, targets, strict=True)), 8), [{"x": X, "labels": targets}]]
    for source in data:
        for act in (
            lambda: evaluate(network, source),  # noqa: B023
            lambda: fit_curve(network, network, source, epochs=1, verbose=False),  # noqa: B023
            lambda: evaluate_curve(curve, source, source),  # noqa: B023
        ):
            with pytest.raises(ValueError, match="class") as caught:
                act()
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("method", ["corr", "w2_pre", "w2_post"])
def test_one_image_that_is_no_number(method, bad):
    x = X.repeat(13, 1)[:512].clone()
    x[300, 2] = bad
    a, b = mlp(), mlp()
    says = r"sample 300 \(from 0\)" if method != "w2_pre" or bad != 1e30 else "300"
    for batches in (x, x.split(100), [(x, torch.zeros(512))]):
        with pytest.raises(ValueError, match=says):
            align(a, b, permutation_spec(a, X), batches, method=method)
    if bad != 1e30:
        norm = nn.Sequential(nn.BatchNorm1d(6), *mlp())
        for act in (evaluate, reestimate_batch_norm):
            with pytest.raises(ValueError, match="no finite number"):
                act(norm, (x, torch.zeros(512).long()))


@pytest.mark.parametrize("data", [(torch.full((8, 6), math.nan), LABELS[:8]), DataLoader(X, 64, drop_last=True)])
def test_nothing_is_made_of_what_is_no_number_or_is_not_there(data):
    a, path = mlp(), line(mlp(), mlp())
    before = copy.deepcopy(a.state_dict())
    for act in (
        lambda: fit_curve(a, a, data, epochs=1, verbose=False),
        lambda: learn_pam(a, a, permutation_spec(a, X), data, inner_iters_perm=1, inner_iters_phi=1),
        lambda: repair(a, a, a, 0.5, data),
        lambda: merge(a, a, permutation_spec(a, X), permutation_spec(a, X).identity(), data),
        lambda: evaluate_curve(path, data, data),
        lambda: evaluate_ensemble(path, [0, 1], lambda *_: None, data, (X, LABELS)),
        lambda: align_many([a, a, a], permutation_spec(a, X), data),
    ):
        with pytest.raises(ValueError, match="not finite|no finite number|diverged|no samples|something else"):
            act()
    assert all(torch.equal(value, before[name]) for name, value in a.state_dict().items())


def test_a_loss_that_is_no_number():
    network = mlp()
    network[2].bias.data[0] = math.nan
    with pytest.raises(ValueError, match="the loss of Sequential is no finite number, but nan"):
        evaluate(network, (X, LABELS))


# --- other tasks -------------------------------------------------------------------------------------------


def by_name(name, output, target):
    """The mean loss and metric, written anew."""
    if name == "regression":
        error = (output.squeeze() - target.squeeze()).double()
        return error.square().mean(), error.abs().mean()
    if name == "multilabel":
        counted = target != -100
        output, target = output[counted], target[counted]
        loss = F.binary_cross_entropy_with_logits(output, target.float())
        return loss, 100 * ((output > 0) == (target == 1)).double().mean()
    loss = F.cross_entropy(output, target, ignore_index=-100)
    counted = target != -100
    return loss, 100 * (output.argmax(1) == target)[counted].double().mean()


SEGMENTS = torch.where(torch.rand(40, 5, 5, generator=GENERATOR) < 0.2, -100, torch.arange(5))
TASKS = {
    "regression": (mlp(1), X, X[:, 0]),
    "regression of several": (mlp(2), X, X[:, :2]),
    "multilabel": (mlp(3), X, torch.where(X[:, :3] > 1, -100, (X[:, 3:] > 0).long())),
    "segmentation": (nn.Conv2d(3, 5, 1), torch.randn(40, 3, 5, 5, generator=GENERATOR), SEGMENTS),
}


@pytest.mark.parametrize("name", TASKS)
def test_built_in_losses(name):
    network, x, target = TASKS[name]
    task = name.split()[0]
    with torch.no_grad():
        expected = by_name(task, network(x), target)
    assert evaluate(network, (x, target), loss=task, batch_size=7) == pytest.approx([float(one) for one in expected])
    curve = fit_curve(network, copy.deepcopy(network), (x, target), epochs=2, loss=task, lr=1e-3, verbose=False)
    path = evaluate_curve(curve, (x, target), (x, target), points=3, loss=task)
    assert path["loss"][[0, 2]] == pytest.approx([float(expected[0])] * 2)


def test_a_loss_of_ones_own():
    """A number for each sample, and metrics; their mean weighs samples alike, whatever the batches are."""

    def loss(output, batch):
        error = (output - batch["y"]).abs().sum(1)
        return error, {"within": error < 1, "worst": error.max().view(1)}

    network, data = mlp(1), {"input": X, "y": X[:, :1]}
    error = (network(X) - X[:, :1]).abs().detach()
    mean, within, _ = evaluate(network, data, loss=loss, batch_size=9)
    assert (mean, within) == pytest.approx((error.mean().item(), 100 * (error < 1).double().mean().item()))
    with pytest.raises(ValueError, match="a number for each sample"):
        evaluate(network, data, loss=lambda output, batch: F.mse_loss(output, batch["y"]))
    with pytest.raises(ValueError, match="the losses are classification, regression"):
        evaluate(network, data, loss="mse")


class GPT(nn.Module):
    """A causal transformer of one layer, called as Hugging Face's are."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.places = nn.Embedding(11, 16), nn.Embedding(12, 16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.head = nn.Linear(16, 11)

    def forward(self, input_ids, attention_mask=None):
        length = input_ids.shape[1]
        x = self.embed(input_ids) + self.places.weight[:length]
        q, k, v = (part.unflatten(2, (2, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2))
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = (q @ k.transpose(2, 3) / 8**0.5).masked_fill(hidden, -math.inf)
        x = x + self.out((scores.softmax(3) @ v).transpose(1, 2).flatten(2))
        return {"logits": self.head(x + self.mlp(x)), "hidden": x}


TOKENS = torch.randint(11, (30, 12), generator=GENERATOR)
MASK = (torch.arange(12) < torch.randint(4, 13, (30, 1), generator=GENERATOR)).long()


def texts(padding):
    """Tokens, of which those that are padded are `padding`."""
    ids = torch.where(MASK.bool(), TOKENS, padding)
    return {"input_ids": ids, "attention_mask": MASK, "labels": ids.masked_fill(MASK == 0, -100)}


def test_next_tokens():
    """Padding counts nowhere, however its labels are given: neither in the loss nor in what is compared."""
    network, other = GPT(0), GPT(1)
    with torch.no_grad():
        logits = network(TOKENS)["logits"][:, :-1].transpose(1, 2)
    labels = TOKENS.masked_fill(MASK == 0, -100)
    expected = F.cross_entropy(logits, labels[:, 1:]).item()
    shifted = torch.cat([labels[:, 1:], torch.full((30, 1), -100)], 1)
    masked = {name: texts(3)[name] for name in ("input_ids", "attention_mask")}
    for data in (
        texts(0),
        texts(7),
        masked,
        [texts(5)],
        (TOKENS, labels),
        (TOKENS, shifted),
        {"ids": TOKENS, "y": labels},
    ):
        assert evaluate(network, data, loss="language", batch_size=7)[0] == pytest.approx(expected, rel=1e-5)

    def own(output, batch):  # as it is mostly written
        return F.cross_entropy(output["logits"][:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none")

    assert evaluate(network, texts(2), loss=own, batch_size=7)[0] == pytest.approx(expected, rel=1e-5)
    spec = permutation_spec(network, TOKENS)
    one, two = (cross_correlations(network, other, spec, [texts(padding)]) for padding in (0, 7))
    for matrix, same in zip(one, two, strict=True):
        np.testing.assert_allclose(matrix, same, atol=1e-5)


def test_no_more_than_some_tokens_are_compared_at_once(monkeypatch):
    a, b, seen = GPT(0), GPT(1), []
    spec = permutation_spec(a, TOKENS)
    expected = cross_correlations(a, b, spec, [texts(0)])
    monkeypatch.setattr(activations, "TOKENS", 60)
    a.register_forward_pre_hook(lambda _, __, named: seen.append(named["input_ids"].numel()), with_kwargs=True)
    found = cross_correlations(a, b, spec, [texts(0)])
    assert seen == [60] * 6
    for matrix, same in zip(expected, found, strict=True):
        np.testing.assert_allclose(matrix, same, atol=1e-5)


def test_a_language_model_is_aligned_and_connected():
    a, data = GPT(0), DataLoader([{name: value[i] for name, value in texts(0).items()} for i in range(30)], 8)
    spec = permutation_spec(a, TOKENS)
    planted = copy.deepcopy(a)
    planted.load_state_dict(permute(a.state_dict(), spec, spec.random(3)))
    planted.load_state_dict(permute(planted.state_dict(), spec, align(a, planted, spec, data)))
    path = evaluate_curve(
        fit_curve(a, planted, data, epochs=1, lr=1e-4, loss="language", verbose=False),
        data,
        data,
        points=3,
        loss="language",
    )
    assert path["loss"][1] < path["loss"][0] + 0.01


# --- the face ----------------------------------------------------------------------------------------------


def test_a_line_is_evaluated_merged_and_drawn():
    a, b, data = mlp(), copy.deepcopy(mlp()), (X, LABELS)
    spec = permutation_spec(a, X)
    b.load_state_dict(permute(a.state_dict(), spec, spec.random(2)))
    permutations = align(a, b, spec, data)
    merged = merge(a, b, spec, permutations, data)
    torch.testing.assert_close(merged(X), a(X), rtol=1e-4, atol=1e-5)
    path = evaluate_curve(line(a, b), data, data, points=3)
    assert barrier(path) == pytest.approx(barrier(path.to_dict()))
    assert path["loss"][0] == pytest.approx(evaluate(a, data)[0])
    axes = plot_path({"unaligned": path}, axes=Figure().add_subplot())
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), path["loss"])
    assert len(repr(line(a, b)).splitlines()) == 2


def test_a_curve_is_drawn_on_its_plane():
    a, b, data = normed(1), normed(2), (X, LABELS)
    curve = fit_curve(a, b, data, epochs=1, verbose=False)
    axes = plot_plane(curve, data, data, points=8, axes=Figure().add_subplot())
    path, ends = (np.stack(line.get_data(), axis=1) for line in axes.lines)
    distance = (curve.point(1.0) - curve.point(0.0)).norm().item()
    np.testing.assert_allclose(ends, [[0, 0], [distance, 0]], atol=1e-5 * distance)
    np.testing.assert_allclose(path[[0, -1]], ends, atol=1e-5 * distance)
    length = sum((curve.point((i + 1) / 32) - curve.point(i / 32)).norm().item() for i in range(32))
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).sum() == pytest.approx(length, rel=1e-4)
    losses = evaluate_curve(curve, data, data, points=2)["loss"]  # of the ends, which are on the grid
    (least, *_, most) = axes.collections[0].levels
    assert least <= losses.min() and most >= losses.max()
    drawn = []
    for own in ({}, {"text.usetex": True, "figure.autolayout": True}, plt.style.library["dark_background"]):
        drawn.append([])
        with matplotlib.rc_context(own):
            for axes in (
                plot_plane(curve, data, data, points=2),
                plot_path({"curve": {"t": [0, 1], "loss": losses}}),
            ):
                axes.figure.savefig(stream := io.BytesIO())
                drawn[-1].append(stream.getvalue())
                plt.close(axes.figure)
    assert drawn[0] == drawn[1] == drawn[2]  # whatever a user's matplotlibrc says
    with pytest.raises(ValueError, match="spans no plane"):
        plot_plane(line(a, b), data, data)
    with pytest.raises(ValueError, match="no 'acc' on this plane, but x, y, loss, accuracy"):
        plot_plane(curve, data, data, "acc", points=2)


def test_one_point_alone_may_be_a_number():
    path = evaluate_curve(line(mlp(), mlp()), (X, LABELS), (X, LABELS), 0.5)
    assert path["t"].tolist() == [0.5] and path["loss"].tolist() == [evaluate(mlp(), (X, LABELS))[0]]


def normed(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()


def test_a_merged_network_has_statistics_of_its_own():
    a, b = normed(1), normed(2)
    spec = permutation_spec(a, X)
    merged, state = merge(a, b, spec, spec.identity(), (X, LABELS), t=0.25), torch.get_rng_state()
    merge(a, b, spec, spec.identity(), DataLoader(X, 20, shuffle=True))  # which draws
    assert torch.equal(torch.get_rng_state(), state)
    weight = 0.75 * a[0].weight + 0.25 * b[0].weight
    torch.testing.assert_close(merged[0].weight, weight)
    torch.testing.assert_close(merged[1].running_mean, merged[0](X).mean(0))


@pytest.mark.parametrize(
    "act, says",
    [
        (lambda a, wide, spec: align(a, wide, spec, X), "not of one architecture: 0 has 8 and 9 channels"),
        (lambda a, wide, spec: fit_curve(a, wide, (X, LABELS), epochs=1), "0 has 8 and 9 channels"),
        (lambda a, wide, spec: line(a, wide), "0 has 8 and 9 channels"),
        (lambda a, wide, spec: align_many([a, a, wide], spec, X), "0 has 8 and 9 channels"),
        (lambda a, wide, spec: align(a, copy.deepcopy(a).to("meta"), spec, X), "on the device meta"),
        (lambda a, wide, spec: align(spec, a, a, X), "a network is .*, and not a PermutationSpec"),
        (lambda a, wide, spec: align(a, a, X, spec), "a spec is what permutation_spec returns, and not a Tensor"),
        (lambda a, wide, spec: evaluate((X, LABELS), a), "a network is a torch.nn.Module, and not a tuple"),
        (lambda a, wide, spec: fit_curve((X, LABELS), a, a, epochs=1), "a network is a torch.nn.Module"),
        (lambda a, wide, spec: evaluate_curve((X, LABELS), (X, LABELS), line(a, a)), "a curve is what fit_curve"),
        (lambda a, wide, spec: fit_curve(a, a, (X, LABELS), epochs=0), "epochs is a whole number, at least 1"),
        (
            lambda a, wide, spec: evaluate_curve(line(a, a), (X, LABELS), (X, LABELS), points=0),
            "points is a whole number",
        ),
        (lambda a, wide, spec: evaluate_curve(line(a, a), (X, LABELS), (X, LABELS), ts=[2.0]), "points t are"),
        (lambda a, wide, spec: barrier([0.5], [1.0]), "a barrier is that of a path from t = 0 to t = 1"),
        (lambda a, wide, spec: align(a, a, spec), "there are no samples"),
        (
            lambda a, wide, spec: align(a, a, spec, X, method="l2"),
            "the methods are corr, corr_pre, w2_pre, w2_post, weight, identity, random, not 'l2'",
        ),
        (lambda a, wide, spec: fit_curve(a, a, (X, LABELS), epochs=2, schedule=[0.1]), "has 1 learning rates for 2"),
        (lambda a, wide, spec: fit_curve(a, a, (X, LABELS), epochs=1, family="bezier"), "Bezier and PolyChain, not"),
        (lambda a, wide, spec: align_many([a], spec, X), "one network alone"),
        (
            lambda a, wide, spec: align_many([a, a], spec, X, method="w2_pre"),
            "by corr or weight to reference or univ",
        ),
        (lambda a, wide, spec: align_many([a, a], spec, X, to="mean"), "by corr or weight to reference or universe"),
        (lambda a, wide, spec: align_many(a, spec, X), "one network alone"),
        (
            lambda a, wide, spec: evaluate(a, (X.numpy().astype(float), LABELS)),
            r"cannot take samples of \(6,\): .* dtype",
        ),
        (
            lambda a, wide, spec: align(a, a, spec, X[:, :5]),
            r"Sequential cannot take samples of \(5,\): mat1 and mat2",
        ),
        (lambda a, wide, spec: reestimate_batch_norm(normed(1), (LABELS, X)), "cannot take samples of"),
        (lambda a, wide, spec: permutation_spec(a, (X, LABELS)), "must be Tensor, not tuple"),
        (lambda a, wide, spec: permutation_spec(a, DataLoader(X)), "Sequential cannot take a DataLoader"),
        (lambda a, wide, spec: evaluate(copy.deepcopy(a).to("meta"), (X, LABELS)), "on the device meta"),
        (
            lambda a, wide, spec: evaluate(a, (X, LABELS), loss=nn.CrossEntropyLoss()),
            r"a function of \(output, batch\)",
        ),
        (lambda a, wide, spec: evaluate(a, (X, LABELS), loss=lambda out, _: (out.sum(1), {"m": 1.0})), "of tensors"),
        (lambda a, wide, spec: evaluate(a, (X, LABELS), precision="fp16"), "fp32, tf32 and bf16, not 'fp16'"),
        (lambda a, wide, spec: evaluate(a, (X, LABELS), batch_size=0), "batch_size is a whole number, at least 1"),
        (lambda a, wide, spec: fit_curve(a, a, (X, LABELS), epochs=1, num_bends=2), "nothing to be learned"),
        (
            lambda a, wide, spec: fit_curve(a, a, (X, LABELS), epochs=1, optimizer="adamw"),
            "a function that makes one",
        ),
        (lambda a, wide, spec: fit_curve(a, a, (X, LABELS), epochs=1, schedule=0.1), "a list of learning rates"),
        (lambda a, wide, spec: repair(a, a, wide, 0.5, X), "0 has 8 and 9 channels"),
        (lambda a, wide, spec: learn_pam(a, wide, spec, (X, LABELS)), "0 has 8 and 9 channels"),
        (lambda a, wide, spec: permute(a, spec, spec.identity()), "state is a dictionary, and not a Sequential"),
        (lambda a, wide, spec: barrier(line(a, a)), "a barrier is that of a path as evaluate_curve returns it"),
        (lambda a, wide, spec: barrier([0, 1], [1.0, 2.0, 3.0]), "a barrier is that of a path from t = 0 to t = 1"),
        (lambda a, wide, spec: plot_path({"t": [0, 1], "loss": [1, 2]}), "paths are given by name"),
        (lambda a, wide, spec: plot_plane(line(a, a), X, X, points=1), "at least 2 × 2 points"),
        (lambda a, wide, spec: evaluate_ensemble(line(a, a), [0, 2], print, X, X), "points t are in order"),
    ],
    ids=range(43),
)
def test_mistakes_are_told_in_a_sentence(act, says):
    wide = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    with pytest.raises((TypeError, ValueError), match=says) as caught:
        act(mlp(), wide, permutation_spec(mlp(), X))
    assert "\n" not in str(caught.value)
