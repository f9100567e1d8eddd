"""What is installed: the lock file has all that is required, and the image is made of what is there."""

import json
import os
import re
import shutil
import sys
import tomllib

import processes
import pytest
from packaging.requirements import Requirement
from stages import REPOSITORY

import utils

REQUIRED = ("requirements.txt", "requirements-report.txt")


def lines(name):
    """The lines of a file that are neither empty nor comments; a \\ at a line's end joins two."""
    text = (REPOSITORY / name).read_text().replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def pinned():
    """The lock file's packages by name: the requirement of each, and its hashes."""
    entries = [line.split(" --hash=") for line in lines("requirements.lock")]
    packages = {(wanted := Requirement(entry)).name: (wanted, hashes) for entry, *hashes in entries}
    assert len(packages) == len(entries)
    return packages


def test_every_package_is_pinned_with_hashes():
    for name, (wanted, hashes) in pinned().items():
        assert [part.operator for part in wanted.specifier] == ["=="], name
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", value) for value in hashes), name


@pytest.mark.parametrize("file", REQUIRED)
def test_the_lock_file_has_all_that_is_required(file):
    """For every machine, in a version that will do."""
    packages = pinned()
    for line in lines(file):
        wanted = Requirement(line)
        found, _ = packages[wanted.name]
        (version,) = (part.version for part in found.specifier)
        assert wanted.specifier.contains(version), line
        assert found.marker is None, line
    command = (REPOSITORY / "requirements.lock").read_text().splitlines()[1]
    assert command.startswith("#    uv pip compile --universal")
    assert command.split()[-len(REQUIRED) :] == list(REQUIRED)


def test_the_image_is_made_of_what_is_there():
    """Files that are copied, targets that are made; what git ignores stays outside, and the environment too."""
    steps = [line.split(maxsplit=1) for line in lines("Dockerfile")]
    copied = [words.split()[1:-1] for step, words in steps if step == "COPY"]
    assert copied[-1] == ["."]
    for name in copied[0]:
        assert (REPOSITORY / name).is_file(), name
    assert set(REQUIRED) < set(copied[0])
    made = [words.split()[1] for step, words in steps if step == "RUN" and words.startswith("make ")]
    (command,) = (json.loads(words) for step, words in steps if step == "CMD")
    assert (made, command) == ([".venv/installed"], ["make", "quick"])
    for target in (*made, command[1]):
        assert re.search(rf"^{re.escape(target)}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE), target
    assert [words for step, words in steps if step == "USER"] == ["user"]

    def outside(name):
        return {line.strip("/").removeprefix("**/").replace("!/", "!") for line in lines(name)}

    assert outside(".dockerignore") == outside(".gitignore") | {".git"}


# --- the method by itself ----------------------------------------------------------------------------------

SETTING = """
import sys
before = set(sys.modules) | {"torch", "numpy", "scipy"}
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
known = set(sys.modules)
import neuronalignment
for name in neuronalignment.__all__:
    getattr(neuronalignment, name)
print(*{name.partition(".")[0] for name in set(sys.modules) - known})
import models, utils
assert (utils.theirs, models.theirs) == (1, 2)
torch.manual_seed(0)
net_a, net_b = (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
net_b.load_state_dict(net_a.state_dict())
order = torch.randperm(8)
net_b[0].weight.data, net_b[0].bias.data = net_a[0].weight[order].detach(), net_a[0].bias[order].detach()
net_b[2].weight.data = net_a[2].weight[:, order].detach()
x = torch.randn(64, 6)
train = test = DataLoader(TensorDataset(x, net_a(x).argmax(1)), batch_size=16)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built of what git has of it and installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(REPOSITORY / "utils", source / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    result = processes.run(*pip, "install", *offline, "--target", folder / "site", source)
    assert result.returncode == 0, result.stderr
    return folder / "site"


def test_the_wheel_has_the_method_alone(installed):
    files = {str(path.relative_to(installed)) for path in installed.rglob("*.py")}
    method = [*(REPOSITORY / "utils").glob("*.py"), *(REPOSITORY / "utils/symmetries").glob("*.py")]
    assert files == {f"neuronalignment/{path.relative_to(REPOSITORY / 'utils')}" for path in method}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    required = {Requirement(line).name: line for line in lines("requirements.txt")}
    assert {required[Requirement(line).name] for line in project["dependencies"]} == set(project["dependencies"])


def test_beside_a_project_of_its_own(installed, tmp_path):
    """README's lines run where a project has its own `utils`, as a folder and as a file, and its own `models`."""
    for name, number in (("utils", 1), ("models", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"theirs = {number}\n")
    (tmp_path / "utils.py").write_text("theirs = 3\n")
    readme = (REPOSITORY / "README.md").read_text()
    (block,) = re.findall(r"```python\n(from neuronalignment import .*?)```", readme, flags=re.DOTALL)
    script = tmp_path / "project.py"
    script.write_text(SETTING + block + "print((permutations[0] == order.argsort().numpy()).all())\n")
    result = processes.run(sys.executable, script, env={**os.environ, "PYTHONPATH": str(installed)})
    assert result.returncode == 0, result.stderr
    imported, *_, values, found = result.stdout.splitlines()
    third_party = set(imported.split()) - set(sys.stdlib_module_names)
    assert not third_party & {"tqdm", "PIL", "matplotlib", "torchvision", "utils", "models"}
    assert values.endswith("barrier of the loss: 0.0")
    assert found == "True"


def test_the_face_is_found_in_one_place():
    """Every public name is what its home has, and a submodule never hides one."""
    for name in utils.__all__:
        assert getattr(utils, name).__name__ == name
        assert not (REPOSITORY / "utils" / f"{name}.py").exists()
        assert not (REPOSITORY / "utils" / name).exists()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = utils.nothing
