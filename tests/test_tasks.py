"""Data of a user's own, tasks other than classification, and other optimizers, through the stages."""

import numpy as np
import pytest
import torch
from stages import fails, run
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, TensorDataset

from models import builder
from utils.batches import Loader
from utils.errors import UserError
from utils.permutations import rotates
from utils.stages.data import ALIGNMENT_IMAGES
from utils.stages.layout import Layout, dataset_folder
from utils.stages.matches import load_match
from utils.stages.originals import load_checkpoint
from utils.stages.samples import load_samples, read_arrays
from utils.training import NetworkTask, fit

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40, dtype=torch.int32) % 3
WHOLE = TensorDataset(X, LABELS)

PROJECT = """
import torch
from torch import nn
from torch.nn import functional as F

TOKENS = torch.randint(1, 11, (60, 7), generator=torch.Generator().manual_seed(0))
TOKENS[:, 1::2] = 11 - TOKENS[:, :-1:2]  # every second token follows from the one before it


def rows(part):
    mask = torch.ones_like(part)
    mask[::2, 5:] = 0  # every second row is padded
    return [{"input_ids": row, "attention_mask": keep} for row, keep in zip(part, mask)]


def text():
    return [torch.utils.data.DataLoader(rows(part), 5, shuffle=True) for part in (TOKENS[:48], TOKENS[48:])]


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.hidden, self.head = nn.Embedding(11, 12), nn.Linear(12, 16), nn.Linear(16, 11)

    def forward(self, input_ids, attention_mask=None):
        return {"logits": self.head(torch.relu(self.hidden(self.inner(input_ids))))}


def mlp():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


def huber(output, batch):
    x, y = batch
    return F.huber_loss(output, y, reduction="none").mean(1), {"within": (output - y).abs().mean(1) < 0.5}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    (folder / "own.py").write_text(PROJECT)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, 6))
    y = np.stack([x[:, 0] + x[:, 1], x[:, 2] - x[:, 3]], 1)
    np.savez(folder / "numbers.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return folder


def all_of(model, dataset, task, root):
    """Train two networks, align them, connect them, evaluate the curve and the line."""
    flags = ["--model", model, "--dataset", dataset, "--task", task, "--root", root, "--batch_size", 16]
    adamw = ["--optimizer", "adamw", "--lr", 0.01]
    for seed in (1, 2):
        run("training/train_model.py", *flags, *adamw, "--seed", seed, "--epochs", 2)
    for method in ("corr", "weight"):
        run("alignment/align_models.py", *flags, "--epochs", 2, "--method", method)
    path = [*flags, "--alignment", "corr", "--epochs_model", 2]
    run("training/train_curve.py", *path, *adamw, "--epochs", 1, "--val_freq", 1)
    for epochs in (0, 1):
        run("evaluation/eval_curve.py", *path, "--epochs_curve", epochs, "--num_points", 3)
    run("evaluation/eval_plane_with_curve.py", *path, "--epochs_curve", 1, "--num_points", 3)
    run("evaluation/export_point.py", *path, "--epochs_curve", 0, "--out", root / "middle.pt")
    return Layout(root, model, dataset)


def loaded(layout, seed):
    network = builder(layout.model)(None, None)
    network.load_state_dict(load_checkpoint(layout.endpoint(seed, 2))["model_state"])
    return network.eval()


@pytest.mark.parametrize("task", ["regression", "huber"])
def test_numbers_are_fitted_from_arrays(project, tmp_path, capsys, task):
    """Losses are those of the networks at the ends, and no accuracy is made up in files, tables and figures."""
    task = task if task == "regression" else f"{project}/own.py:huber"
    layout = all_of(f"{project}/own.py:mlp", f"{project}/numbers.npz", task, tmp_path)
    measured = np.load(layout.evaluated("corr", 1, 2, 1))
    with np.load(project / "numbers.npz") as arrays:
        x, y = (torch.tensor(arrays[name], dtype=torch.float32) for name in ("x_test", "y_test"))
    loss = F.mse_loss if task == "regression" else F.huber_loss
    expected = [loss(loaded(layout, seed)(x), y).item() for seed in (1, 2)]
    np.testing.assert_allclose(measured["loss"][[0, -1]], expected, rtol=1e-5)
    metric = "absolute_error" if task == "regression" else "within"
    assert {"loss", metric} < set(measured)
    assert not any("accuracy" in name for name in measured)
    found = sorted(path.name for path in layout.folder("model_history").glob("*_seed_01.npy"))
    assert found == sorted(f"{name}_{split}_seed_01.npy" for name in ("loss", metric) for split in ("train", "test"))
    assert set(np.load(layout.curve_history("corr", 1, 2))) > {"loss_test_at_0.5", f"{metric}_test_at_0.5"}

    for script in ("evaluation/make_tables.py", "evaluation/compare_alignments.py"):
        capsys.readouterr()
        run(script, "--root", tmp_path)
        table = capsys.readouterr().out
        assert "barrier" in table
        assert not any("accuracy" in line for line in table.splitlines() if line.startswith("|"))
    shown = ["--model", layout.model, "--dataset", layout.dataset, "--root", tmp_path, "--alignment", "corr"]
    run("visualization/viz_curve.py", *shown, "--epochs", 0, 1)
    run("visualization/viz_curve_on_plane.py", *shown, "--epochs", 1)
    drawn = {path.name.split("_numbers")[0] for path in (tmp_path / "figures").glob("*.png")}
    assert drawn >= {"curve", "training", "training_networks", "plane_with_curve_loss"}


def test_next_tokens_are_predicted_from_dictionaries(project, tmp_path):
    """The loss at an end is cross-entropy of each token that counts, given the one before it; padding counts not."""
    layout = all_of(f"{project}/own.py:Language", f"{project}/own.py:text", "language", tmp_path)
    measured = np.load(layout.evaluated("corr", 1, 2, 0))
    assert {"loss", "accuracy"} < set(measured)
    names: dict = {}
    exec(PROJECT, names)
    test = names["rows"](names["TOKENS"][48:])
    for end, seed in ((0, 1), (-1, 2)):
        network, losses = loaded(layout, seed), []
        for row in test:
            count = int(row["attention_mask"].sum())
            logits = network(row["input_ids"][None])["logits"][0]
            losses.append(F.cross_entropy(logits[: count - 1], row["input_ids"][1:count], reduction="none"))
        assert measured["loss"][end] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    flags = ["--model", layout.model, "--dataset", layout.dataset, "--task", "language", "--root", tmp_path]
    run("alignment/align_models.py", *flags, "--epochs", 2, "--method", "weight", "--rotations")
    match = load_match(layout.match("weight_rotations", 1, 2))
    assert "invertible" in match.spec.kinds  # the embedding's units
    assert any(rotates(one) for one in match.unseen.values())
    line = [*flags, "--alignment", "weight_rotations", "--epochs_model", 2, "--epochs_curve", 0, "--num_points", 3]
    run("evaluation/eval_curve.py", *line)
    rotated = np.load(layout.evaluated("weight_rotations", 1, 2, 0))
    np.testing.assert_allclose(rotated["loss"][[0, -1]], measured["loss"][[0, -1]], rtol=1e-5)


def test_a_task_and_its_definition_decide_an_outcome(project, tmp_path, capsys):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.py").write_text(PROJECT)
    flags = ["--model", f"{project}/own.py:mlp", "--dataset", f"{project}/numbers.npz", "--root", tmp_path]
    train = ["training/train_model.py", *flags, "--epochs", 2, "--batch_size", 16]
    run(*train, "--task", f"{folder}/own.py:huber")
    assert "task own.py=huber=" in fails(capsys, *train, "--task", "regression")[1]
    (folder / "own.py").write_text(PROJECT.replace("< 0.5", "< 0.25"))
    assert "another definition of the task" in fails(capsys, *train, "--task", f"{folder}/own.py:huber")[1]


@pytest.mark.parametrize(
    ("script", "flags", "said"),
    [
        ("training/train_model.py", (), "has no targets that are classes"),
        ("training/train_model.py", ("--task", "Regression"), "'Regression' is none of classification, regression, "),
        ("training/train_model.py", ("--task", "nothing.py:f"), "there is no file nothing.py"),
        (
            "training/train_model.py",
            ("--task", "regression", "--transform", "TinyTen"),
            "without --transform TinyTen",
        ),
        (
            "training/train_model.py",
            ("--task", "regression", "--image_size", "8"),
            "seen as it is, without --image_size",
        ),
        ("training/train_model_adversarial.py", (), "seen as it is, without adversarial attacks"),
        ("evaluation/eval_curve.py", ("--task", "regression", "--ensemble", "3"), "means of probabilities are for"),
    ],
)
def test_what_own_data_cannot_be_is_said_in_a_line(project, tmp_path, capsys, script, flags, said):
    own = ["--model", f"{project}/own.py:mlp", "--dataset", f"{project}/numbers.npz", "--root", tmp_path]
    assert said in fails(capsys, script, *own, *flags)[1]


# --- data --------------------------------------------------------------------------------------------------


def load(train, test=WHOLE, task="classification", **changes):
    return load_samples("own", lambda: (train, test), task=task, use_test=True, **changes)


def test_one_digest_whatever_serves_the_samples():
    """The order in which a loader would shuffle them is none of the samples'; a label, or one number, is."""
    forms = ((X, LABELS), WHOLE, DataLoader(WHOLE, 7, shuffle=True), DataLoader(WHOLE, 3))
    digests = {load(form).digest for form in forms}
    assert len(digests) == 1
    changed = X.clone()
    changed[3, 2] += 1e-6
    other = LABELS.clone()
    other[-1] += 1
    digests |= {load((changed, LABELS)).digest, load((X, other)).digest, load((X, LABELS), (changed, LABELS)).digest}
    assert len(digests) == 4


