"""The settings that files keep: the flags of the stage that decided what is in them, and on what it ran."""

from collections.abc import Mapping

from ..curves import Curve
from .process import made_on


def of_run(flags: Mapping[str, object], *names: str) -> dict[str, object]:
    """The flags that decide a run's outcome, which a resumed run must share; `names` are beyond the usual ones."""
    shared = ("dataset", "image_size", "transform", "moments", "model", "batch_size", "use_test", "precision")
    sgd = ("lr", "wd", "lr_decay", "lr_drop", "seed")
    robust = ("momentum", "epsilon", "attack_step", "attack_steps", "epochs") if flags["robust"] else ()
    told = {"made": made_on(flags["device"])}
    return {name: flags[name] for name in (*shared, *sgd, *robust, *names)} | told


def of_evaluation(flags: Mapping[str, object], curve: Curve, *names: str) -> dict[str, object]:
    """The flags that decide a result's numbers, and the control points it is of; `names` beyond the usual ones."""
    shared = ("transform", "moments", "image_size", "batch_size", "use_test", "precision", "epochs_model")
    shared += ("bn_images", "attack", "repair")
    told = {"made": made_on(flags["device"])}
    return {name: flags[name] for name in (*shared, *names)} | {"points": curve.digests()} | told


def of_alignment(flags: Mapping[str, object], *more: str) -> dict[str, object]:
    """The flags that decide a match; `more` are those of the stage alone."""
    names = ("dataset", "model", "transform", "moments", "image_size", "batch_size", "use_test", "epochs")
    names += ("method", "seed", *more)
    return {name: flags[name] for name in names} | {"made": made_on(flags["device"])}
