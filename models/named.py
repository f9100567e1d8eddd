"""Networks by name: ours, torchvision's, timm's, or what a factory in a file or package of the user's own makes."""

import argparse
import builtins
import contextlib
import difflib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import torch
from torch import nn

from models.googlenet import GoogLeNet
from models.gpt import GPT
from models.resnet32 import ResNet32
from models.tinyten import TinyTen
from utils.errors import UserError, first_line
from utils.stages.layout import file_of

MODELS = {model.__name__: model for model in (TinyTen, ResNet32, GoogLeNet)}  # of images
OF_TEXT = {"GPT": GPT}


class NoNetwork(UserError):
    """Why there is no network of a name here, in one line."""

    def __init__(self, message: str):
        super().__init__(message, exit_code=2)


FORMS = "TinyTen, ResNet32, GoogLeNet, GPT, torchvision:NAME, timm:NAME, FILE.py:FACTORY, or package.module:FACTORY"


def build(name: str, num_classes: int, *, pretrained: bool = False) -> nn.Module:
    """A network that maps images to logits (n, num_classes), as `builder` makes it."""
    return builder(name, pretrained=pretrained)(num_classes, 3)


def builder(
    name: str, *, pretrained: bool = False, context: int | None = None
) -> Callable[[int | None, int | None], nn.Module]:
    """What makes the network of a name for so many classes and channels, untrained unless `pretrained`.

    name: one of FORMS. A factory is called with num_classes and in_channels, as far as it takes them, and data have
        them: both are None for other data.
    pretrained: torchvision's or timm's published weights, which are downloaded; a classifier of other classes than
        theirs begins anew.
    context: how many tokens a sample has, which GPT and a factory are told besides; None where that is not known.

    Raises NoNetwork, in one line, if there is no such network, or, when it is made, if it cannot be built so.
    """
    check_name(name)
    source, _, rest = name.rpartition(":")
    if source == "torchvision":
        return partial(_of_images, name, partial(_torchvision, rest, pretrained))
    if source == "timm":
        make = partial(_timm().create_model, rest, pretrained)
        return partial(_of_images, name, lambda classes, channels=3: make(num_classes=classes, in_chans=channels))
    if pretrained:
        raise NoNetwork(f"{name} has no published weights; pretrained networks are torchvision's or timm's")
    if name in OF_TEXT:
        return partial(_of_text, name, context)
    return partial(_of_user, name, context) if source else partial(_of_images, name, MODELS[name])


def _of_images(
    name: str, make: Callable[..., nn.Module], num_classes: int | None, in_channels: int | None
) -> nn.Module:
    if num_classes is None or in_channels is None:
        raise NoNetwork(f"{name} is for classes of images, and the data are others")
    return make(num_classes) if in_channels == 3 else make(num_classes, in_channels)


def _of_text(name: str, context: int | None, num_classes: int | None, in_channels: int | None) -> nn.Module:
    if in_channels is not None:
        raise NoNetwork(f"{name} is for text, and the data are images")
    sizes = {"num_classes": num_classes, "context": context}
    return OF_TEXT[name](**{word: size for word, size in sizes.items() if size is not None})


def found(name: str) -> Callable:
    """What FILE.py:NAME is, a function or class. Raises NoNetwork, in one line, if there is none."""
    with named(name) as function:
        return function


def made(name: str) -> object:
    """What the function FILE.py:NAME gives. Raises NoNetwork, in one line, if there is none, or it fails."""
    with named(name) as function:
        try:
            return function()
        except Exception as error:
            raise NoNetwork(f"{name} failed: {type(error).__name__}: {first_line(error)}") from error


