"""Neuron alignment and mode connectivity: networks in memory, without files or flags.

The functions below are the public face; docs/api.md shows them on a page. Each is loaded when it is first used.
Installed, this library is called `neuronalignment`.
"""

from importlib import import_module

HOME = {
    "Curve": "curves",
    "absorbed": "permutations",
    "align": "matching",
    "align_many": "matching",
    "barrier": "geometry",
    "evaluate": "measuring",
    "evaluate_curve": "measuring",
    "evaluate_ensemble": "measuring",
    "fit_curve": "training",
    "learn_pam": "pam",
    "line": "curves",
    "merge": "repairing",
    "permutation_spec": "symmetries.spec",
    "permute": "permutations",
    "plot_path": "geometry",
    "plot_plane": "measuring",
    "reestimate_batch_norm": "measuring",
    "repair": "repairing",
}

__all__ = sorted(HOME)


def __getattr__(name: str) -> object:
    if name not in HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{HOME[name]}", __name__), name)
    if not isinstance(value, type):
        value = import_module(".checks", __name__).plainly(value)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
