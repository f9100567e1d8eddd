"""What is installed: the lock file has all that is required, and the image is made of what is there."""

import json
import re

import pytest
from packaging.requirements import Requirement
from stages import REPOSITORY

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