def test_a_loader_that_chooses_samples_keeps_its_own():
    plain = load(DataLoader(WHOLE, 7, shuffle=True))
    assert len(plain.train) == 40
    assert sum(len(x) for x, _ in plain.train.some(9).batches(4)) == 9
    for sampler in (SubsetRandomSampler(range(5)), RandomSampler(WHOLE, replacement=True, num_samples=5)):
        chosen = load(DataLoader(WHOLE, 2, sampler=sampler))
        assert isinstance(chosen.train, Loader)
        assert sum(len(x) for x, _ in chosen.train.batches()) == 5
        assert sum(len(x) for x, _ in chosen.train.some(3).batches()) == 4  # in whole batches
    with pytest.raises(UserError, match="gives batches, of which none can be held out"):
        load_samples(
            "own", lambda: (DataLoader(WHOLE, sampler=sampler), WHOLE), task="classification", use_test=False
        )


def test_data_that_are_others_at_each_reading_are_refused():
    class Drifting:
        count = 0

        def __iter__(self):
            Drifting.count += 1
            yield X + Drifting.count, LABELS

    class Noisy(TensorDataset):
        def __getitem__(self, index):
            return X[index] + torch.randn(6), LABELS[index]

    with pytest.raises(UserError, match="own gives other samples each time it is read"):
        load(Drifting())
    state = torch.get_rng_state()
    assert load(Noisy(X, LABELS)).digest == load(Noisy(X, LABELS)).digest  # drawn alike
    assert torch.equal(state, torch.get_rng_state())
    for odd in (lambda: WHOLE, lambda: (WHOLE, 3), lambda: (WHOLE, TensorDataset(X[:0], LABELS[:0]))):
        with pytest.raises(UserError, match=r"^own "):
            load_samples("own", odd, task="classification", use_test=True)


