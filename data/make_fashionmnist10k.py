"""Make FashionMNIST10k.npz, the dataset that comes with this repository, from the four files of Fashion-MNIST.

    python data/make_fashionmnist10k.py FOLDER

FOLDER holds the *-ubyte.gz files of https://github.com/zalandoresearch/fashion-mnist (Debian has them in the
package dataset-fashion-mnist). Of each class, the first 1,000 training and the first 200 test images are kept,
in their original order.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes: two zero bytes, the type 8, the number of axes, their lengths, the data."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in np.unique(labels)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    arrays = {}
    for split, prefix, count in (("train", "train", 1000), ("test", "t10k", 200)):
        labels = read_idx(args.folder / f"{prefix}-labels-idx1-ubyte.gz")
        kept = first_of_each_class(labels, count)
        arrays[f"{split}_images"] = read_idx(args.folder / f"{prefix}-images-idx3-ubyte.gz")[kept]
        arrays[f"{split}_labels"] = labels[kept]
    path = Path(__file__).with_name("FashionMNIST10k.npz")
    np.savez_compressed(path, **arrays)
    print(path, {name: array.shape for name, array in arrays.items()})


if __name__ == "__main__":
    main()
