"""What the benchmark compares: the same work done by this repository and the conventional way (conventional.py)."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import conventional
from models import MODELS, TinyTen, tinyten
from utils import matching
from utils.attack import Attack
from utils.batches import Images, unpack
from utils.curves import Curve
from utils.devices import autocast
from utils.losses import classification
from utils.measuring import evaluate, reestimate_batch_norm
from utils.pam import PermutationTask
from utils.stages.data import REPOSITORY_DATA, Data, load_data
from utils.stages.records import Record
from utils.stages.runs import Run
from utils.symmetries.spec import permutation_spec
from utils.training import CurveTask, NetworkTask, fit, step_rates

Work = Callable[[], object]

WEIGHT_DECAY = 5e-4
ATTACK = Attack(8 / 255, 2 / 255, 5)  # the published one of CIFAR-10


def embedded_data(device: torch.device | str = "cpu") -> Data:
    """The images that come with the repository. It is the CPU that is compared, whatever else the machine has."""
    return load_data("FashionMNIST10k", folder=REPOSITORY_DATA, transform="TinyTen", device=device)


def network(seed: int, classes: int, name: str = "TinyTen") -> nn.Module:
    torch.manual_seed(seed)
    return MODELS[name](classes)


def as_arrays(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (n, H, W, 3) and labels (n,)."""
    height, width = images.size
    pixels = unpack(images.packed(slice(None))[:, :-1], height, width)
    return pixels.permute(0, 2, 3, 1).numpy(), images.labels.numpy()


# --- both ways ---------------------------------------------------------------------------------------------


class Ours:
    """The stages' own functions on `images` training images, with what they need besides.

    folder: where runs keep their files.
    """

    def __init__(self, images: int, folder: Path, *, precision: str, compiled: bool):
        self.folder, self.precision = folder, precision
        data = embedded_data()
        self.data = Data(data.train.subset(torch.arange(images)), data.test, data.num_classes)
        self.states = [network(seed, data.num_classes).state_dict() for seed in (1, 2)]
        self.runs = 0
        self.model = network(1, data.num_classes).to(memory_format=torch.channels_last)
        self._curve = Curve(network(1, data.num_classes).to(memory_format=torch.channels_last))
        if compiled:
            self.model.compile(dynamic=False)
            self._curve.compile()

    def run(self) -> Run:
        """The files of a run that nobody has begun."""
        self.runs += 1
        stem = self.folder / f"run{self.runs}"
        return Run(stem, Record(), 1, 1, stem.with_suffix(".npz"))

    def curve(self) -> Curve:
        curve = self._curve
        curve.set_point(0, self.states[0])
        curve.set_point(2, self.states[1])
        curve.init_linear()
        curve.learned.requires_grad_(True)
        return curve

    def train_epoch(self) -> None:
        self.model.load_state_dict(self.states[0])
        fit(
            NetworkTask(self.model),
            self.data.train,
            self.run(),
            rates=step_rates(1),
            weight_decay=WEIGHT_DECAY,
            precision=self.precision,
        )

    def curve_epoch(self) -> None:
        task = CurveTask(self.curve(), WEIGHT_DECAY)
        fit(task, self.data.train, self.run(), rates=step_rates(1), precision=self.precision)

    def evaluate_point(self) -> None:
        model = self.curve().place(0.5)
        reestimate_batch_norm(model, self.data.train, precision=self.precision)
        evaluate(model, self.data.test, precision=self.precision)

    def pam_epoch(self) -> None:
        curve = self.curve()
        phi = torch.zeros_like(curve.row(0))
        task = PermutationTask(curve, permutation_spec(curve.base), self.states[1], phi)
        fit(task, self.data.train, self.run(), rates=[0.05], momentum=0.0, precision=self.precision)

    def robust_epoch(self) -> None:
        self.model.load_state_dict(self.states[0])
        task = NetworkTask(self.model, attack=ATTACK)
        fit(task, self.data.train, self.run(), rates=[0.01], precision=self.precision)

    def training_kernels(self) -> None:
        """The network's own part of an epoch: forward and backward, on one batch again and again."""
        x, labels = next(self.data.train.augmented(128, torch.Generator().manual_seed(0)))
        self.model.train()
        for _ in range(0, len(self.data.train), 128):
            with autocast(x.device, self.precision):
                loss = torch.nn.functional.cross_entropy(self.model(x), labels)
            self.model.zero_grad()
            loss.backward()

    @torch.no_grad()
    def evaluation_kernels(self) -> None:
        """The network's own part of evaluating a point."""
        x, _ = next(self.data.train.augmented(512, torch.Generator().manual_seed(0)))
        for images, is_training in ((self.data.train, True), (self.data.test, False)):
            self.model.train(is_training)
            for start in range(0, len(images), 512):
                with autocast(x.device, self.precision):
                    self.model(x[: len(images) - start])

    def batches(self) -> None:
        """One epoch of augmented batches and nothing done with them."""
        for _ in self.data.train.augmented(128, torch.Generator().manual_seed(0)):
            pass


