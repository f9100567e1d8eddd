"""Networks by name: ours, torchvision's, timm's, or what a factory in a file of the user's own makes."""

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

from torch import nn

from models.googlenet import GoogLeNet
from models.resnet32 import ResNet32
from models.tinyten import TinyTen
from utils.errors import UserError

MODELS = {model.__name__: model for model in (TinyTen, ResNet32, GoogLeNet)}


class NoNetwork(UserError):
    """Why there is no network of a name here, in one line."""

    def __init__(self, message: str):
        super().__init__(message, exit_code=2)


FORMS = "TinyTen, ResNet32, GoogLeNet, torchvision:NAME, timm:NAME, or FILE.py:FACTORY"


def build(name: str, num_classes: int, *, pretrained: bool = False) -> nn.Module:
    """A network that maps images to logits (n, num_classes), as `builder` makes it."""
    return builder(name, pretrained=pretrained)(num_classes)


def builder(name: str, *, pretrained: bool = False) -> Callable[[int], nn.Module]:
    """What makes the network of a name for a number of classes, untrained unless `pretrained`.

    name: one of FORMS. A factory is called with num_classes, and in_channels=3 if it takes that.
    pretrained: torchvision's or timm's published weights, which are downloaded; a classifier of other classes than
        theirs begins anew.

    Raises NoNetwork, in one line, if there is no such network, or, when it is made, if it cannot be built so.
    """
    check_name(name)
    source, _, rest = name.rpartition(":")
    if source == "torchvision":
        return partial(_torchvision, rest, pretrained)
    if source == "timm":
        return lambda num_classes: _timm().create_model(rest, pretrained=pretrained, num_classes=num_classes)
    if pretrained:
        raise NoNetwork(f"{name} has no published weights; pretrained networks are torchvision's or timm's")
    return partial(_of_user, name) if source else MODELS[name]


def _of_user(name: str, num_classes: int) -> nn.Module:
    """What the factory in a file makes."""
    source, _, rest = name.rpartition(":")
    factory = _factory(Path(source), rest)
    known = inspect.signature(factory).parameters
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values())
    keywords = {"in_channels": 3} if "in_channels" in known or takes_any else {}
    try:
        network = factory(num_classes=num_classes, **keywords)
    except TypeError as error:
        raise NoNetwork(f"{name} cannot be called with num_classes={num_classes}: {error}") from error
    if not isinstance(network, nn.Module):
        raise NoNetwork(f"{name} makes a {type(network).__name__}, not a torch.nn.Module")
    return network


def check_name(name: str) -> None:
    """Raises NoNetwork, in one line, if there is no network of this name; nothing is built, and no file is run."""
    source, _, rest = name.rpartition(":")
    if not source and name not in MODELS:
        close = difflib.get_close_matches(name, MODELS)
        meant = f"{close[0]} may be meant" if close else f"it is one of {FORMS}"
        raise NoNetwork(f"there is no network {name!r}; {meant}")
    if source == "torchvision":
        from torchvision import models  # slow to import, and most runs do without

        _expect_among(rest, models.list_models(module=models), "torchvision has no network {} for classification")
    elif source == "timm":
        _expect_among(rest, _timm().list_models(), "timm has no network {}")
    elif source:
        path = Path(source).expanduser()
        if path.suffix != ".py" or not rest.isidentifier():
            raise NoNetwork(f"there is no network {name!r}; it is one of {FORMS}")
        if not path.is_file():
            raise NoNetwork(f"there is no file {source}; a network is one of {FORMS}")


def _expect_among(name: str, names: Sequence[str], message: str) -> None:
    if name not in names:
        close = difflib.get_close_matches(name, names)
        meant = f"; {', '.join(close)} may be meant" if close else ""
        raise NoNetwork(message.format(repr(name)) + meant)


def _torchvision(name: str, pretrained: bool, num_classes: int) -> nn.Module:
    from torchvision import models  # slow to import, and most runs do without

    # Two of them want to be told that their slow initial weights are wanted
    wants = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, num_classes=num_classes, **wants)
    if pretrained:
        state = models.get_model_weights(name).DEFAULT.get_state_dict(progress=False)
        own = network.state_dict()
        network.load_state_dict(
            {entry: value for entry, value in state.items() if entry in own and own[entry].shape == value.shape},
            strict=False,
        )
    return network


def _timm() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise NoNetwork("timm is not installed; install it with: python -m pip install timm") from error


def _factory(path: Path, name: str) -> Callable[..., nn.Module]:
    """The function or class `name` of a Python file, which is run."""
    path = path.expanduser().resolve()
    module_name = f"network_file_{path.stem}_{abs(hash(path))}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        sys.path.insert(0, str(path.parent))  # what the file imports from beside it
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            raise NoNetwork(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
        finally:
            sys.path.remove(str(path.parent))
    factory = getattr(sys.modules[module_name], name, None)
    if not callable(factory):
        raise NoNetwork(f"{path} has no function or class {name!r}")
    return factory
