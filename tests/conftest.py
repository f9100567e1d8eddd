"""A small dataset and workspace that the tests share."""

import functools
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from filelock import FileLock
from matplotlib.figure import Figure
from PIL import Image
from stages import run

from utils import pam
from utils.batches import Augmentation, Images, pack
from utils.permutations import Activation, Factor, Group, PermutationSpec, Tap
from utils.stages import machine
from utils.stages.data import Data, load_data
from utils.stages.files import save_array, save_arrays
from utils.stages.layout import Layout

# So that commands that are printed begin with `python`, whether or not an environment is active
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

os.environ.pop("MAKELEVEL", None)  # stages that make starts do not say what comes next

# torch's cache of compiled kernels does not know for which instructions they are where this variable names others
if "ATEN_CPU_CAPABILITY" in os.environ:
    cache = Path(tempfile.gettempdir(), f"torchinductor_{os.environ['ATEN_CPU_CAPABILITY']}_{os.getuid()}")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))

# Tests are of the CPU, whose numbers they know, on every machine
os.environ["CUDA_VISIBLE_DEVICES"] = ""
torch.backends.mps.is_available = functools.wraps(torch.backends.mps.is_available)(lambda: False)

CLASSES, SIZE = 4, 16


# --- the suite as a whole -----------------------------------------------------------------------------------

BEGUN = time.monotonic()
GOAL = 12  # minutes for all tests on two cores


def pytest_configure(config):
    config.addinivalue_line("markers", "long: a test that takes long and is started before the others")


def pytest_collection_modifyitems(items):
    """Start with the long tests, so that no process works alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_xdist_auto_num_workers():
    """What `-n auto` means: one process per usable core, as far as memory goes (1 GB each); at least two."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**30
    return max(min(machine.usable_cores(), memory), 2)


def pytest_terminal_summary(terminalreporter, config):
    """Print how long all tests took together, where several processes shared them."""
    if workers := getattr(config.option, "numprocesses", None):
        minutes, limit = (time.monotonic() - BEGUN) / 60, float(config.getini("session_timeout")) / 60
        goal = f"goal: {GOAL} on two cores; after {limit:.0f} no more tests are started"
        terminalreporter.write_line(f"The tests took {minutes:.1f} minutes in {workers} processes ({goal}).")


# --- data and workspaces -----------------------------------------------------------------------------------


