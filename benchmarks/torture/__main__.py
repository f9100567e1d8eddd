"""Try to break the stages: kill them, damage the files they read; count how each try ended.

python benchmarks/torture --kills 50 --damages 500 --seed 0

It takes minutes. The exit code is 1 if a try failed: a traceback, a wrong result, a lost file, one left for ever.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch start threads, which a fork would not have
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nor would it have a GPU
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from benchmarks.torture.damages import damages
from benchmarks.torture.judging import Tries
from benchmarks.torture.kills import kills
from benchmarks.torture.running import warm_up
from benchmarks.torture.stages import prepare


def parse_args(argv=None):
    parser = argparse.ArgumentParser(prog="torture", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=50, help="of all stages together")
    parser.add_argument("--damages", type=int, default=500, help="damaged files")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices but the time that things take")
    return parser.parse_args(argv)


def main(args) -> int:
    begin = time.monotonic()
    print(f"--kills {args.kills} --damages {args.damages} --seed {args.seed}", flush=True)
    tries = Tries(Path(tempfile.mkdtemp(prefix="torture-")), args.seed)
    try:
        warm_up()
        workspaces = prepare(tries.folder)
        kills(tries, workspaces["made"], args.kills)
        damages(tries, workspaces, args.damages)
    finally:
        print(f"\n{tries.table()}\n{time.monotonic() - begin:.0f} s, --seed {args.seed}")
        if not tries.failures:
            shutil.rmtree(tries.folder)
    return int(tries.failures > 0)


if __name__ == "__main__":
    sys.exit(main(parse_args()))
