"""Make data/cifar10-jpeg, the folder of presets/cifar10-cpu.yaml, from torchvision's CIFAR10, which is downloaded.

python data/make_cifar10_jpeg.py

The JPEG files have Pillow's default quality, 75.
"""

import argparse
from pathlib import Path

from torchvision.datasets import CIFAR10


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    folder = Path(__file__).parent
    for split in ("train", "test"):
        images = CIFAR10(folder, train=split == "train", download=True)
        for number, (image, label) in enumerate(images):
            path = folder / "cifar10-jpeg" / split / images.classes[label] / f"{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, quality=75)
        print(f"{len(images)} images in {folder / 'cifar10-jpeg' / split}")


if __name__ == "__main__":
    main()