def write_image_folder(folder, train=40, test=12, size=SIZE):
    """Images of class c are noise around a bright bar at a place that depends on c: easy, but not trivial."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for c in range(CLASSES):
            (folder / split / f"class{c}").mkdir(parents=True)
            for i in range(count):
                image = generator.integers(0, 120, (size, size, 3), dtype=np.uint8)
                start = c * size // CLASSES
                image[:, start : start + size // CLASSES, c % 3] += 120
                Image.fromarray(image).save(folder / split / f"class{c}" / f"{i:03d}.png")


def write_tiny_imagenet(folder):
    """The small dataset in the form that Tiny ImageNet has once its archive is unpacked."""
    write_image_folder(folder, 3, 2)
    for path in sorted((folder / "train").iterdir()):
        (path / "images").mkdir()
        for image in path.glob("*.png"):
            image.rename(path / "images" / f"{path.name}_{image.stem}.PNG")
        (path / f"{path.name}_boxes.txt").write_text("an image and its box\n")
    (folder / "val/images").mkdir(parents=True)
    lines = []
    for number, path in enumerate(sorted((folder / "test").rglob("*.png"), key=lambda path: path.name)):
        path.rename(folder / f"val/images/val_{number}.PNG")
        lines.append(f"val_{number}.PNG\t{path.parent.name}\t0\t0\t62\t57\n")
    (folder / "val/val_annotations.txt").write_text("".join(reversed(lines)))
    shutil.rmtree(folder / "test")
    (folder / "test/images").mkdir(parents=True)
    shutil.copy(folder / "val/images/val_0.PNG", folder / "test/images/test_0.PNG")


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Gives the folder of a name, which is filled once for all processes that share the tests out."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def filled(name, fill):
        folder, done = base / name, base / f"{name}.done"
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return filled


@pytest.fixture(scope="session")
def data_path(once):
    """A folder that holds the image-folder dataset `bars`: 160 training and 48 test images of 16×16 pixels."""
    return once("data", lambda folder: write_image_folder(folder / "bars"))


@pytest.fixture(scope="session")
def warm_python():
    """An executable that runs stages as the interpreter does, and at once."""
    with warm.interpreter() as python:
        yield python


@pytest.fixture(scope="session")
def load_bars(data_path):
    """Loads the small dataset; keywords replace what `load_data` is given."""

    def load(**changes):
        arguments = {"name": "bars", "folder": data_path, "transform": "TinyTen", "threads": 2}
        return load_data(**arguments | changes)

    return load


@pytest.fixture(scope="session")
def data(load_bars):
    return load_bars()


@pytest.fixture
def flags(data_path, tmp_path):
    """Flags that make a stage use the small dataset and write under tmp_path."""
    return ["--dataset", "bars", "--data_path", str(data_path), "--root", str(tmp_path), "--batch_size", "32"]


@pytest.fixture(scope="session")
def trained(data_path, once):
    """A workspace with two networks, their match, a curve of each kind, and all paths evaluated."""

    def fill(root):
        flags = ["--dataset", "bars", "--data_path", data_path, "--root", root, "--batch_size", "32"]
        for seed in (1, 2):
            run("training/train_model.py", *flags, "--epochs", 3, "--lr_drop", 1, "--seed", seed)
        run("alignment/align_models.py", *flags, "--epochs", 3)
        for alignment in ("", "corr"):
            run("training/train_curve.py", *flags, "--epochs_model", 3, "--epochs", 2, "--alignment", alignment)
            for epochs in (0, 2):
                curve = ["--epochs_model", 3, "--epochs_curve", epochs, "--alignment", alignment, "--num_points", 5]
                run("evaluation/eval_curve.py", *flags, *curve)

    return once("trained", fill)


@pytest.fixture
def workspace(trained, tmp_path):
    """A copy of it that a test may damage."""
    shutil.copytree(trained, tmp_path / "w")
    return tmp_path / "w"


@pytest.fixture
def small(workspace, data_path):
    """Flags that make a stage go on in the workspace."""
    return ["--dataset", "bars", "--data_path", data_path, "--root", workspace, "--batch_size", "32"]


@pytest.fixture
def shown(workspace):
    """Flags of what shows results in the workspace."""
    return ["--dataset", "bars", "--root", workspace]


SAVE = Figure.savefig


@pytest.fixture(scope="session", autouse=True)
def small_figures():
    """Figures have few dots and their PDFs are empty, where a test does not ask for them as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda *a, **o: o.get("format") == "pdf" or SAVE(*a, **o | {"dpi": 30}))
        yield


@pytest.fixture
def whole_figures(monkeypatch):
    monkeypatch.setattr(Figure, "savefig", SAVE)


@pytest.fixture
def quick_pam(monkeypatch):
    """PAM tries one random rounding instead of 32, and refines one term of each group."""
    monkeypatch.setattr(pam, "DRAWS", 1)
    monkeypatch.setattr(pam, "REFINED", 1)


def data_of(classes: int) -> Data:
    """Two black images, and so many classes."""
    pixels = pack(np.zeros((2, SIZE, SIZE, 3), np.uint8))
    images = Images(pixels, torch.zeros(2, dtype=torch.int64), (SIZE, SIZE), Augmentation(), None, None)
    return Data(images, images, classes)


