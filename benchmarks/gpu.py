"""Measure the steps of the library on a GPU: time, kernels, waits of the host, share in which it works, memory.

python benchmarks/gpu.py
python benchmarks/gpu.py --compile

What is measured are the library's own functions, on the images that come with the repository. They work on epochs of
n and of n + m batches, and a step is the difference of the two over m: what an epoch costs once does not count.
--compile measures the compiled networks too; compiling them takes longer than all the rest.
"""

import argparse
import contextlib
import copy
import gc
import io
import itertools
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # before torch: its profiler would tell of every start and stop

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.bounds import machine, operations, product, speed
from benchmarks.compared import WEIGHT_DECAY, Work, embedded_data, network
from models import MODELS
from utils.activations import CHUNK, CHUNK_ON_DEVICE, cross_moments
from utils.batches import Images
from utils.curves import Curve
from utils.devices import compile_options, images_at_once, memory_format
from utils.errors import first_line
from utils.measuring import evaluate, reestimate_batch_norm
from utils.pam import PermutationTask
from utils.stages.data import Data
from utils.stages.files import write_atomically
from utils.stages.flags import folder_path, positive_int
from utils.stages.machine import cost, describe, keep_memory, set_products, why_unusable
from utils.symmetries.spec import permutation_spec
from utils.training import CurveTask, NetworkTask, fit

RESULTS = Path(__file__).resolve().parent.parent / "results" / "bench"

PRECISIONS = ("fp32", "bf16")
SIDE = 8192  # of the matrices of the product: smaller ones leave parts of a large GPU idle

Steps = dict[str, Callable[[Images], object]]  # by name: what takes such a step with every batch of some images
Row = dict[str, object]


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--networks", nargs="+", choices=list(MODELS), default=["TinyTen", "ResNet32"], help="what is trained")
    add("--batch_sizes", nargs="+", type=positive_int, default=[128, 1024], help="images of a batch")
    add("--compile", action="store_true", help="measure compiled networks too, which takes minutes")
    add("--steps", type=positive_int, default=96, help="at least so many steps are timed at once")
    add("--rounds", type=positive_int, default=3, help="repeats of every time; the median counts")
    add("--out", type=folder_path, default=RESULTS, help="folder of the results")
    device_help = "the GPU, as cuda:1; cpu for a trial of this program, which writes nothing (default: the first GPU)"
    add("--device", type=torch.device, help=device_help)
    return parser.parse_args(argv)


# --- what is measured --------------------------------------------------------------------------------------


def steps_of(
    name: str, classes: int, device: torch.device, *, batch_size: int, precision: str, compiled: bool
) -> Steps:
    """The steps that stages take with a batch, of networks of an architecture with random weights."""
    layout = {"device": device, "memory_format": memory_format(device)}
    a, b = (network(seed, classes, name) for seed in (1, 2))
    curve = Curve.between(copy.deepcopy(a), a.state_dict(), b.state_dict()).to(**layout)
    spec, phi = permutation_spec(b), torch.zeros_like(curve.row(0))
    permutations = PermutationTask(curve, spec, b.state_dict(), phi)
    a.to(**layout)
    if compiled:
        a.compile(**compile_options(device))
        curve.compile()
        permutations.soft.compile()

    def learn_curve(images: Images) -> None:
        curve.learned.requires_grad_(True)
        fit(CurveTask(curve, WEIGHT_DECAY), images, rates=[0.01], batch_size=batch_size, precision=precision)

    def learn_permutations(images: Images) -> None:
        curve.learned.requires_grad_(False)
        fit(permutations, images, rates=[0.01], momentum=0.0, batch_size=batch_size, precision=precision)

    def learn_network(images: Images) -> None:
        decay = WEIGHT_DECAY
        fit(NetworkTask(a), images, rates=[0.01], weight_decay=decay, batch_size=batch_size, precision=precision)

    def estimate(images: Images) -> None:
        reestimate_batch_norm(curve.place(0.5), images, batch_size=batch_size, precision=precision)

    def test(images: Images) -> None:
        evaluate(curve.place(0.5), images, batch_size=batch_size, precision=precision)

    return {
        "training": learn_network,
        "curve": learn_curve,
        "PAM, permutation phase": learn_permutations,
        "batch-norm statistics": estimate,
        "test": test,
    }


def alignment(name: str, classes: int, device: torch.device, chunk: int) -> Steps:
    """A chunk of the images on which two networks are compared: fp32 alone, as stages do."""
    a, b = (network(seed, classes, name).eval() for seed in (1, 2))
    spec = permutation_spec(b)
    for one in (a, b):
        one.to(device=device, memory_format=memory_format(device))
    return {"alignment": lambda images: cross_moments(a, b, spec, images.batches(chunk))}


# --- kernels and waits -------------------------------------------------------------------------------------

ON_THE_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
BY_THE_HOST = ("cuda_runtime", "cuda_driver")  # so named also where they are HIP's
STARTS = re.compile("Launch|Memcpy|Memset")
WAITS = re.compile(r"Synchronize|Memcpy(?!\w*Async)")