@pytest.mark.parametrize(
    ("task", "target", "classes"),
    [
        ("classification", LABELS, 3),
        ("classification", LABELS[:, None], 3),
        ("multilabel", torch.zeros(40, 5), 5),
        ("segmentation", torch.tensor([0, 3, 255, -100] * 10).view(40, 1, 1).expand(40, 2, 2), 4),
        ("regression", X, 6),
        ("regression", X[:, 0], 1),
        ("language", LABELS[:, None].expand(40, 6), None),
        (max, LABELS, 3),  # a function
        (max, X, 6),
        (max, LABELS.view(40, 1, 1).expand(40, 2, 2), 3),
    ],
)
@pytest.mark.parametrize("form", ["tuple", "dictionary"])
def test_what_is_known_of_targets(task, target, classes, form):
    data = (X, target) if form == "tuple" else {"x": X, "labels": target}
    assert load(data, data, task).num_classes == classes


def test_held_out_samples_are_none_of_those_trained_on():
    x = torch.arange(200.0)[:, None]
    data = load_samples("own", lambda: ((x, x), (x, x)), task="regression", use_test=False)
    train, test = (torch.cat([batch[0] for batch in part.batches(30)]) for part in (data.train, data.test))
    assert (len(train), len(test)) == (180, 20)
    assert torch.equal(torch.cat([train, test]).sort(0).values, x)
    assert len(data.alignment) == min(180, ALIGNMENT_IMAGES)
    assert len(data.for_batch_norm(7)) == 7


