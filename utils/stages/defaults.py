"""For how many epochs networks are trained and curves learned by default: as published, the same in every stage."""

import argparse

EPOCHS = 250  # of networks and of curves, as published
ROBUST_EPOCHS = 200  # of robust networks and curves, as published
EPOCHS_HELP = f"default: {EPOCHS}; for robust networks {ROBUST_EPOCHS}"
CURVE_EPOCHS_HELP = f"default: {EPOCHS}; for robust curves {ROBUST_EPOCHS}, for robust GoogLeNets 20"


def model_epochs(robust: bool) -> int:
    """For how long a network is trained by default, in whichever stage: as is published."""
    return ROBUST_EPOCHS if robust else EPOCHS


def curve_epochs(model: str, robust: bool) -> int:
    """For how long a curve is learned by default."""
    return 20 if robust and model == "GoogLeNet" else model_epochs(robust)


def complete_epochs(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Fill in the epochs that are not given. `epochs` are the networks' in a stage that has no others."""
    is_of_path = hasattr(args, "epochs_curve")
    epochs = args.epochs if is_of_path else None
    if epochs is not None and None not in (given := {args.epochs_model, args.epochs_curve}) and epochs not in given:
        parser.error(
            f"--epochs {epochs} stands for nothing: --epochs_model {args.epochs_model} and "
            f"--epochs_curve {args.epochs_curve} are both given"
        )
    of_networks, of_curves = model_epochs(args.robust), curve_epochs(args.model, args.robust)
    usual = {"epochs_model": epochs or of_networks, "epochs_curve": epochs or of_curves}
    if not is_of_path:
        usual["epochs"] = of_curves if hasattr(args, "epochs_model") else of_networks
    for name, value in usual.items():
        if getattr(args, name, value) is None:
            setattr(args, name, value)