class Counts(NamedTuple):
    """What a GPU and its host did.

    kernels: that ran, with copies. starts: calls by which the host started them: one for all of a CUDA graph.
    waits: calls in which the host waits for the GPU. busy: seconds in which a kernel or more ran.
    """

    kernels: float
    starts: float
    waits: float
    busy: float


def traced(work: Work, device: torch.device) -> list[Mapping]:
    """The events of a piece of work, as the profiler writes them for trace viewers."""
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with tempfile.TemporaryDirectory() as folder:
        with profile(activities=[activity]) as profiler:
            work()
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return json.loads(path.read_text())["traceEvents"]


def counted(events: Sequence[Mapping]) -> Counts:
    """Events have cat (what it is), name, and ts and dur in microseconds."""
    kernels = [(event["ts"], event["ts"] + event["dur"]) for event in events if event.get("cat") in ON_THE_GPU]
    calls = [event["name"] for event in events if event.get("cat") in BY_THE_HOST]
    starts, waits = (sum(bool(kind.search(call)) for call in calls) for kind in (STARTS, WAITS))
    return Counts(len(kernels), starts, waits, covered(kernels) / 1e6)


def covered(intervals: Sequence[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    length, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        length += max(end - max(start, reached), 0)
        reached = max(reached, end)
    return length


# --- measuring ---------------------------------------------------------------------------------------------


class Epochs(NamedTuple):
    """Images for `first`, 2 · `first` and `first + steps` batches."""

    few: Images
    twice: Images
    many: Images
    first: int
    steps: int


def epochs(images: Images, batch_size: int, steps: int) -> Epochs:
    """`first` is as many as are augmented at once, and `steps` the next multiple of it."""
    first = max(images_at_once(images.device, images.size) // batch_size, 1)
    steps = -(-steps // first) * first
    sets = (images.subset(torch.arange(n * batch_size) % len(images)) for n in (first, 2 * first, first + steps))
    return Epochs(*sets, first, steps)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """In this block nothing is shown: beside a bar there is a loss, for which the host waits."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def held(device: torch.device) -> float | None:
    """MB of the GPU that torch holds, once it has given back what it does not need."""
    return torch.cuda.memory_reserved(device) / 2**20 if device.type == "cuda" else None


def give_back(device: torch.device) -> None:
    if device.type == "cuda":
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def seconds(work: Work, device: torch.device) -> float:
    with cost(device) as taken:
        work()
    return taken["seconds"]


def measured(step: Callable[[Images], object], of: Epochs, rounds: int, device: torch.device) -> Row:
    """What a step takes, by the names of `Counts` and seconds and memory (MB); None where that is not told."""
    give_back(device)
    before = held(device)
    for _ in range(2):  # compiles, records graphs, and chooses algorithms of convolutions
        step(of.few)
    give_back(device)
    times = [
        [seconds(lambda images=images: step(images), device) for images in (of.few, of.many)] for _ in range(rounds)
    ]
    few, many = map(statistics.median, zip(*times, strict=True))
    row: Row = {"seconds": (many - few) / of.steps}
    row["memory"] = None if before is None else held(device) - before
    once, twice = (counted(traced(lambda images=images: step(images), device)) for images in (of.few, of.twice))
    told = once.kernels > 0
    return row | {
        name: (more - less) / of.first if told else None
        for name, less, more in zip(Counts._fields, once, twice, strict=True)
    }


def speeds(device: torch.device, rounds: int, side: int = SIDE) -> dict[str, float]:
    """Operations a second of a large matrix product, by precision."""
    found = {}
    for precision in PRECISIONS:
        work = product(precision, device, side)
        work()
        found[precision] = speed(statistics.median(seconds(work, device) for _ in range(rounds)), side)
    return found


def rows_of(steps: Steps, known: Row, of: Epochs, flop: Mapping[str, float | None], rounds: int) -> Iterator[Row]:
    """A row a step: what is `known` of all, and what was measured, or why it failed."""
    device = of.few.device
    for name, step in steps.items():
        row = known | {"step": name, "flop": flop[name]}
        try:
            with quietly():
                row |= measured(step, of, rounds, device)
        except Exception as error:  # of many kinds: memory, the compiler. The other steps are measured all the same
            row["failed"] = first_line(error)
        print(" | ".join(cells(row, None)), flush=True)
        yield row


def flop_of(steps: Steps, of: Epochs) -> dict[str, float | None]:
    """Operations of each step: an epoch has no others. None where a step fails, which its row tells."""
    found: dict[str, float | None] = dict.fromkeys(steps)
    for name, step in steps.items():
        with contextlib.suppress(Exception), quietly():
            found[name] = operations(lambda step=step: step(of.few)) / of.first
    return found


def network_rows(
    name: str, data: Data, batch_sizes: Sequence[int], *, compiled: bool, steps: int, rounds: int
) -> Iterator[Row]:
    """All rows of an architecture."""
    device = data.train.device
    for batch_size in batch_sizes:
        of = epochs(data.train, batch_size, steps)
        steps_in = partial(steps_of, name, data.num_classes, device, batch_size=batch_size)
        flop = flop_of(steps_in(precision="fp32", compiled=False), of)
        for precision, is_compiled in itertools.product(PRECISIONS, (False, True) if compiled else (False,)):
            known = {"network": name, "images": batch_size, "precision": precision, "compiled": is_compiled}
            made = steps_in(precision=precision, compiled=is_compiled)
            yield from rows_of(made, known, of, flop, rounds)
            torch.compiler.reset()  # a graph keeps its memory
    chunk = CHUNK if device.type == "cpu" else CHUNK_ON_DEVICE
    made, of = alignment(name, data.num_classes, device, chunk), epochs(data.train, chunk, steps)
    known = {"network": name, "images": chunk, "precision": "fp32", "compiled": False}
    yield from rows_of(made, known, of, flop_of(made, of), rounds)


# --- the table ---------------------------------------------------------------------------------------------

HEAD = ("step", "images", "numbers", "ms", "kernels", "starts", "waits", "GPU busy", "MB", "over the bound")
MEANING = """\
A step is one batch of so many images. Kernels: that run on the GPU, copies among them; starts: calls by which the
host starts them, one for a whole CUDA graph; waits: calls in which the host waits for the GPU. GPU busy: the share of
the time in which a kernel runs. MB: memory of the GPU that torch takes for it, without networks and images. Over the
bound: time over what the operations of convolutions and matrix products would take as one large product."""


def cells(row: Row, fastest: Mapping[str, float] | None) -> list[str]:
    """A line of the table; fastest: operations a second by precision, if they are known yet."""
    first = [row["step"], f"{row['images']:,}", row["precision"] + " compiled" * row["compiled"]]
    if "failed" in row:
        return [*first, f"failed: {row['failed']}", *[""] * 6]
    time, busy = row["seconds"], row["busy"]
    share = None if busy is None else 100 * busy / time
    told = [f"{1e3 * time:.2f}", *(shown(row[name], ".0f") for name in ("kernels", "starts"))]
    told += [shown(row["waits"], ".2f"), shown(share, ".0f", " %"), shown(row["memory"], ",.0f")]
    over = time * fastest[row["precision"]] / row["flop"] if fastest and row["flop"] else None
    return [*first, *told, shown(over, ".2f", "×")]


def shown(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def table(record: Mapping) -> str:
    """Markdown: a table a network."""
    known, fastest = record["machine"], record["operations_a_second"]
    told = " and ".join(f"{value / 1e12:.1f} TFLOP/s in {name}" for name, value in fastest.items())
    lines = [f"{known['gpu']}, torch {known['torch']}. The large product: {told}.", ""]
    for name in dict.fromkeys(row["network"] for row in record["rows"]):
        lines += [f"### {name}", "", f"| {' | '.join(HEAD)} |", "| --- " * len(HEAD) + "|"]
        lines += [f"| {' | '.join(cells(row, fastest))} |" for row in record["rows"] if row["network"] == name]
        lines.append("")
    return "\n".join([*lines, MEANING, ""])


def write(record: Mapping, folder: Path) -> None:
    for name, content in (("gpu.json", json.dumps(record, indent=1)), ("gpu.md", table(record))):
        write_atomically(folder / name, lambda stream, content=content: stream.write(content.encode()))


def main(args):
    device = args.device or torch.device("cuda")
    if args.device is None and not torch.cuda.is_available():
        print("There is no GPU here that torch can use: the benchmark of GPUs is left out.")
        return
    if (reason := why_unusable(device)) is not None:
        print(f"{device} {reason}: the benchmark of GPUs is left out.")
        return
    if device.type == "cuda" and device.index is not None:  # this and what follows as stages do
        torch.cuda.set_device(device)
    keep_memory()
    torch.backends.cudnn.benchmark = True
    set_products("fp32")
    torch._dynamo.config.recompile_limit = 64
    if device.type != "cuda":
        print("A trial, which writes nothing.")
    fastest = speeds(device, args.rounds, SIDE if device.type == "cuda" else 512)
    # Also prepares the profiler: what it has not seen recorded, it may not tell of a graph
    if not counted(traced(product("fp32", device, 64), device)).kernels:
        why = "KINETO_LOG_LEVEL=4 may tell why"
        print(f"torch's profiler tells nothing of {device} ({why}): kernels, waits and busy shares are left out.")
    data, rows = embedded_data(device), []
    for name in args.networks:
        print(f"{name}: {', '.join(HEAD[:-1])}")
        rows += network_rows(
            name, data, args.batch_sizes, compiled=args.compile, steps=args.steps, rounds=args.rounds
        )
    on = {"gpu": describe(device), "cuda": torch.version.cuda, "hip": torch.version.hip}
    record = {"machine": machine() | on, "operations_a_second": fastest, "rows": rows}
    print(f"\n{table(record)}")
    if device.type == "cuda":
        write(record, args.out)


if __name__ == "__main__":
    main(parse_args())
