"""Try to break the stages: kill them, damage their files, fill their disk; count how each try ended.

python benchmarks/torture --kills 50 --damages 500 --seed 0

It takes minutes. The exit code is 1 if a try failed: a traceback, a wrong result, a lost file.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch start threads, which a fork would not have
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nor would it have a GPU
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import torch
from tqdm import tqdm

from benchmarks.torture.at_once import at_once
from benchmarks.torture.bombs import bombs
from benchmarks.torture.damages import damages
from benchmarks.torture.disks import full_disk, read_only
from benchmarks.torture.divergence import divergence
from benchmarks.torture.kills import kills
from benchmarks.torture.trials import Torture
from benchmarks.torture.workspaces import prepare

SECTIONS = {
    "kills": kills,
    "damages": damages,
    "bombs": bombs,
    "full_disk": full_disk,
    "read_only": read_only,
    "at_once": at_once,
    "divergence": divergence,
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(prog="torture", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--kills", type=int, default=50, help="of all stages together; and half as many before a write"
    )
    parser.add_argument("--damages", type=int, default=500, help="damaged files")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices but the time that things take")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="some sections")
    return parser.parse_args(argv)


def main(args) -> int:
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # no thread of its own
    begin = time.monotonic()
    print(f"--seed {args.seed}")
    sections = SECTIONS | {"kills": partial(kills, count=args.kills), "damages": partial(damages, count=args.damages)}
    t = Torture(Path(tempfile.mkdtemp(prefix="torture-")), args.seed)
    try:
        prepare(t)
        for name in args.only:
            print(f"{name} ({time.monotonic() - begin:.0f} s)", flush=True)
            sections[name](t)
    finally:
        t.print_table()
        if not t.failures:
            shutil.rmtree(t.folder)
    print(f"{time.monotonic() - begin:.0f} s, --seed {args.seed}")
    if t.failures:
        print(f"What failed is in {t.folder}")
    return int(t.failures > 0)


if __name__ == "__main__":
    sys.exit(main(parse_args()))
