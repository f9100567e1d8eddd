"""Measure this repository against the conventional way (conventional.py), interleaved in one run on one machine.

python benchmarks/bench.py --rounds 3
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # before torch: its profiler would tell of every start and stop

import torch

from benchmarks.bounds import kernels, machine, operations, product, shares, speed
from benchmarks.compared import ATTACK, Conventional, Ours, Work, alignments, sizes
from utils import distributed
from utils.measuring import evaluate_curve
from utils.stages.files import write_atomically
from utils.stages.flags import folder_path
from utils.stages.machine import cost, keep_memory, limit_threads

RESULTS = Path(__file__).resolve().parent.parent / "results" / "bench"
MEMORY_IMAGES = (1_000, 10_000, 50_000)
POINTS = (0.25, 0.75)  # of a curve that processes share
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="repeats of everything, interleaved")
    add("--out", type=folder_path, default=RESULTS, help="folder of the results")
    add("--images", type=int, default=6_400, help="training images of an epoch that is timed")
    add("--measure_memory", choices=("ours", "conventional"), help=argparse.SUPPRESS)  # in a process of its own
    add("--measure_processes", action="store_true", help=argparse.SUPPRESS)  # in one of several, with others
    return parser.parse_args(argv)


# Ours, as the flags --precision and --compile make it
WAYS = {"fp32": ("fp32", False), "bf16": ("bf16", False), "fp32c": ("fp32", True), "bf16c": ("bf16", True)}


# --- measuring ---------------------------------------------------------------------------------------------


def seconds(work: Work) -> float:
    with contextlib.redirect_stdout(io.StringIO()):  # the stages tell of their epochs
        start = time.perf_counter()
        work()
        return time.perf_counter() - start


def interleaved(works: dict[str, Work], rounds: int) -> dict[str, list[float]]:
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
    keep_memory()
    with cost() as taken:
        work()
    return taken["memory"]


def by_processes(counts: Sequence[int], images: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each kind of work in each round, by the number of processes of one thread, which take turns."""
    found: dict[str, dict[str, list[float]]] = {}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for count in list(counts) * rounds:
        command = [sys.executable, *LAUNCHER, str(count), __file__, "--measure_processes", "--images", str(images)]
        ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment, timeout=3600)
        for name, taken in json.loads(ended.stdout.splitlines()[-1]).items():
            found.setdefault(name, {}).setdefault(str(count), []).append(taken)
    return found


def measure_processes(images: int) -> None:
    """Print the seconds of this process, which waits for the others, by kind of work on so many images."""
    keep_memory()
    distributed.silence_others()
    distributed.start(torch.device("cpu"))
    taken = {}
    with tempfile.TemporaryDirectory() as folder:
        few, ours = (Ours(n, Path(folder) / str(n), precision="fp32", compiled=False) for n in (256, images))
        curve = ours.curve()
        works = {
            f"training epoch of {images:,} images, by processes of one thread": (few.train_epoch, ours.train_epoch),
            f"2 points of a curve, batch norm on {images:,} images, by processes of one thread": (
                lambda: evaluate_curve(curve, few.data.train, few.data.train, POINTS),
                lambda: evaluate_curve(curve, ours.data.train, ours.data.test, POINTS),
            ),
        }
        for name, (small, work) in works.items():
            small()  # what the libraries load at first use does not count
            taken[name] = seconds(work)
    print(json.dumps(taken))
    distributed.stop()


# --- the tables --------------------------------------------------------------------------------------------

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
    *("robust_epoch", "batches", "training_kernels", "evaluation_kernels"),
)