@contextlib.contextmanager
def named(name: str) -> Iterator[Callable]:
    """What FILE.py:NAME or package.module:NAME is; what is beside it is found in this block."""
    path, (source, _, rest) = file_of(name), name.rpartition(":")
    if path is None:
        raise NoNetwork(f"there is no file {source}, in which {rest} would be; FILE.py:NAME is a function in a file")
    if source.endswith(".py"):  # of its package: the nearest folder that is none holds its project
        project = next(folder for folder in path.parents if not (folder / "__init__.py").exists())
    else:
        project = path.parents[source.count(".") + (path.name == "__init__.py")]
    place = _Place(path, project)
    with _beside(place):
        found = getattr(_imported(place), rest, None)
        if not callable(found):
            raise NoNetwork(f"{path} has no function or class {rest!r}")
        yield found


def _of_user(name: str, context: int | None, num_classes: int | None, in_channels: int | None) -> nn.Module:
    """What the factory in a file makes."""
    with named(name) as factory:
        known = inspect.signature(factory).parameters
        takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values())
        wanted = {"num_classes": num_classes, "in_channels": in_channels, "context": context}
        taken = [word for word, value in wanted.items() if value is not None and (word in known or takes_any)]
        try:
            network = factory(**{word: wanted[word] for word in taken})
        except TypeError as error:
            words = ", ".join(f"{word}={wanted[word]}" for word in taken) or "nothing"
            raise NoNetwork(f"{name} cannot be called with {words}: {error}") from error
    if not isinstance(network, nn.Module):
        raise NoNetwork(f"{name} makes a {type(network).__name__}, not a torch.nn.Module")
    return network


def check_name(name: str) -> None:
    """Raises NoNetwork, in one line, if there is no network of this name; nothing is built, and no file is run."""
    source, _, rest = name.rpartition(":")
    if not source and name not in (ours := (*MODELS, *OF_TEXT)):
        close = difflib.get_close_matches(name, ours)
        meant = f"{close[0]} may be meant" if close else f"it is one of {FORMS}"
        raise NoNetwork(f"there is no network {name!r}; {meant}")
    if source == "torchvision":
        from torchvision import models  # slow to import, and most runs do without

        _expect_among(rest, models.list_models(module=models), "torchvision has no network {} for classification")
    elif source == "timm":
        _expect_among(rest, _timm().list_models(), "timm has no network {}")
    elif source and file_of(name) is None:
        if source.endswith(".py") and rest.isidentifier():
            raise NoNetwork(f"there is no file {source}; a network is one of {FORMS}")
        raise NoNetwork(f"there is no network {name!r}, nor a module here or on Python's path; it is one of {FORMS}")


def _expect_among(name: str, names: Sequence[str], message: str) -> None:
    if name not in names:
        close = difflib.get_close_matches(name, names)
        meant = f"; {', '.join(close)} may be meant" if close else ""
        raise NoNetwork(message.format(repr(name)) + meant)


def _torchvision(name: str, pretrained: bool, num_classes: int, in_channels: int = 3) -> nn.Module:
    from torchvision import models  # slow to import, and most runs do without

    if in_channels != 3:
        raise NoNetwork(f"torchvision:{name} is for images with 3 channels, and these have {in_channels}")
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


REPOSITORY = Path(__file__).resolve().parent.parent

# --- what is the user's own --------------------------------------------------------------------------------


class _Place(NamedTuple):
    """A file with a network, and the folder that holds its project."""

    path: Path
    project: Path

    @property
    def module(self) -> str:
        return ".".join(self.path.relative_to(self.project).with_suffix("").parts).removesuffix(".__init__")

    def holds(self, file: str) -> bool:
        """Whether a file or folder is of the project, and not installed in an environment inside of it."""
        path = Path(file).resolve()
        return "site-packages" not in path.parts and not {self.project, self.path.parent}.isdisjoint(path.parents)


_modules: dict[_Place, dict[str, ModuleType]] = {}  # of each place: the file's own, and what it imports beside it
_current: list[_Place] = []  # whose modules are found now