class Conventional:
    """The same, written the conventional way."""

    def __init__(self, data: Data):
        train, test = (as_arrays(images) for images in (data.train, data.test))
        moments = [values.flatten().tolist() for values in (data.train.mean, data.train.std)]
        self.train = conventional.loader(*train, *moments, train=True, batch_size=128)
        self.for_batch_norm = conventional.loader(*train, *moments, train=True, batch_size=512)
        self.test = conventional.loader(*test, *moments, train=False, batch_size=512)
        self.classes = data.num_classes
        networks = [network(seed, self.classes) for seed in (1, 2)]
        self.a, self.b = ({name: p.detach() for name, p in model.named_parameters()} for model in networks)
        self.points = (self.a, {name: (p + self.b[name]) / 2 for name, p in self.a.items()}, self.b)

    def train_epoch(self) -> None:
        conventional.train_epoch(TinyTen(self.classes), self.train)

    def curve_epoch(self) -> None:
        conventional.curve_epoch(TinyTen(self.classes), self.points, self.train)

    def evaluate_point(self) -> None:
        conventional.evaluate_point(TinyTen(self.classes), self.points, 0.5, self.for_batch_norm, self.test)

    def pam_epoch(self) -> None:
        conventional.pam_epoch(TinyTen(self.classes), self.a, self.b, self.train)


def alignments(count: int) -> dict[str, Work]:
    """Both ways to align two networks on `count` images (the embedded ones, repeated), and their forward passes."""
    data = embedded_data()
    images = data.train.subset(torch.arange(count) % len(data.train))
    networks = [network(seed, data.num_classes).eval() for seed in (1, 2)]
    moments = [values.flatten().tolist() for values in (images.mean, images.std)]
    batches = conventional.loader(*as_arrays(images), *moments, train=False, batch_size=512)

    def ours() -> None:
        a, b = (model.to(memory_format=torch.channels_last) for model in networks)
        spec = permutation_spec(a)
        matching.assign_groups(spec, matching.cross_correlations(a, b, spec, images.batches(512)))

    def conventionally() -> None:
        conventional.align(*(model.to(memory_format=torch.contiguous_format) for model in networks), batches)

    @torch.no_grad()
    def forward() -> None:
        a, b = (model.to(memory_format=torch.channels_last) for model in networks)
        for x, _ in images.batches(512):
            a(x), b(x)

    return {"ours": ours, "conventional": conventionally, "forward": forward}


# --- ours, by size -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def widened(factor: int) -> Iterator[None]:
    """In this block TinyTen has `factor` times as many channels in every layer."""
    before = tinyten.LAYERS
    tinyten.LAYERS = tuple((channels * factor, *rest) for channels, *rest in before)
    try:
        yield
    finally:
        tinyten.LAYERS = before


def curve_step(name: str, data: Data) -> tuple[int, Work]:
    """The parameters of an architecture, and a step of learning a curve of it on 128 images."""
    base = MODELS[name](data.num_classes).to(memory_format=torch.channels_last)
    curve = Curve.between(base, base.state_dict(), base.state_dict()).train()
    x, labels = next(data.train.augmented(128, torch.Generator().manual_seed(0)))

    def step() -> None:
        theta = curve.point(0.3)
        loss = classification(curve(x, theta), labels).objective(len(x))
        loss = loss + 0.5 * WEIGHT_DECAY * theta.square().sum()
        curve.zero_grad()
        loss.backward()

    return len(curve.flat), step


def sizes(ours: Ours) -> dict[str, dict[str, Work]]:
    """What is timed against size, in fp32: by what grows, and by its values."""

    def points(count: int) -> Work:
        return lambda: [ours.evaluate_point() for _ in range(count)]

    data = ours.data
    works: dict[str, dict[str, Work]] = {
        "alignment, by images": {f"{n:,}": alignments(n)["ours"] for n in (2_500, 5_000, 10_000)},
        "curve evaluated, by points": {str(n): points(n) for n in (1, 2, 4)},
        "curve step, by width of TinyTen": {},
        "curve step, by parameters": {},
    }
    for factor in (1, 2, 4):
        with widened(factor):
            works["curve step, by width of TinyTen"][f"×{factor}"] = curve_step("TinyTen", data)[1]
    for name in MODELS:
        parameters, step = curve_step(name, data)
        works["curve step, by parameters"][f"{parameters:,} ({name})"] = step
    return works
