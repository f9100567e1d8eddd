"""Properties of the code itself: who may know what, how large its parts are, and what importing does."""

import ast
import functools
import re
import sys
from pathlib import Path

import processes
import pytest

from utils.stages import hints

REPOSITORY = Path(__file__).resolve().parent.parent
PATHS = sorted((REPOSITORY / "utils").rglob("*.py"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)

# Who knows flags; all others are given arguments
ROOF = {f"utils.stages.{name}" for name in ("flags", "parser", "process", "start")}
ROOF |= {"utils.reports.figures"}
LINES_OF_A_FUNCTION, PARAMETERS, FLOORS = 80, 8, 7
# What may be said of learning is many things.
MANY_PARAMETERS = {"utils.training.fit", "utils.training.fit_curve", "utils.pam.learn_pam"}
MANY_PARAMETERS |= {"utils.stages.data.load_data", "utils.matching.align"}


def module_of(path):
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in PATHS}


@functools.cache
def tree(module):
    return ast.parse(MODULES[module].read_text())


def storey(module):
    """0 for the method, 1 for what scripts share, 2 for what is shown."""
    folder = module.split(".")[1:2]
    return ("stages", "reports").index(folder[0]) + 1 if folder and folder[0] in ("stages", "reports") else 0


BELOW = [module for module in MODULES if module not in ROOF]


def functions(module):
    """The functions of a module, methods and inner ones too, by their names."""

    def within(node, prefix):
        for child in ast.iter_child_nodes(node):
            name = getattr(child, "name", "lambda")
            if isinstance(child, FUNCTIONS):
                yield f"{prefix}.{name}", child
            nested = isinstance(child, (*FUNCTIONS, ast.ClassDef))
            yield from within(child, f"{prefix}.{name}" if nested else prefix)

    return dict(within(tree(module), module))


def parameters(function):
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [argument.arg for argument in named if argument.arg not in ("self", "cls", "ctx")]


def imported(module):
    """The modules of utils that a module imports, at once or in a function."""
    found = set()
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("utils"), f"{module} imports from utils by its name"
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1]])
                base = f"{base}.{node.module}" if node.module else base
                inner = {f"{base}.{alias.name}" for alias in node.names}
                found |= {name if name in MODULES else base for name in inner}
    return {name for name in found if name in MODULES} - {module}


# --- who may know what -------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", BELOW)
def test_command_lines_end_at_the_roof(module):
    """Below it no function is given a Namespace, or anything that goes by the name of one, and nobody makes one."""
    for name, function in functions(module).items():
        names = parameters(function)
        assert "args" not in names, name
    for node in ast.walk(tree(module)):
        names = {getattr(node, name, None) for name in ("id", "attr", "module")}
        names |= {alias.name for alias in getattr(node, "names", ()) if isinstance(alias, ast.alias)}
        assert not names & {"argparse", "Namespace"}, f"{module}:{getattr(node, 'lineno', '')}"


