"""The published numbers, and whether a result was made with the settings behind them."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..stages.data import dataset_info
from ..stages.defaults import EPOCHS
from ..stages.layout import USUAL, Layout
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


TRAINED_AS_PUBLISHED = {"lr": 0.1, "wd": 5e-4, "lr_drop": 20, "lr_decay": 0.9996, "use_test": True}
CURVE_AS_PUBLISHED = {"fix_start": True, "fix_end": True, "init_linear_off": False, "epochs_model": EPOCHS}
CURVE_AS_PUBLISHED |= {"outer_iters": 1, "inner_iters_perm": 20}  # of PAM
EVALUATED_AS_PUBLISHED = {"epochs_model": EPOCHS, "use_test": True, "bn_images": None, "num_points": 65}


def is_as_published(series: Series, layout: Layout, evaluated: Iterable[Mapping[str, object]]) -> bool:
    """Whether evaluations with these settings are of curves as the published ones, between such networks.

    What a file does not tell is taken to be as published.
    """
    if series.epochs != EPOCHS or series.variant._replace(seed=USUAL.seed) != USUAL:
        return False
    return all(_is_published_setting(settings, layout) for settings in evaluated)


def _is_published_setting(settings: Mapping[str, object], layout: Layout) -> bool:
    """Whether the settings of an evaluation, and in it those of training, are the published ones."""
    trained = settings.get("trained")
    trained = trained if isinstance(trained, dict) else {}
    trained = {name: told for name, told in trained.items() if isinstance(told, dict)}
    images = {"image_size": None, "precision": ("fp32", "tf32")}
    networks = images | TRAINED_AS_PUBLISHED | {"batch_size": 64 if layout.dataset == "CIFAR10" else 128}
    curve = images | TRAINED_AS_PUBLISHED | CURVE_AS_PUBLISHED | {"batch_size": 128}
    return (
        _are(settings, images | EVALUATED_AS_PUBLISHED)
        and len(settings.get("points", "ABC")) == 3
        and all(_are(trained.get(name, {}), networks) for name in "ab")
        and _are(trained.get("curve", {}), curve)
        and all(_is_published_transform(told, layout) for told in (settings, *trained.values()))
    )


def _are(settings: Mapping[str, object], wanted: Mapping[str, object]) -> bool:
    """Whether settings, as far as they are told, are those wanted, or one of those in a tuple."""
    return all(
        value in wanted[name] if isinstance(wanted[name], tuple) else value == wanted[name]
        for name, value in settings.items()
        if name in wanted
    )


def _is_published_transform(settings: Mapping[str, object], layout: Layout) -> bool:
    """Whether images were varied and normalized as published: transforms of several names can do the same."""
    transform, resized_by = settings.get("transform", layout.model), dataset_info(layout.dataset).resized_by
    return not transform.startswith("Adversarial") and resized_by(transform) == resized_by(layout.model)
