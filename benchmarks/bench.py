"""Measure this repository against the conventional way (conventional.py), interleaved in one run on one machine.

python benchmarks/bench.py --rounds 3
"""

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks import conventional
from models import MODELS, TinyTen, tinyten
from training import train_curve, train_curve_pam, train_model
from utils import alignment, checkpoint, evaluation, pam, training
from utils.curves import Curve
from utils.data import Data, Images, load_data
from utils.permutations import permutation_spec

RESULTS = Path(__file__).resolve().parent.parent / "results" / "bench"
MEMORY_IMAGES = (1_000, 10_000, 50_000)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="repeats of everything, interleaved")
    add("--out", type=Path, default=RESULTS, help="folder of the results")
    add("--images", type=int, default=6_400, help="training images of an epoch that is timed")
    add("--measure_memory", choices=("ours", "conventional"), help=argparse.SUPPRESS)  # in a process of its own
    return parser.parse_args(argv)


# --- what is compared --------------------------------------------------------------------------------------


# Ours, as the flags --precision and --compile make it
WAYS = {"fp32": ("fp32", False), "bf16": ("bf16", False), "fp32c": ("fp32", True), "bf16c": ("bf16", True)}


class Ours:
    """The stages' own functions on `images` training images, with what they need besides."""

    def __init__(self, images: int, precision: str, is_compiled: bool, folder: Path):
        flags = ["--epochs", "1", "--precision", precision, "--root", str(folder)]
        self.folder, self.precision = folder, precision
        self.model_args = train_model.parse_args([*flags, "--val_freq", "none"])
        self.curve_args = train_curve.parse_args(flags)
        pam_flags = ["--inner_iters_perm", "1", "--inner_iters_phi", "1", *flags[2:]]
        self.pam_args = train_curve_pam.parse_args(pam_flags)
        data = load_data(self.model_args)
        self.data = Data(data.train.subset(torch.arange(images)), data.test, data.num_classes)
        self.states = [network(seed, data.num_classes).state_dict() for seed in (1, 2)]
        self.runs = 0
        self.model = network(1, data.num_classes).to(memory_format=torch.channels_last)
        self._curve = Curve(network(1, data.num_classes).to(memory_format=torch.channels_last))
        if is_compiled:
            self.model.compile(dynamic=False)
            self._curve.compile()

    def run(self) -> training.Run:
        """The files of a run that nobody has begun."""
        self.runs += 1
        stem = self.folder / f"run{self.runs}"
        return training.Run(stem, {}, 1, 1, stem.with_suffix(".npz"))

    def curve(self) -> Curve:
        curve = self._curve
        curve.set_point(0, self.states[0])
        curve.set_point(2, self.states[1])
        curve.init_linear()
        curve.learned.requires_grad_(True)
        return curve

    def train_epoch(self) -> None:
        args, model = self.model_args, self.model
        model.load_state_dict(self.states[0])
        training.fit(
            self.run(),
            args,
            self.data.train,
            model,
            lambda x, labels, generator: (model(x), 0.0),
            pack=lambda: {"model_state": model.state_dict()},
            unpack=lambda state: None,
            validate=dict,
            val_freq=None,
            schedule=training.schedule_of(args),
            weight_decay=args.wd,
        )

    def curve_epoch(self) -> None:
        training.fit_curve(self.run(), self.curve_args, self.data, self.curve(), None)

    def evaluate_point(self) -> None:
        model = self.curve().place(0.5)
        evaluation.reestimate_batch_norm(model, self.data.train, 512, self.precision)
        evaluation.evaluate(model, self.data.test, 512, self.precision)

    def pam_epoch(self) -> None:
        curve = self.curve()
        spec = permutation_spec(curve.base)
        soft = pam.SoftPermutation(spec)
        parameters = {name: self.states[1][name] for name in curve.flat.shapes}

        def forward(x, labels, generator):
            t = training.draw_t(generator)
            theta = pam.point(t, curve.row(0), soft(parameters, curve.flat), torch.zeros(()))
            return curve(x, theta), 0.5 * self.pam_args.wd * theta.square().sum()

        curve.learned.requires_grad_(False)
        training.fit(
            self.run(),
            self.pam_args,
            self.data.train,
            torch.nn.ModuleDict({"soft": soft, "curve": curve}),
            forward,
            pack=lambda: {"soft": soft.state_dict(), "model_state": curve.base.state_dict()},
            unpack=lambda state: None,
            validate=dict,
            val_freq=None,
            schedule=lambda epoch: 0.05,
            momentum=0.0,
            after_step=soft.proximal_step,
        )

    def training_kernels(self) -> None:
        """The network's own part of an epoch: forward and backward, on one batch again and again."""
        x, labels = next(self.data.train.augmented(128, torch.Generator().manual_seed(0)))
        self.model.train()
        for _ in range(0, len(self.data.train), 128):
            with evaluation.autocast(x.device, self.precision):
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
                with evaluation.autocast(x.device, self.precision):
                    self.model(x[: len(images) - start])

    def batches(self) -> None:
        """One epoch of augmented batches and nothing done with them."""
        for _ in self.data.train.augmented(128, torch.Generator().manual_seed(0)):
            pass