@pytest.mark.parametrize("module", BELOW)
def test_no_message_below_the_roof_advises_a_flag(module):
    """What is wrong is said there, and by which command it is mended at the roof, which knows them."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("UserError", "FileError"):
            said = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            words = " ".join(part for part in said if isinstance(part, str))
            advice = re.search(r"--\w|\.py\b|\b(delete|remove) (it|them|the)\b", words)
            assert advice is None, f"{module}:{node.lineno} {advice}"


def test_imports_go_one_way():
    """Without a cycle, on few floors, and never from a storey up to the next."""
    graph = {module: imported(module) for module in MODULES}
    floors = {}

    def floor(module, path=()):
        assert module not in path, f"a cycle: {' → '.join([*path[path.index(module) :], module])}"
        if module not in floors:
            floors[module] = 1 + max((floor(below, (*path, module)) for below in graph[module]), default=0)
        return floors[module]

    height = max(map(floor, MODULES))
    assert height <= FLOORS, sorted(floors.items(), key=lambda item: -item[1])[:5]
    up = {(module, below) for module in MODULES for below in graph[module] if storey(below) > storey(module)}
    assert not up


def test_architectures_are_imported_by_scripts_alone():
    """What builds a network is passed in."""
    for module in MODULES:
        for node in ast.walk(tree(module)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not any(name.split(".")[0] == "models" for name in names), module


def test_what_decides_an_outcome_is_declared_once():
    """At the flags: nowhere is there a second list of those that decide what is in a file."""
    scripts = {script for makers in hints.MAKERS.values() for script in makers}
    decide = {name for script in scripts for name in hints.declared(script).outcome}
    assert {"lr", "repair", "image_size", "transform", "use_test", "fix_end", "inner_iters_phi", "epsilon"} <= decide
    stages = [
        path for folder in ("training", "alignment", "evaluation") for path in (REPOSITORY / folder).glob("*.py")
    ]
    for path in [*PATHS, *stages]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
                names = {part.value for part in node.elts if isinstance(part, ast.Constant)} & decide
                assert len(names) < 4, f"{path}:{node.lineno} lists {names}"


# --- how large its parts are -------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_parts_are_small(module):
    for name, function in functions(module).items():
        assert function.end_lineno - function.lineno < LINES_OF_A_FUNCTION, name
        if name not in MANY_PARAMETERS:
            assert len(parameters(function)) <= PARAMETERS, name


def test_the_exceptions_are_some():
    assert {name for module in MODULES for name in functions(module)} >= MANY_PARAMETERS


# --- how tests wait ----------------------------------------------------------------------------------------

STARTS = r"subprocess\.(run|Popen|\w*call|\w*output)|os\.(fork|wait\w*|system|popen|\w*spawn\w*)|multiprocessing\..*"
WAITS = r"select\.\w+|.*\.(communicate|wait|readline|accept)"


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.rglob("*.py")), ids=lambda path: path.name)
def test_tests_wait_for_processes_with_a_limit(path):
    """By processes.py alone; the forks of warm.py end with the commands that it starts."""
    used = {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    if path.name not in ("processes.py", "warm.py"):
        assert not [name for name in used if re.fullmatch(f"{STARTS}|{WAITS}", name)]


# --- what importing does -----------------------------------------------------------------------------------


def python(code):
    """What a fresh interpreter prints that runs the code in the repository."""
    return processes.output(sys.executable, "-c", code, cwd=REPOSITORY).split()


def test_an_attack_needs_torch_and_no_more():
    """Somebody who attacks a network of their own loads no readers of images, progress bars or downloads."""
    new = python(
        "import sys, torch, numpy\n"
        "before = set(sys.modules)\n"
        "import utils.attack\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    heavy = {"PIL", "tqdm", "zipfile", "urllib", "scipy", "matplotlib", "torchvision", "http", "argparse"}
    assert not heavy & set(new)
    ours = python("import sys, utils.attack; print(*(name for name in sys.modules if name.startswith('utils')))")
    assert set(ours) == {"utils", *(name for name in MODULES if name in ours)}
    assert set(new) - {"utils"} <= set(sys.stdlib_module_names) | {"torch", "numpy"}


@pytest.mark.parametrize("module", ["curves", "measuring", "pam", "permutations", "training"])
def test_the_method_downloads_nothing(module):
    loaded = set(python(f"import sys, utils.{module}; print(*sys.modules)"))
    assert not {"matplotlib", "torchvision", "PIL"} & loaded


STAGES_THAT_COMPUTE = (
    "training.train_model",
    "training.train_curve_pam",
    "evaluation.eval_curve",
)


def test_parsing_flags_switches_nothing(tmp_path):
    """What flags say of precision and devices holds when a stage runs, not when its flags are read."""
    switches = (
        "backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic, "
        "torch.backends.cuda.matmul.allow_tf32, torch.get_default_dtype(), torch.get_num_threads(), "
        "torch.get_float32_matmul_precision(), torch.is_grad_enabled(), torch.initial_seed()"
    )
    code = (
        "import importlib, torch\n"
        f"before = (torch.{switches})\n"
        f"for name in {STAGES_THAT_COMPUTE}:\n"
        "    parse_args = importlib.import_module(name).parse_args\n"
        f"    parse_args(['--root', {str(tmp_path)!r}, '--precision', 'tf32'])\n"
        f"print((torch.{switches}) == before)"
    )
    assert python(code) == ["True"]
