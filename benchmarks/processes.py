"""A stage's work in one process and in several of one thread each, which torchrun starts on one machine."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.compared import Ours
from utils import distributed
from utils.cost import cost
from utils.devices import keep_memory
from utils.measuring import evaluate_curve

POINTS = (0.25, 0.75)
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")


def measure(images: int) -> dict[str, float]:
    """Seconds of this process, which waits for the others; training on as many `images`, batch norm on them too."""
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
            with cost() as used:
                work()
            taken[name] = used["seconds"]
    return taken


def by_processes(counts: tuple[int, ...], images: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each kind of work in each round, by the number of processes, which take turns."""
    found: dict[str, dict[str, list[float]]] = {}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(rounds):
        for count in counts:
            command = [sys.executable, *LAUNCHER, str(count), __file__, str(images)]
            ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            for name, seconds in json.loads(ended.stdout.splitlines()[-1]).items():
                found.setdefault(name, {}).setdefault(str(count), []).append(seconds)
    return found


def main(images: int) -> None:
    keep_memory()
    distributed.silence_others()
    distributed.start(torch.device("cpu"))
    print(json.dumps(measure(images)))
    distributed.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]))