class Conventional:
    def __init__(self, ours: Ours):
        train, test = (as_arrays(images) for images in (ours.data.train, ours.data.test))
        moments = [values.flatten().tolist() for values in (ours.data.train.mean, ours.data.train.std)]
        self.train = conventional.loader(*train, *moments, train=True, batch_size=128)
        self.for_batch_norm = conventional.loader(*train, *moments, train=True, batch_size=512)
        self.test = conventional.loader(*test, *moments, train=False, batch_size=512)
        self.classes = ours.data.num_classes
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


def network(seed: int, classes: int) -> TinyTen:
    torch.manual_seed(seed)
    return TinyTen(classes)


def as_arrays(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (n, H, W, 3) and labels (n,)."""
    height, width = images.size
    pixels = images.pixels[:, :-1].contiguous().view(torch.uint8).view(-1, height, width, 4)
    return pixels[..., :3].numpy(), images.labels.numpy()


def alignments(count: int) -> dict[str, Callable[[], object]]:
    """Both ways to align two networks on `count` images (the embedded ones, repeated)."""
    args = train_model.parse_args([])
    data = load_data(args)
    images = data.train.subset(torch.arange(count) % len(data.train))
    networks = [network(seed, data.num_classes).eval() for seed in (1, 2)]
    moments = [values.flatten().tolist() for values in (images.mean, images.std)]
    batches = conventional.loader(*as_arrays(images), *moments, train=False, batch_size=512)

    def ours() -> None:
        channels_last = [model.to(memory_format=torch.channels_last) for model in networks]
        spec = permutation_spec(networks[0])
        matrices = alignment.cross_correlations(*channels_last, spec.rows, (x for x, _ in images.batches(512)))
        alignment.align(spec, matrices)

    def conventionally() -> None:
        conventional.align(*(model.to(memory_format=torch.contiguous_format) for model in networks), batches)

    return {"ours": ours, "conventional": conventionally}


@contextlib.contextmanager
def widened(factor: int):
    """In this block TinyTen has `factor` times as many channels in every layer."""
    before = tinyten.LAYERS
    tinyten.LAYERS = tuple((channels * factor, *rest) for channels, *rest in before)
    try:
        yield
    finally:
        tinyten.LAYERS = before


def curve_step(name: str, data: Data) -> tuple[int, Callable[[], None]]:
    """The parameters of an architecture, and a step of learning a curve of it on 128 images."""
    base = MODELS[name](data.num_classes).to(memory_format=torch.channels_last)
    curve = Curve(base).train()
    for index in (0, 2):
        curve.set_point(index, base.state_dict())
    curve.init_linear()
    x, labels = next(data.train.augmented(128, torch.Generator().manual_seed(0)))

    def step() -> None:
        theta = curve.point(0.3)
        loss = training.objective(curve(x, theta), labels, len(x)) + 0.5 * 5e-4 * theta.square().sum()
        curve.zero_grad()
        loss.backward()

    return len(curve.flat), step


def sizes(ours: Ours) -> dict[str, dict[str, Callable[[], object]]]:
    """What is timed against size, in fp32: by what grows, and by its values."""

    def points(count: int) -> Callable[[], None]:
        return lambda: [ours.evaluate_point() for _ in range(count)]

    data = ours.data
    works: dict[str, dict[str, Callable[[], object]]] = {
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


# --- measuring ---------------------------------------------------------------------------------------------


def seconds(work: Callable[[], object]) -> float:
    with contextlib.redirect_stdout(io.StringIO()):  # the stages tell of their epochs
        start = time.perf_counter()
        work()
        return time.perf_counter() - start


def interleaved(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each work in each round, the works taking turns; one round before that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            time_taken = seconds(work)
            if number:
                taken[name].append(time_taken)
    return taken


def peak_memory(which: str, images: int) -> float:
    """MB by which aligning grows the memory of a process that has loaded the images, at its peak."""
    command = [sys.executable, __file__, "--measure_memory", which, "--images", str(images)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(which: str, images: int) -> float:
    work = alignments(images)[which]
    alignments(128)[which]()  # so that what the libraries load at first use does not count
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten (Linux)
    before = _memory("VmRSS")
    work()
    return _memory("VmHWM") - before


def _memory(name: str) -> float:
    """This process' resident memory in MB: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def main(args):
    if args.measure_memory:
        print(measure_memory(args.measure_memory, args.images))
        return
    torch._dynamo.config.recompile_limit = 64  # as with --compile
    with tempfile.TemporaryDirectory() as folder:
        ours = {name: Ours(args.images, *way, Path(folder) / name) for name, way in WAYS.items()}
        plain = Conventional(ours["fp32"])
        taken = {}
        for what in ("train_epoch", "curve_epoch", "evaluate_point", "pam_epoch"):
            works = {"conventional": getattr(plain, what)}
            works |= {precision: getattr(one, what) for precision, one in ours.items()}
            taken[what] = interleaved(works, args.rounds)
            print(what, {name: round(statistics.median(times), 2) for name, times in taken[what].items()}, flush=True)
        parts = interleaved({what: getattr(ours["fp32"], what) for what in PARTS}, args.rounds)
        by_size = {what: interleaved(works, args.rounds) for what, works in sizes(ours["fp32"]).items()}
    taken["alignment"] = interleaved(
        {"conventional" if name == "conventional" else "fp32": work for name, work in alignments(10_000).items()},
        args.rounds,
    )
    memory = {which: {n: peak_memory(which, n) for n in MEMORY_IMAGES} for which in ("ours",)}
    memory["conventional"] = {10_000: peak_memory("conventional", 10_000)}
    text = table(args, taken, parts, memory) + "\n" + size_table(by_size)
    print(text)
    record = {
        "machine": machine(),
        "images": args.images,
        "seconds": taken,
        "parts": parts,
        "by_size": by_size,
        "memory_mb": memory,
    }
    for name, content in (("bench.json", json.dumps(record, indent=1)), ("bench.md", text)):
        checkpoint.write_atomically(args.out / name, lambda stream, content=content: stream.write(content.encode()))


def machine() -> dict[str, object]:
    model = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


WORDS = {
    "train_epoch": "training epoch",
    "curve_epoch": "curve epoch",
    "evaluate_point": "one point of a curve (batch norm, test)",
    "pam_epoch": "PAM, epoch of the permutation phase",
    "alignment": "alignment, 10,000 images",
}


# What is timed once more, taking turns: whole stages in fp32, and parts of them
PARTS = (
    *("train_epoch", "curve_epoch", "pam_epoch", "evaluate_point"),
    *("batches", "training_kernels", "evaluation_kernels"),
)


def table(
    args,
    taken: dict[str, dict[str, list[float]]],
    parts: dict[str, list[float]],
    memory: dict[str, dict[int, float]],
) -> str:
    """Medians in seconds and the conventional way's multiple of them, as Markdown."""
    names = {"fp32": "fp32", "fp32c": "fp32 compiled", "bf16": "bf16", "bf16c": "bf16 compiled"}
    lines = [f"| work | conventional | {' | '.join(names.values())} |", "| --- " * 6 + "|"]
    for what, words in WORDS.items():
        medians = {name: statistics.median(times) for name, times in taken[what].items()}
        cells = [words, f"{medians['conventional']:.2f} s"]
        for name in names:
            seconds = medians.get(name)
            cells.append("" if seconds is None else f"{seconds:.2f} s, {medians['conventional'] / seconds:.1f}×")
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |"))
    fp32 = {what: statistics.median(times) for what, times in parts.items()}
    train, curve = fp32["train_epoch"], fp32["curve_epoch"]
    share = fp32["batches"] / train
    outside = {
        "training": 1 - fp32["training_kernels"] / train,
        "a curve": 1 - fp32["training_kernels"] / curve,
        "PAM": 1 - fp32["training_kernels"] / fp32["pam_epoch"],
        "evaluation": 1 - fp32["evaluation_kernels"] / fp32["evaluate_point"],
    }
    grown = ", ".join(f"{mb:.0f} MB for {n:,} images" for n, mb in memory["ours"].items())
    known = machine()
    return "\n".join(
        [
            *lines,
            "",
            f"TinyTen, {args.images:,} images an epoch, batches of 128, medians of {args.rounds} interleaved rounds; "
            f"{known['cores']} cores ({known['processor']}), torch {known['torch']}.",
            f"A curve epoch takes {curve / train:.2f} times a training epoch, of which augmentation and batching "
            f"are {100 * share:.1f} %.",
            "Outside the network's own kernels: "
            + ", ".join(f"{100 * part:.0f} % of {what}" for what, part in outside.items())
            + " (fp32).",
            f"Memory that alignment adds at its peak: {grown}; conventionally "
            f"{memory['conventional'][10_000]:.0f} MB for 10,000.",
            "",
        ]
    )


def size_table(by_size: dict[str, dict[str, list[float]]]) -> str:
    """Medians in seconds against size, as Markdown."""
    lines = ["| ours, fp32 | size: seconds |", "| --- | --- |"]
    for what, taken in by_size.items():
        cells = (f"{size}: {statistics.median(times):.2f}" for size, times in taken.items())
        lines.append(f"| {what} | {', '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main(parse_args())
