"""The published numbers, and whether a result was made with the settings behind them."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..stages.data import dataset_info
from ..stages.defaults import EPOCHS
from ..stages.layout import USUAL, Layout
from ..stages.records import Record
from .paths import Series

FILE = Path(__file__).with_suffix(".csv")
SOURCE = "Tatro et al., 2020, Table 1"

Number = tuple[float, float | None]  # mean, and standard deviation if there are several pairs
Published = Mapping[tuple[str, str, str], Mapping[str, Number]]  # by dataset, model and path, then by statistic


def load_published() -> Published:
    """The published numbers, by dataset, model and path, then by statistic (average, minimum)."""
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    return {
        (row["dataset"], row["model"], row["path"]): {
            statistic: (float(row[statistic]), float(row[f"{statistic}_deviation"]))
            for statistic in ("average", "minimum")
            if row[statistic]
        }
        for row in csv.DictReader(lines)
    }


# How networks and curves were trained and evaluated; a tuple: in any of these ways
PUBLISHED = {"lr": 0.1, "wd": 5e-4, "lr_drop": 20, "lr_decay": 0.9996, "use_test": True, "image_size": None}
PUBLISHED |= {"fix_start": True, "fix_end": True, "init_linear_off": False, "epochs_model": EPOCHS}
PUBLISHED |= {"outer_iters": 1, "inner_iters_perm": 20, "bn_images": None, "num_points": 65}
PUBLISHED |= {"precision": ("fp32", "tf32")}


def is_as_published(series: Series, layout: Layout, evaluated: Iterable[Record]) -> bool:
    """Whether evaluations with these records are of curves as the published ones, between such networks.

    What a file does not record is taken to be as published.
    """
    if series.epochs != EPOCHS or series.variant._replace(seed=USUAL.seed) != USUAL:
        return False
    return all(_is_published_setting(record, layout) for record in evaluated)


def _is_published_setting(record: Record, layout: Layout) -> bool:
    """Whether the flags of an evaluation, and those with which its networks and curve were trained, are published."""
    networks = PUBLISHED | {"batch_size": 64 if layout.dataset == "CIFAR10" else 128}
    curve, trained = PUBLISHED | {"batch_size": 128}, record.trained
    return (
        _are(record.flags, PUBLISHED)
        and len(record.inputs.get("points", "ABC")) == 3
        and all(_are(trained.get(name, {}), networks) for name in "ab")
        and _are(trained.get("curve", {}), curve)
        and all(_is_published_transform(flags, layout) for flags in (record.flags, *trained.values()))
    )


def _are(flags: Mapping[str, object], wanted: Mapping[str, object]) -> bool:
    """Whether flags, as far as they are recorded, are those wanted, or one of those in a tuple."""
    return all(
        value in wanted[name] if isinstance(wanted[name], tuple) else value == wanted[name]
        for name, value in flags.items()
        if name in wanted
    )


def _is_published_transform(flags: Mapping[str, object], layout: Layout) -> bool:
    """Whether images were varied and normalized as published: transforms of several names can do the same."""
    transform, resized_by = flags.get("transform", layout.model), dataset_info(layout.dataset).resized_by
    return not transform.startswith("Adversarial") and resized_by(transform) == resized_by(layout.model)
