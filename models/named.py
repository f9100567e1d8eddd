"""Networks by name: ours, torchvision's, timm's, or what a factory in a file of the user's own makes."""

import ast
import contextlib
import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

from torch import nn

from models.googlenet import GoogLeNet
from models.resnet32 import ResNet32
from models.tinyten import TinyTen
from utils.errors import UserError, first_line

MODELS = {model.__name__: model for model in (TinyTen, ResNet32, GoogLeNet)}


class NoNetwork(UserError):
    """Why there is no network of a name here, in one line."""

    def __init__(self, message: str):
        super().__init__(message, exit_code=2)


FORMS = "TinyTen, ResNet32, GoogLeNet, torchvision:NAME, timm:NAME, or FILE.py:FACTORY"


def build(name: str, num_classes: int, *, pretrained: bool = False) -> nn.Module:
    """A network that maps images to logits (n, num_classes), as `builder` makes it."""
    return builder(name, pretrained=pretrained)(num_classes, 3)


def builder(name: str, *, pretrained: bool = False) -> Callable[[int | None, int | None], nn.Module]:
    """What makes the network of a name for so many classes and channels, untrained unless `pretrained`.

    name: one of FORMS. A factory is called with num_classes and in_channels, as far as it takes them, and data have
        them: both are None for other data.
    pretrained: torchvision's or timm's published weights, which are downloaded; a classifier of other classes than
        theirs begins anew.

    Raises NoNetwork, in one line, if there is no such network, or, when it is made, if it cannot be built so.
    """
    check_name(name)
    source, _, rest = name.rpartition(":")
    if source == "torchvision":
        return partial(_of_images, name, partial(_torchvision, rest, pretrained))
    if source == "timm":
        make = partial(_timm().create_model, rest, pretrained)
        return partial(_of_images, name, lambda num_classes: make(num_classes=num_classes))
    if pretrained:
        raise NoNetwork(f"{name} has no published weights; pretrained networks are torchvision's or timm's")
    return partial(_of_user, name) if source else partial(_of_images, name, MODELS[name])


def _of_images(
    name: str, make: Callable[[int], nn.Module], num_classes: int | None, in_channels: int | None
) -> nn.Module:
    if num_classes is None or in_channels != 3:
        raise NoNetwork(f"{name} is for classes of images with 3 channels, and the data are others")
    return make(num_classes)


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
    """What FILE.py:NAME is; what is beside the file is found in this block."""
    source, _, rest = name.rpartition(":")
    path = Path(source).expanduser().resolve()
    if path.suffix != ".py" or not path.is_file():
        raise NoNetwork(f"there is no file {source}, in which {rest} would be; FILE.py:NAME is a function in a file")
    with _beside(path) as module_name:
        found = getattr(_imported(path, module_name), rest, None)
        if not callable(found):
            raise NoNetwork(f"{path} has no function or class {rest!r}")
        yield found


def _of_user(name: str, num_classes: int | None, in_channels: int | None) -> nn.Module:
    """What the factory in a file makes."""
    with named(name) as factory:
        known = inspect.signature(factory).parameters
        takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values())
        wanted = {"num_classes": num_classes, "in_channels": in_channels}
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


REPOSITORY = Path(__file__).resolve().parent.parent

_modules: dict[Path, dict[str, ModuleType]] = {}  # of each file with a network: itself, and what it imports beside it


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[str]:
    """In this block, modules in the file's project come before ours of the same names; gives the file's own name.

    The project is the nearest folder that is no package. Each file has modules of its own, of the files as they are;
    those that have no name of ours are found afterwards too.
    """
    project = next(folder for folder in path.parents if not (folder / "__init__.py").exists())
    shadowed = {one.stem for one in project.iterdir()} & {one.stem for one in REPOSITORY.iterdir()}
    is_ours = project == REPOSITORY
    ours = {} if is_ours else {name: one for name, one in sys.modules.items() if name.split(".")[0] in shadowed}
    for name, one in [*ours.items(), *(item for others in _modules.values() for item in others.items())]:
        if sys.modules.get(name) is one:
            del sys.modules[name]
    own = _modules.get(path, {})
    if all(_stamp(Path(one.__file__)) == one.__dict__["__stamp__"] for one in own.values() if _file(one)):
        sys.modules.update(own)
    searched, writes_none, before = sys.path[:], sys.dont_write_bytecode, set(sys.modules)
    others = [folder for folder in searched if is_ours or Path(folder).resolve() != REPOSITORY]
    sys.path[:], sys.dont_write_bytecode = [str(project), str(path.parent), *others], True
    importlib.invalidate_caches()
    try:
        yield ".".join(path.relative_to(project).with_suffix("").parts).removesuffix(".__init__")
    finally:
        sys.path[:], sys.dont_write_bytecode = searched, writes_none
        if not is_ours:
            found = {name: one for name, one in sys.modules.items() if name not in before or name in own}
            _modules[path] = {name: one for name, one in found.items() if _is_in(one, {project, path.parent})}
            for name, one in _modules[path].items():
                if name.split(".")[0] in shadowed:
                    del sys.modules[name]
                if _file(one):
                    one.__dict__.setdefault("__stamp__", _stamp(Path(one.__file__)))
            sys.modules.update(ours)


def _file(module: ModuleType) -> str | None:
    return getattr(module, "__file__", None)


def _stamp(path: Path) -> tuple[int, int]:
    """What is another when a file has changed."""
    return (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else (0, 0)


def _is_in(module: ModuleType, folders: Collection[Path]) -> bool:
    """Whether a module is of a project, and not installed in an environment inside of it."""
    places = [_file(module)] if _file(module) else [*getattr(module, "__path__", ())]
    paths = [Path(place).resolve() for place in places]
    return any(folder in path.parents and "site-packages" not in path.parts for path in paths for folder in folders)


def _imported(path: Path, name: str) -> ModuleType:
    """The module of a file; nothing may run at its top level that is meant for a script."""
    left: list[ast.AST] = [ast.parse(path.read_text())] if name not in sys.modules else []
    while left:
        node = left.pop()
        called = getattr(getattr(node, "func", None), "attr", "")
        if called in ("parse_args", "parse_known_args", "backward"):
            advice = "put what it does as a script under: if __name__ == '__main__'"
            raise NoNetwork(f"{path} cannot be imported: its top level calls {called} (line {node.lineno}); {advice}")
        is_main = isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
        if not is_main and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            left += ast.iter_child_nodes(node)
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise NoNetwork(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