def test_arrays_of_any_type(tmp_path):
    generator = np.random.default_rng(0)
    pixels, bits = generator.integers(0, 256, (5, 12, 4, 4), np.uint8), generator.integers(0, 2, (5, 3)) > 0
    np.savez(tmp_path / "images.npz", train_images=pixels, train_labels=bits, test_images=pixels, test_labels=bits)
    (x, y), _ = read_arrays(tmp_path / "images.npz")
    torch.testing.assert_close(x, torch.from_numpy(pixels) / 255)
    assert torch.equal(y, torch.from_numpy(bits))
    for shape, channels in (((5, 8, 9), 1), ((5, 8, 9, 3), 3), ((5, 4, 8, 9), 4), ((5, 8, 9, 1), 1)):
        grey = generator.integers(0, 256, shape, np.uint8)
        np.savez(tmp_path / "pixels.npz", x_train=grey, x_test=grey)
        x, _ = read_arrays(tmp_path / "pixels.npz")
        assert x.shape == (5, channels, 8, 9)
        expected = grey.reshape(shape[0], channels, 8, 9) if shape[-1] != 3 else grey.transpose(0, 3, 1, 2)
        torch.testing.assert_close(x, torch.from_numpy(np.ascontiguousarray(expected)) / 255)
    tokens = np.arange(20, dtype=np.uint16).reshape(5, 4)
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}_input_ids.npy", tokens)
        np.save(tmp_path / f"attention_mask_{split}.npy", tokens > 3)
    train, test = read_arrays(tmp_path)
    assert train.keys() == test.keys() == {"input_ids", "attention_mask"}
    assert torch.equal(train["input_ids"], torch.arange(20).view(5, 4))
    np.savez(tmp_path / "x.npz", train_x=tokens.astype(np.float16), test_x=tokens.astype(np.float64))
    assert [part.dtype for part in read_arrays(tmp_path / "x.npz")] == [torch.float32, torch.float32]
    np.savez(tmp_path / "odd.npz", x=tokens)
    with pytest.raises(UserError, match="holds no arrays with the names of both splits"):
        read_arrays(tmp_path / "odd.npz")


def test_folders_of_own_data_are_short_and_their_own(tmp_path):
    long = tmp_path / ("图像" * 30) / f"{'据' * 70}.py"
    long.parent.mkdir()
    (tmp_path / "own.py").touch()
    long.touch()
    names = [f"{long}:text", f"{long}:other", f"{tmp_path}/own.py:text", f"{tmp_path}/a.npz", f"{tmp_path}/b/a.npz"]
    folders = [dataset_folder(name) for name in [*names, "json.decoder:JSONDecoder", "CIFAR10"]]
    assert len(set(folders)) == 7
    assert all(len(folder.encode()) < 120 and dataset_folder(folder) == folder for folder in folders)
    assert folders[-1] == "CIFAR10"


# --- optimizers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "decay"), [("adam", 0.0), ("adam", 0.1), ("adamw", 0.1)])
def test_steps_are_those_of_the_optimizer_that_is_named(name, decay):
    network = nn.Linear(6, 3)
    before = [value.detach().clone() for value in network.parameters()]
    F.cross_entropy(network(X), LABELS.long()).backward()
    gradients = [value.grad.clone() for value in network.parameters()]
    fit(NetworkTask(network), WHOLE, rates=[0.01], batch_size=40, optimizer=name, weight_decay=decay)
    for old, gradient, new in zip(before, gradients, network.parameters(), strict=True):
        gradient = gradient + decay * old if name == "adam" else gradient
        kept = old * (1 - 0.01 * decay) if name == "adamw" else old
        expected = kept - 0.01 * gradient / (gradient.abs() + 1e-8)  # the first step, of which moments are corrected
        torch.testing.assert_close(new.detach(), expected, rtol=1e-4, atol=1e-6)


def test_decoupled_decay_of_a_curve(project, tmp_path):
    """A step of adamw shrinks the control point by η·λ, and moves it by at most η besides, as no penalty would."""
    flags = ["--model", f"{project}/own.py:mlp", "--dataset", f"{project}/numbers.npz", "--task", "regression"]
    flags += ["--root", tmp_path, "--batch_size", 60, "--epochs", 1, "--optimizer", "adamw"]
    for seed in (1, 2):
        run("training/train_model.py", *flags, "--seed", seed)
    run("training/train_curve.py", *flags, "--epochs_model", 1, "--wd", 100)  # at the rate that adamw has by default
    layout = Layout(tmp_path, flags[1], flags[3])
    old, new = (load_checkpoint(layout.curve("", 1, 2, epochs)) for epochs in (0, 1))
    for name, value in new["points"][1].items():
        torch.testing.assert_close(value, 0.9 * old["model_state"][name], rtol=0, atol=1.01e-3)