class Bomb:
    """What makes the folder `bomb` where a pickle of it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("bomb",)


def each_in_its_row(*orders):
    """A spec of groups that have a row each, and permutations of them: what a match of these rows is saved with."""
    axes = [((Factor(len(order), (number,)),),) for number, order in enumerate(orders)]
    rows = (
        Activation(f"row {number}", Tap("", "relu", number), Tap("", "relu", number), (1,), axis, frozenset({number}))
        for number, axis in enumerate(axes)
    )
    groups = tuple(Group(len(order)) for order in orders)
    spec = PermutationSpec(groups, {f"w{i}": (axis,) for i, axis in enumerate(axes)}, tuple(rows), ())
    return spec, [np.asarray(order) for order in orders]


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every parameter and buffer a value of its own, so that no symmetry hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            fan_in = value[0].numel() if value.dim() > 1 else 10
            value.copy_(noise * (2 / fan_in) ** 0.5 + (1 if name.endswith(("bn.weight", "bn1.weight")) else 0))
    return model


def same(a, b):
    """Bit-identical, through dictionaries and lists; NaN equals NaN."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return a == b or (a != a and b != b)


def write_results(
    root, dataset="CIFAR10", model="TinyTen", pairs=((1, 2), (3, 4)), alignments=("null", "corr"), robust=False
):
    """Results of every kind as an evaluation would leave them, with made-up numbers: lines, curves of 250 epochs."""
    generator = np.random.default_rng(0)
    layout = Layout(root, model, dataset, robust)
    for seed in {seed for pair in pairs for seed in pair}:
        for name, path in layout.model_history(seed).items():
            save_array(path, np.linspace(10, 88, 250) if name.startswith("accuracy") else np.linspace(2, 0.4, 250))
    t = np.linspace(0, 1, 9)
    bezier = np.stack([(1 - t) ** 2, t**2, 2 * t * (1 - t)], axis=1)  # of A, B and the turning point
    for alignment, (a, b) in itertools.product(alignments, pairs):
        corners = np.array([[0, 0], [20 + a, 0], [10, 5 + generator.random()]])
        for epochs in (0, 250):
            settings = {
                "epochs_model": 250,
                "use_test": True,
                "points": [f"A{a}", f"{alignment}{epochs}", f"B{b}"],
            }
            settings = np.array(json.dumps(settings))
            coordinates = bezier @ corners if epochs else np.outer(t, corners[1])
            length = np.concatenate([[0], np.linalg.norm(np.diff(coordinates, axis=0), axis=1).cumsum()])
            accuracy = 88 - (20 if epochs else 60) * t * (1 - t) * (0.2 if alignment == "corr" else 1) - a / 10
            arrays = {"t": t, "length": length, "coordinates": coordinates}
            for kind in ("", "_robust") if robust else ("",):
                arrays |= {f"accuracy{kind}": accuracy, f"loss{kind}": 3 - accuracy / 40}
            save_arrays(layout.evaluated(alignment, a, b, epochs), settings=settings, **arrays)
            ends = {f"{w}_{end}": generator.random(9) for w in ("unaligned", "aligned") for end in "ab"}
            save_arrays(layout.along_curve(alignment, a, b, epochs, 0.5), settings=settings, **ends)
        history = {"loss_train": np.linspace(2, 0.5, 250), "accuracy_train": np.linspace(40, 85, 250)}
        save_arrays(layout.curve_history(alignment, a, b), **history)
        if robust:
            continue  # robust networks have no planes
        x, y = np.meshgrid(np.linspace(-1, 22 + a, 5), np.linspace(-0.5, 8, 6))
        plane = {"x": x, "y": y, "accuracy": 88 - (y - 3) ** 2, "loss": 0.3 + (y - 3) ** 2 / 20, "corners": corners}
        save_arrays(layout.plane_with_curve(alignment, a, b, 250), settings=settings, **plane)
        if alignment != "null":
            save_arrays(layout.plane_with_alignment(alignment, a, b), settings=settings, **plane)
            for which in ("unaligned", "aligned"):
                save_array(layout.correlation(alignment, which, a, b), generator.random(9))
    return layout