@contextlib.contextmanager
def _beside(place: _Place) -> Iterator[None]:
    """In this block, modules in the file's project come before ours of the same names.

    Each file has modules of its own, of the files as they are; those that have no name of ours are found afterwards
    too. Whatever these import later, they import in such a block.
    """
    path, project = place
    shadowed = {one.stem for one in project.iterdir()} & {one.stem for one in REPOSITORY.iterdir()}
    is_ours = project == REPOSITORY
    ours = {} if is_ours else {name: one for name, one in sys.modules.items() if name.split(".")[0] in shadowed}
    for name, one in [*ours.items(), *(item for others in _modules.values() for item in others.items())]:
        if sys.modules.get(name) is one:
            del sys.modules[name]
    own = _modules.get(place, {})
    sys.modules.update(own)
    if any(_stamp(one) != one.__dict__["__stamp__"] for one in own.values()):
        for name in own:
            del sys.modules[name]
    searched, finders, writes_none, before = sys.path[:], sys.meta_path[:], sys.dont_write_bytecode, set(sys.modules)
    others = [folder for folder in searched if is_ours or Path(folder).resolve() != REPOSITORY]
    sys.path[:], sys.dont_write_bytecode = [str(project), str(path.parent), *others], True
    sys.meta_path[:0] = [] if is_ours else [SimpleNamespace(find_spec=partial(_spec_of, place))]
    importlib.invalidate_caches()
    _current.append(place)
    try:
        yield
    finally:
        _current.pop()
        sys.path[:], sys.meta_path[:], sys.dont_write_bytecode = searched, finders, writes_none
        if not is_ours:
            found = {name: one for name, one in sys.modules.items() if name not in before or name in own}
            _modules[place] = {name: one for name, one in found.items() if any(map(place.holds, _files(one)))}
            for name, one in _modules[place].items():
                if name.split(".")[0] in shadowed:
                    del sys.modules[name]
                one.__dict__.setdefault("__stamp__", _stamp(one))
            sys.modules.update(ours)


def _spec_of(place: _Place, name: str, folders: Sequence[str] | None = None, _: object = None) -> ModuleSpec | None:
    """Where a module is, as Python finds it; those of a place are loaded by `_Loader`."""
    spec = PathFinder.find_spec(name, folders)
    if spec is not None and type(spec.loader) is SourceFileLoader and place.holds(spec.origin):
        spec.loader = _Loader(spec.name, spec.origin)
        spec.loader.place = place
    return spec


class _Loader(SourceFileLoader):
    """Of modules whose functions, too, import what is beside them, and not ours of the same names."""

    place: _Place

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}
        super().exec_module(module)

    def _import(self, name: str, *where: object) -> ModuleType:
        with contextlib.nullcontext() if self.place in _current[-1:] else _beside(self.place):
            return builtins.__import__(name, *where)


def _files(module: ModuleType) -> Sequence[str]:
    """Of a module its file; of a package without one its folders."""
    file = getattr(module, "__file__", None)
    return [file] if file else [*getattr(module, "__path__", ())]


def _stamp(module: ModuleType) -> list[tuple[int, int]]:
    """What is another when its file has changed."""
    there = [path.stat() for path in map(Path, _files(module)) if path.is_file()]
    return [(one.st_mtime_ns, one.st_size) for one in there]


def _imported(place: _Place) -> ModuleType:
    """The module of a file; nothing may run at its top level that is meant for a script."""
    from unittest import mock  # slow to import, and most runs do without

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_known_args", side_effect=NoNetwork("parse_args")),
        mock.patch.object(torch.autograd, "backward", side_effect=NoNetwork("backward")),
        mock.patch.object(sys, "argv", [str(place.path)]),
    ):
        try:
            return importlib.import_module(place.module)
        except (Exception, SystemExit) as error:
            ran = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == str(place.path)]
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, NoNetwork):
                advice = "put what it does as a script under: if __name__ == '__main__'"
                reason = f"its top level calls {error} (line {ran[0] if ran else 1}); {advice}"
            raise NoNetwork(f"{place.path} cannot be imported: {reason}") from error