def table(
    taken: dict[str, dict[str, list[float]]],
    parts: dict[str, list[float]],
    memory: dict[str, dict[int, float]],
    *,
    images: int,
    rounds: int,
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
    robust = fp32["robust_epoch"] / ((1 + ATTACK.steps) * fp32["training_kernels"])
    aligned, forward = (statistics.median(taken["alignment"][name]) for name in ("fp32", "forward"))
    grown = ", ".join(f"{mb:.0f} MB for {n:,} images" for n, mb in memory["ours"].items())
    known = machine()
    return "\n".join(
        [
            *lines,
            "",
            f"TinyTen, {images:,} images an epoch, batches of 128, medians of {rounds} interleaved rounds; "
            f"{known['cores']} cores ({known['processor']}), torch {known['torch']}.",
            f"A curve epoch takes {curve / train:.2f} times a training epoch, of which augmentation and batching "
            f"are {100 * share:.1f} %.",
            "Outside the network's own kernels: "
            + ", ".join(f"{100 * part:.0f} % of {what}" for what, part in outside.items())
            + " (fp32).",
            f"A robust epoch, with {ATTACK.steps} steps of an attack, takes {robust:.2f} times {1 + ATTACK.steps} of "
            "training's forward and backward passes;",
            f"alignment takes {aligned / forward:.2f} times the forward passes of the two networks.",
            f"Memory that alignment adds at its peak: {grown}; conventionally "
            f"{memory['conventional'][10_000]:.0f} MB for 10,000.",
            "",
        ]
    )


# What is compared with its operations as one large product, and with the network's own kernels in it
BOUNDED = dict.fromkeys(("train_epoch", "curve_epoch", "pam_epoch"), "training_kernels")
BOUNDED |= {"evaluate_point": "evaluation_kernels"}


def bound_table(
    operations: dict[str, int],
    taken: dict[str, dict[str, list[float]]],
    products: dict[str, list[float]],
    alone: dict[str, dict[str, float]],
) -> str:
    """Medians as multiples of the time of the operations at the speed of a large product, and of the kernels' own.

    alone: seconds of the network's kernels, each by itself, by what they are of and by precision.
    """
    speeds = {name: speed(statistics.median(times)) for name, times in products.items()}
    told = " and ".join(f"{fastest / 1e9:.0f} GFLOP/s in {name}" for name, fastest in speeds.items())
    lines = [
        f"Time over what the operations would take as one large product ({told}), and over the sum of the network's",
        f"own kernels, each alone at its best; {machine()['processor']}:",
        "",
        f"| work | GFLOP | {' | '.join(f'{name}, product | {name}, kernels' for name in speeds)} |",
        "| --- " * (2 + 2 * len(speeds)) + "|",
    ]
    for what, count in operations.items():
        cells = [WORDS[what], f"{count / 1e9:.0f}"]
        for name, fastest in speeds.items():
            seconds = statistics.median(taken[what][name])
            cells += [f"{seconds * fastest / count:.2f}×", f"{seconds / alone[BOUNDED[what]][name]:.2f}×"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def share_table(of: dict[str, dict[str, float]]) -> str:
    """What takes the time of a training epoch, by kind of operator and precision, as Markdown."""
    lines = [f"| share of a training epoch | {' | '.join(of)} |", "| --- " * (1 + len(of)) + "|"]
    for kind in next(iter(of.values())):
        lines.append(f"| {kind} | {' | '.join(f'{known[kind]:.1f} %' for known in of.values())} |")
    return "\n".join([*lines, ""])


def size_table(by_size: dict[str, dict[str, list[float]]]) -> str:
    """Medians in seconds against size, as Markdown."""
    lines = ["| ours, fp32 | size: seconds |", "| --- | --- |"]
    for what, taken in by_size.items():
        cells = (f"{size}: {statistics.median(times):.2f}" for size, times in taken.items())
        lines.append(f"| {what} | {', '.join(cells)} |")
    return "\n".join([*lines, ""])


def main(args):
    if args.measure_memory:
        print(measure_memory(args.measure_memory, args.images))
        return
    if args.measure_processes:
        measure_processes(args.images)
        return
    keep_memory()  # as stages do; both ways have it
    limit_threads()
    torch._dynamo.config.recompile_limit = 64  # as with --compile
    with tempfile.TemporaryDirectory() as folder:
        ours = {
            name: Ours(args.images, Path(folder) / name, precision=precision, compiled=compiled)
            for name, (precision, compiled) in WAYS.items()
        }
        plain = Conventional(ours["fp32"].data)
        taken = {}
        for what in ("train_epoch", "curve_epoch", "evaluate_point", "pam_epoch"):
            works = {"conventional": getattr(plain, what)}
            works |= {name: getattr(one, what) for name, one in ours.items()}
            taken[what] = interleaved(works, args.rounds)
            print(what, {name: round(statistics.median(times), 2) for name, times in taken[what].items()}, flush=True)
        parts = interleaved({what: getattr(ours["fp32"], what) for what in PARTS}, args.rounds)
        products = interleaved({name: product(name) for name in ("fp32", "bf16")}, args.rounds)
        with contextlib.redirect_stdout(io.StringIO()):  # as in `seconds`
            counts = {what: operations(getattr(ours["fp32"], what)) for what in BOUNDED}
            alone = {
                part: {name: kernels(getattr(ours[name], part)) for name in ("fp32", "bf16")}
                for part in dict.fromkeys(BOUNDED.values())
            }
            of_epoch = {name: shares(ours[name].train_epoch) for name in ("fp32", "bf16")}
        by_size = {what: interleaved(works, args.rounds) for what, works in sizes(ours["fp32"]).items()}
    # Half the images: with one thread everything takes longer
    by_size |= by_processes((1, 2), args.images // 2, args.rounds)
    aligning = alignments(10_000)
    works = {"conventional": aligning["conventional"], "fp32": aligning["ours"], "forward": aligning["forward"]}
    taken["alignment"] = interleaved(works, args.rounds)
    memory = {
        "ours": {n: peak_memory("ours", n) for n in MEMORY_IMAGES},
        "conventional": {10_000: peak_memory("conventional", 10_000)},
    }
    texts = [table(taken, parts, memory, images=args.images, rounds=args.rounds)]
    texts += [bound_table(counts, taken, products, alone), share_table(of_epoch), size_table(by_size)]
    text = "\n".join(texts)
    print(text)
    record = {
        "machine": machine(),
        "images": args.images,
        "seconds": taken,
        "parts": parts,
        "products": products,
        "operations": counts,
        "kernels": alone,
        "shares": of_epoch,
        "by_size": by_size,
        "memory_mb": memory,
    }
    for name, content in (("bench.json", json.dumps(record, indent=1)), ("bench.md", text)):
        write_atomically(args.out / name, lambda stream, content=content: stream.write(content.encode()))


if __name__ == "__main__":
    main(parse_args())
