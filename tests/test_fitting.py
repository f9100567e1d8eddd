import copy
import math
from functools import partial

import pytest
import torch
from conftest import randomize, same
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from models import GoogLeNet, TinyTen
from utils.attack import Attack
from utils.curves import Curve
from utils.errors import FileError, UserError
from utils.losses import classification
from utils.measuring import evaluate
from utils.stages.files import load_arrays
from utils.stages.layout import kept, rolling
from utils.stages.originals import load_checkpoint
from utils.stages.records import Record
from utils.stages.runs import Run
from utils.training import CurveTask, NetworkTask, draw_t, fit, fit_curve, robust_rates, step_rates


@pytest.fixture(scope="module")
def points():
    """Two classes of points (n, 2) that a small network can tell apart: 96 to train on, 30 to test."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(126, 2, generator=generator)
    labels = (x[:, 0] * x[:, 1] > 0).long()
    return TensorDataset(x[:96], labels[:96]), TensorDataset(x[96:], labels[96:])


def small(seed=0, width=8):
    """A network for `points`, with batch norm and dropout."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 2))


def same_state(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# --- learning rates and losses -----------------------------------------------------------------------------


def test_learning_rate_is_the_published_schedule():
    rates = step_rates(61, 0.1, 20, 0.9996)
    expected = [0.1, 0.1 * 0.9996, 0.1 * 0.9996**19, 0.05 * 0.9996**20, 0.0125 * 0.9996**60]
    assert [rates[epoch] for epoch in (0, 1, 19, 20, 60)] == pytest.approx(expected)
    assert step_rates(61) == rates  # those are the published values
    assert len(rates) == 61


def test_robust_learning_rate_is_the_published_schedule():
    rates = robust_rates(100, 0.1)
    assert [rates[epoch] for epoch in (0, 50, 70, 90, 99)] == pytest.approx(
        [0.1, 0.1, 0.1 * (1 + 0.01) / 2, 0.001, 0.001]
    )
    assert robust_rates(100) == rates
    assert len(rates) == 100


def test_objective_adds_the_auxiliary_losses():
    model, labels = GoogLeNet(4), torch.tensor([0, 3])
    main, aux1, aux2 = output = model.train()(torch.randn(2, 3, 16, 16))
    losses = [F.cross_entropy(logits, labels).item() for logits in (main, aux1, aux2)]
    assert classification(output, labels).objective(2).item() == pytest.approx(
        losses[0] + 0.3 * (losses[1] + losses[2])
    )
    assert classification(main, labels).objective(2).item() == pytest.approx(losses[0])


# --- what is learned, in memory ----------------------------------------------------------------------------


def test_a_network_learns_images(data, tmp_path, monkeypatch):
    """Without a run nothing is written, and what is learned is the model that was given."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = TinyTen(4)
    history = fit(NetworkTask(model, data.test), data.train, rates=[0.05] * 4, batch_size=32, val_freq=2)
    assert history["loss_train"][-1] < 0.5 * history["loss_train"][0]
    assert history["accuracy_train"][-1] > 60
    assert {name: len(series) for name, series in history.items()} == dict.fromkeys(
        ("loss_train", "accuracy_train", "loss_test", "accuracy_test"), 4
    )
    assert (history["loss_test"][-1], history["accuracy_test"][-1]) == evaluate(model, data.test, batch_size=32)
    assert list(tmp_path.iterdir()) == []


def test_a_seed_decides_all(points):
    train, _ = points
    first, again, other = small(), small(), small()
    for model, seed in ((first, 1), (again, 1), (other, 2)):
        fit(NetworkTask(model), train, rates=[0.1, 0.05], batch_size=16, seed=seed)
        torch.rand(7)  # the global generator, wherever it is, has no say
    assert same_state(first, again)
    assert not same_state(first, other)


def test_epochs_without_validation_are_nan(points):
    train, _ = points

    class Task(NetworkTask):
        def validate(self, images, batch_size, precision):
            return {"calls": len(calls := self.__dict__.setdefault("called", [])) + (calls.append(1) or 1)}

    history = fit(Task(small()), train, rates=[0.1] * 5, batch_size=32, val_freq=2)
    assert [None if math.isnan(value) else value for value in history["calls"]] == [None, 1, None, 2, 3]
    assert all(map(math.isfinite, history["loss_train"]))
    assert list(fit(Task(small()), train, rates=[0.1], batch_size=32)) == ["loss_train", "accuracy_train"]
    assert fit(NetworkTask(small()), train, rates=[0.1], val_freq=1).keys() == {"loss_train", "accuracy_train"}


# --- the optimizer -----------------------------------------------------------------------------------------


class Linear(NetworkTask):
    """Steps of which everything is known by hand: a linear map without bias, on the same two samples every step."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Linear(2, 2, bias=False))
        self.rates = []

    def after_step(self, rate):
        self.rates.append(rate)


X, LABELS = torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.tensor([0, 1])


def gradient(weight):
    weight = weight.clone().requires_grad_()
    F.cross_entropy(X @ weight.T, LABELS).backward()
    return weight.grad


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_with_nesterovs_momentum(momentum):
    """v ← m v + g, then w ← w − η (g + m v); each epoch at its own rate, which the task is told."""
    task = Linear()
    weight, velocity = task.module.weight.detach().clone(), torch.zeros(2, 2)
    fit(task, (X, LABELS), rates=[0.3, 0.1, 0.2], momentum=momentum, weight_decay=0.01)
    for rate in (0.3, 0.1, 0.2):
        step = gradient(weight) + 0.01 * weight
        velocity = momentum * velocity + step
        weight = weight - rate * (step + momentum * velocity)
    torch.testing.assert_close(task.module.weight.detach(), weight)
    assert task.rates == [0.3, 0.1, 0.2]


def test_only_what_requires_gradients_is_learned():
    task = NetworkTask(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    task.module[0].requires_grad_(False)
    before = copy.deepcopy(task.module)
    fit(task, (X, LABELS), rates=[0.1], weight_decay=0.1)
    assert same_state(task.module[0], before[0])
    assert not same_state(task.module[1], before[1])


# --- runs --------------------------------------------------------------------------------------------------


def read(path):
    """All that a file of a run holds."""
    if path.suffix == ".pt":
        return load_checkpoint(path)
    return {name: series.tolist() for name, series in load_arrays(path).items()}


def a_run(folder, epochs=5, **options):
    return Run(folder / "c", Record(flags={"lr": 0.1}), epochs, 2, folder / "history.npz", **options)


class Stopped(Exception):
    pass


class Stops(NetworkTask):
    """Is stopped in the middle of an epoch."""

    def __init__(self, model, at):
        super().__init__(model)
        self.at = at

    def after_step(self, rate):
        self.at -= 1
        if self.at == 0:
            raise Stopped


HOW = {"rates": step_rates(5, 0.1, 2), "batch_size": 16, "weight_decay": 1e-3}  # six steps an epoch


@pytest.mark.parametrize(
    ("resumed_with", "optimizer"),
    [("the same model", "sgd"), ("another model", "sgd"), ("another model", "adamw"), ("another model", "adam")],
)
def test_stopped_and_resumed_is_bit_identical(points, tmp_path, resumed_with, optimizer):
    train, _ = points
    how = HOW | {"optimizer": optimizer}
    whole, stopped, in_memory = small(), small(), small()
    history = fit(NetworkTask(whole), train, a_run(tmp_path / "whole"), **how)
    assert fit(NetworkTask(in_memory), train, **how) == history and same_state(in_memory, whole)
    with pytest.raises(Stopped):
        fit(Stops(stopped, at=6 * 3 + 2), train, a_run(tmp_path / "stopped"), **how)
    assert load_checkpoint(rolling(tmp_path / "stopped/c"))["epoch"] == 3
    if resumed_with == "another model":
        stopped = small(seed=9)
    again = fit(NetworkTask(stopped), train, a_run(tmp_path / "stopped", resume=True), **how)
    assert same_state(whole, stopped)
    assert again == history
    names = [sorted(path.name for path in (tmp_path / case).iterdir()) for case in ("whole", "stopped")]
    assert names[0] == names[1] == ["c-2.pt", "c-4.pt", "c-5.pt", "history.npz"]
    assert all(same(*(read(tmp_path / case / name) for case in ("whole", "stopped"))) for name in names[0])


def test_no_run_goes_on_with_another_kind_of_optimizer(points, tmp_path):
    train, _ = points
    with pytest.raises(Stopped):
        fit(Stops(small(), at=8), train, a_run(tmp_path), optimizer="adamw", **HOW)
    with pytest.raises(FileError, match="its optimizer is of another kind"):
        fit(NetworkTask(small()), train, a_run(tmp_path, resume=True), **HOW)


def test_a_run_that_continues_another_takes_over_its_momentum(points, tmp_path):
    """The first step of the second is not one from rest."""
    train, _ = points
    moving, how = small(), {"rates": [0.1], "batch_size": 96}
    first = Run(tmp_path / "first", Record(), 1, 9, tmp_path / "first.npz")
    fit(NetworkTask(moving), train, first, **how)
    resting = copy.deepcopy(moving)
    velocity = load_checkpoint(first.checkpoint)["optimizer_state"]["state"]
    seen = []

    class Task(NetworkTask):
        def forward(self, *args):
            seen.append(copy.deepcopy(self.module))
            return super().forward(*args)

    steps = []
    for model, after in ((moving, first.checkpoint), (resting, None)):
        run = Run(tmp_path / f"after_{after is not None}", Record(), 1, 9, tmp_path / "second.npz", after=after)
        fit(Task(model), train, run, **how)
        steps.append([now - before for now, before in zip(model.parameters(), seen[-1].parameters(), strict=True)])
    # Of Nesterov's step η (g + m v) with v = m v₀ + g, v₀ has the part η m² v₀
    for index, (one, other) in enumerate(zip(*steps, strict=True)):
        expected = -0.1 * 0.9**2 * velocity[index]["momentum_buffer"]
        torch.testing.assert_close((one - other).detach(), expected, rtol=1e-4, atol=1e-6)


def test_a_finished_run_is_read_back(points, tmp_path, capsys):
    train, _ = points
    model, other = small(), small(seed=5)
    history = fit(NetworkTask(model), train, a_run(tmp_path), **HOW)
    capsys.readouterr()
    again = fit(Stops(other, at=1), train, a_run(tmp_path), **HOW)  # not a step is taken
    assert same_state(model, other)
    assert again == history
    assert f"This run is finished: {tmp_path / 'c-5.pt'}" in capsys.readouterr().out


def test_a_checkpoint_of_something_else(points, tmp_path):
    train, _ = points
    fit(NetworkTask(small()), train, a_run(tmp_path), **HOW)
    with pytest.raises(UserError, match=r"c-5.pt does not hold this run \(size mismatch for ") as caught:
        fit(NetworkTask(small(width=9)), train, a_run(tmp_path), **HOW)
    assert "\n" not in str(caught.value)


# --- what goes wrong ---------------------------------------------------------------------------------------


def test_divergence_keeps_the_last_good_epoch(points, tmp_path):
    train, _ = points
    for rates in ([1e30], [0.1, 1e30]):  # in memory nothing is saved
        says = rf"diverged in epoch {len(rates)} \(nothing was saved\); try a smaller learning rate"
        with pytest.raises(UserError, match=says):
            fit(NetworkTask(small()), train, rates=rates, batch_size=16)
    for rate in (1e39, math.inf, math.nan):
        with pytest.raises(UserError, match="learning rate of epoch 2 would be .*; use a smaller one"):
            fit(NetworkTask(small()), train, rates=[0.1, rate])
    with pytest.raises(UserError, match=r"diverged in epoch 1 \(nothing was saved\)"):
        fit(NetworkTask(small()), train, a_run(tmp_path), rates=[1e30] * 5, batch_size=16)
    assert not list(tmp_path.glob("*.pt"))
    with pytest.raises(UserError, match=r"diverged in epoch 4 \(epoch 3 is saved\)"):
        fit(NetworkTask(small()), train, a_run(tmp_path), rates=[0.1, 0.1, 0.1, 1e30, 0.1], batch_size=16)
    saved = load_checkpoint(rolling(tmp_path / "c"))
    assert saved["epoch"] == 3
    assert all(value.isfinite().all() for value in saved["model_state"].values())
    assert not kept(tmp_path / "c", 4).exists()


# --- curves ------------------------------------------------------------------------------------------------


def ends(seeds=(1, 2)):
    return [randomize(TinyTen(4), seed) for seed in seeds]


def curve_between(a, b, **options):
    return Curve.between(TinyTen(4), a.state_dict(), b.state_dict(), **options)


def test_the_training_loss_of_a_curve_is_cross_entropy(data):
    """As it was in the step, without the L2 term."""
    curve = curve_between(*ends())
    few = data.train.subset(torch.arange(0, 160, 10))
    generator = torch.Generator().manual_seed(4)
    x, labels = next(few.augmented(16, generator))
    with torch.no_grad():
        expected = F.cross_entropy(curve.train()(x, curve.point(draw_t(generator))), labels)
    history = fit(CurveTask(curve, weight_decay=1.0), few, rates=[0.01], batch_size=16, seed=4)
    assert history["loss_train"] == [pytest.approx(expected.item(), rel=1e-5)]


@pytest.mark.parametrize("schedule", [None, [0.02, 0.01], lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5)])
def test_a_curve_is_learned_by_any_optimizer(data, schedule, capsys):
    """With the rates that a schedule of torch's has, or that are given; and any number of control points."""
    a, b = ends()
    few = data.train.subset(torch.arange(0, 160, 8))
    adam = partial(torch.optim.AdamW, lr=0.02)
    how = {"optimizer": adam, "num_bends": 4, "family": "PolyChain", "verbose": False}
    curve = fit_curve(a, b, few, epochs=2, batch_size=10, schedule=schedule, **how)
    assert capsys.readouterr() == ("", "")
    by_hand = Curve.between(a, a.state_dict(), b.state_dict(), 4, "PolyChain")
    optimizer = adam([by_hand.learned])
    rates = [0.02, 0.02] if schedule is None else [0.02, 0.01]
    generator = torch.Generator().manual_seed(1)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        for x, labels in few.augmented(10, generator):
            theta = by_hand.train().point(draw_t(generator))
            optimizer.zero_grad()
            (F.cross_entropy(by_hand(x, theta), labels) + 0.5 * 5e-4 * theta.square().sum()).backward()
            optimizer.step()
    torch.testing.assert_close(curve.learned, by_hand.learned, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [NetworkTask, CurveTask])
def test_what_is_robust_is_learned_on_attacked_images(data, kind):
    """Those of a curve are attacked where it is."""
    x, labels = next(data.train.batches(8))
    attack = Attack(8 / 255, 2 / 255, 2)
    learned = randomize(TinyTen(4)) if kind is NetworkTask else curve_between(*ends())
    again, generator = copy.deepcopy(learned), torch.Generator().manual_seed(3)
    task = kind(learned, attack=attack)
    output, penalty = task.forward(x, labels, data.train, torch.Generator().manual_seed(3))
    theta = () if kind is NetworkTask else (again.point(draw_t(generator)).detach(),)
    attacked = attack(lambda images: again(images, *theta), x, labels, data.train, generator)
    assert not torch.equal(attacked, x)
    torch.testing.assert_close(output, again(attacked, *theta))
    assert (penalty == 0) == (kind is NetworkTask)


def test_a_fitted_curve_is_one_of_the_published_schedule(data):
    a, b = ends()
    few = data.train.subset(torch.arange(0, 160, 8))
    curve = fit_curve(a, b, few, epochs=2, lr=0.02, batch_size=10, weight_decay=1e-3, seed=7)
    by_hand = Curve.between(copy.deepcopy(a), a.state_dict(), b.state_dict())
    fit(CurveTask(by_hand, 1e-3), few, rates=step_rates(2, 0.02), batch_size=10, seed=7)
    assert torch.equal(curve.learned, by_hand.learned)
