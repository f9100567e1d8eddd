"""The documents: their commands run, in order and in one root, and what they link to, name and quote is there."""

import contextlib
import functools
import importlib
import io
import json
import re
import runpy
import shlex
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from stages import PUBLISHED
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import utils
from models import MODELS, TinyTen, build

REPOSITORY = Path(__file__).resolve().parent.parent
README = "README.md"
# In the order in which the README lists them, which is the order in which their commands are run
DOCUMENTS = (README, *dict.fromkeys(re.findall(r"docs/[\w-]+\.md", (REPOSITORY / README).read_text())))


class Block(NamedTuple):
    """A block of code in a document: its language, the number of its first line, and its lines."""

    document: str
    number: int
    language: str
    text: str


def read(document: str) -> str:
    return (REPOSITORY / document).read_text()


def blocks(document: str) -> list[Block]:
    text = read(document)
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(document, text[: match.start(2)].count("\n") + 1, match[1], match[2]) for match in found]


def commands(block: Block) -> Iterator[tuple[int, list[str]]]:
    """The commands of a block of shell lines as (number of the line, words); a \\ at a line's end joins two."""
    number = block.number
    for line in re.split(r"(?<!\\)\n", block.text):
        if words := shlex.split(line.replace("\\\n", " "), comments=True):
            yield number, words
        number += line.count("\n") + 1


def prose(document: str) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", read(document), flags=re.MULTILINE | re.DOTALL)


# --- running commands --------------------------------------------------------------------------------------

# Numbers of epochs become 1 (0 stays: the straight line), and stages get flags with which they are fast.
EPOCHS = {"--epochs", "--epochs_model", "--epochs_curve", "--inner_iters_perm", "--inner_iters_phi"}
FASTER = {
    "training/train_model_adversarial.py": ["--attack_steps", "1"],
    "training/train_curve_adversarial.py": ["--attack_steps", "1"],
    "evaluation/eval_curve.py": ["--num_points", "3"],
    "evaluation/eval_adversarial_curve.py": ["--num_points", "3", "--attack_steps", "1"],
    "evaluation/eval_plane_with_curve.py": ["--num_points", "3"],
    "evaluation/eval_plane_with_alignment.py": ["--num_points", "3"],
}


class Session:
    """Somebody who follows the documents from the top, in one root, with small datasets under their names."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch):
        self.root, self.data, self.patch = folder / "root", folder / "data", patch
        self.root.mkdir()
        self.written: set[str] = set()

    def follow(self, document: str) -> None:
        self.is_active = False  # whether the environment is: every document says so for itself
        for block in blocks(document):
            if block.language == "sh":
                for number, words in commands(block):
                    self.do(f"{document}:{number}: {shlex.join(words)}", *words)
            elif block.language == "python" and document != README:
                self.network = block.text

    def do(self, where: str, program: str, *words: str) -> None:
        """What is done about one command; a form that is not known here is a failure."""
        if program == ".":
            assert words == (".venv/bin/activate",), where
            self.is_active = True
            return
        assert self.is_active or program == "make", f"{where}\nbefore . .venv/bin/activate"
        match (program, *words):
            case ("make", target):
                assert re.search(rf"^{target}:", read("Makefile"), re.MULTILINE), where
            case ("python", "-m", "pip", "install", *files):
                assert files[::2] == ["-r"] * len(files[1::2]), where
                assert all((REPOSITORY / file).is_file() for file in files[1::2]), where
            case ("snakemake", "--configfile", preset, *_):  # what it does then is in test_workflow.py
                assert (REPOSITORY / preset).is_file(), where
            case ("torchrun", "--nproc_per_node", count, script, *flags):  # and this in test_distributed.py
                assert int(count) > 1, where
                with self.failing(where, script, flags):
                    stage(script)["parse_args"](flags)
            case ("python", "benchmarks/cost.py", "presets/paper.yaml", *flags):  # the paper's takes minutes
                self.run(where, "benchmarks/cost.py", "presets/demo.yaml", *flags)
            case ("python", script, *flags):
                flags = [self.place_file(script, flag) for flag in flags]
                self.run(where, script, *lowered(script, flags), *self.places(script, flags))
            case _:
                pytest.fail(f"{where}\nno command that this test knows")

    def places(self, script: str, flags: list[str]) -> list[str]:
        """The flags that keep a stage to the folders of this session; its dataset is put there."""
        words = ["--root", str(self.root)]
        if not re.match("training|alignment/align|evaluation/e|data", script):
            return words
        words += ["--out", str(self.root / "merged.pt")] if "--out" in flags else []
        name = flags[flags.index("--dataset") + 1] if "--dataset" in flags else "FashionMNIST10k"
        if ":" not in name:
            write_dataset(self.data / name)
        device = [] if script.startswith("data/") else ["--device", "cpu"]
        return [*words, "--data_path", str(self.data), *device]

    def run(self, where: str, script: str, *flags: str) -> None:
        """Run a script as its command does, but in this process; the files that it says it wrote are there."""
        with self.failing(where, script, flags) as out:
            stage(script, "__main__")
        if "Wrote:\n" in out.getvalue():
            lines = out.getvalue().split("Wrote:\n")[1].split("Next:")[0].splitlines()
            for path in (Path(line.strip()) for line in lines if line.startswith("  ")):
                assert path.is_file(), f"{where}\n{path}"
                self.written.add(str(path.relative_to(self.root)))

    @contextlib.contextmanager
    def failing(self, where: str, script: str, flags: Sequence[str]) -> Iterator[io.StringIO]:
        """Where a script ends with an error, this fails with what it says; gives what it prints otherwise."""
        self.patch.setattr(sys, "argv", [script, *flags])
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                yield out
        except SystemExit as ended:
            assert not ended.code, f"{where}\n{err.getvalue()}"

    def place_file(self, script: str, word: str) -> str:
        """A file of the reader's own, in this session's folder: FILE.py:NAME is the network last written.

        A checkpoint (.pt) that is brought in is of that network, as other code would save it.
        """
        file, colon, name = word.partition(".py:")
        if colon:
            (self.root / f"{file}.py").write_text(self.network)
            self.name = f"{self.root / file}.py:{name}"
            return self.name
        if word.endswith(".pt") and script == "training/import_checkpoint.py":
            state = build(self.name, 10).state_dict()
            torch.save({"net": {f"module.{entry}": value for entry, value in state.items()}}, self.root / word)
        return str(self.root / word) if word.endswith((".pt", ".json")) else word


def stage(script: str, name: str = "stage") -> dict[str, object]:
    """A script's names, run as a plain file."""
    return runpy.run_path(str(REPOSITORY / script), run_name=name)


def lowered(script: str, flags: list[str]) -> list[str]:
    words, flag = [], ""
    for word in flags:
        flag = word if word.startswith("--") else flag
        words.append("1" if flag in EPOCHS and word.isdigit() and word != "0" else word)
    return [*words, *FASTER.get(script, [])]


def write_dataset(folder: Path) -> None:
    """A folder of images, 200 to train on and 50 to test on, made of the embedded ones."""
    if folder.exists():
        return
    with np.load(REPOSITORY / "data/FashionMNIST10k.npz") as stored:
        for split, count in (("train", 20), ("test", 5)):
            images, labels = stored[f"{split}_images"], stored[f"{split}_labels"]
            for c in range(10):
                place = folder / split / f"class{c}"
                place.mkdir(parents=True)
                for i, image in enumerate(images[labels == c][:count]):
                    Image.fromarray(np.pad(image, 2)).convert("RGB").save(place / f"{i:02d}.png")


@pytest.mark.long
def test_commands(tmp_path, monkeypatch, quick_pam):
    """Every command works where those before it have been run; they make files of all kinds."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr(sys, "path", list(sys.path))  # to which scripts add the repository
    monkeypatch.chdir(REPOSITORY)
    session = Session(tmp_path, monkeypatch)
    for document in DOCUMENTS:
        session.follow(document)
    names = {Path(name).name.split("_CIFAR100")[0] for name in session.written if name.startswith("figures/")}
    kinds = {"curve", "training", "training_networks", "robust_curve", "table", "robust_table", "report.html"}
    kinds |= {"plane_with_curve_accuracy", "plane_with_alignment_accuracy", "correlation", "correlation_along_curve"}
    assert kinds <= names
    assert any(re.search("=SmallNet=.+/FashionMNIST10k/match_corr", name) for name in session.written)


def test_from_python_as_pasted(monkeypatch):
    """The first block of the README prints what stands below it, but for how another processor rounds."""
    shown = blocks(README)
    at = next(number for number, block in enumerate(shown) if block.language == "python")
    monkeypatch.chdir(REPOSITORY)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(shown[at].text, f"{README}:{shown[at].number}", "exec"), {})
    texts = out.getvalue().splitlines()[-1], shown[at + 1].text  # after the progress
    (words, *found), (expected, *printed) = (re.split(r" (?=\d)", text) for text in texts)
    assert words == expected and len(found) == 3
    np.testing.assert_allclose(np.array(found, float), np.array(printed, float), atol=0.15)


def test_from_python(monkeypatch):
    """The second block of the README runs on two networks and loaders of one's own, and does what it says."""
    _, block = (block for block in blocks(README) if block.language == "python")
    assert len(block.text.splitlines()) <= 15
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    images, labels = torch.randn(96, 3, 16, 16, generator=generator), torch.arange(96) % 4
    train, test = TensorDataset(images[:64], labels[:64]), TensorDataset(images[64:], labels[64:])
    net_a, net_b = TinyTen(4).eval(), TinyTen(4).eval()
    before, weights = net_b(images).detach(), net_b.layers[0].conv.weight.clone()
    text, count = re.subn(r"epochs=\d+", "epochs=2", block.text.replace("neuronalignment", "utils"))
    assert count == 1
    names = {"net_a": net_a, "net_b": net_b, "train": DataLoader(train, 32), "test": DataLoader(test, 32)}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(text, f"{README}:{block.number}", "exec"), names)
    assert "barrier" in out.getvalue()
    torch.testing.assert_close(net_b.eval()(images), before, rtol=1e-4, atol=1e-4)
    assert not torch.equal(net_b.layers[0].conv.weight, weights)
    curve, path = names["curve"], names["path"]
    for end, network in ((0.0, net_a), (1.0, net_b)):
        assert torch.equal(curve.point(end), curve.flat.flatten(network.state_dict()))
    assert not torch.allclose(curve.point(0.5), (curve.point(0.0) + curve.point(1.0)) / 2)
    for name in ("t", "loss", "accuracy", "length"):
        assert path[name].shape == (9,)
        assert np.isfinite(path[name]).all()
    other = names["evaluate_curve"](curve, train, (images[64:], labels[64:]), path["t"])
    # Batch norm is re-estimated on other batches of the same images.
    np.testing.assert_allclose(other["loss"], path["loss"], rtol=0.05)
    assert isinstance(names["fit_curve"](net_a, net_b, train, epochs=1), nn.Module)


# --- the published commands --------------------------------------------------------------------------------


def test_published_commands():
    """These documents print what the original's README does for TinyTen on CIFAR-100."""
    shown = [block for document in DOCUMENTS for block in blocks(document) if block.language == "sh"]
    printed = [words for block in shown for _, words in commands(block)]
    published = map(shlex.split, PUBLISHED)
    asked_for = [words for words in published if "CIFAR100" in words and "--model" in words]
    assert len(asked_for) == 5
    for words in asked_for:
        assert words in printed


# --- what is named and quoted ------------------------------------------------------------------------------


def test_length_of_the_readme():
    assert len(read(README).splitlines()) <= 200


def test_all_documents_are_listed():
    assert set(DOCUMENTS) == {README, *(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))}


def anchors(document: Path) -> set[str]:
    """The names under which a document's headings can be linked to."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_images(document):
    """Every relative link leads to a file, and its anchor to a heading; every image is there."""
    links = [*re.findall(r"\]\(([^)]+)\)", prose(document)), *re.findall(r'src="([^"]+)"', prose(document))]
    for link in (link for link in links if not link.startswith("https://")):
        name, _, anchor = link.partition("#")
        target = (REPOSITORY / document).parent / name if name else REPOSITORY / document
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


STAGES = ("training", "alignment", "evaluation", "visualization", "data")
FOLDERS = (*STAGES, "models", "utils", "presets", "benchmarks", "tests", "results", "docs")


@functools.cache
def files() -> list[Path]:
    """What is in the repository, without what runs have left there."""
    folders = (path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*"))
    return [path for path in (*REPOSITORY.iterdir(), *folders) if path.is_file()]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_is_named(document):
    """Scripts, presets and the like exist, by their path or by their name alone; so do flags and make's targets."""
    names = {path.name for path in files()} | {str(path.relative_to(REPOSITORY)) for path in files()}
    text = re.sub(r"https://\S+", "", read(document).replace("../", ""))
    named = set(re.findall(r"(?<![\w/.*-])[\w/-]+\.(?:py|yaml|csv|txt|md|png)\b(?!\.xz)", text))
    assert named - names <= {"path/to/FILE.py", "smallnet.py", "words.py", "mixed.py", "FILE.py"}  # the reader's own
    code = "\n".join(path.read_text() for path in files() if path.suffix == ".py" and path != Path(__file__))
    for flag in re.findall(r"--(?:no-)?([a-z_]+)", prose(document)):
        assert re.search(rf'["\s]--{flag}["\s]', code) or flag == "unlock", flag  # which is snakemake's
    for target in re.findall(r"`make ([^`]+)`", prose(document)):
        assert re.search(rf"^{re.escape(target)}:", read("Makefile"), re.MULTILINE), target


def test_the_map_names_every_module():
    """The file map has every script and every module of the library, and nothing that is not there."""
    (text,) = (block.text for block in blocks("docs/files.md") if "utils/" in block.text and not block.language)
    words = set(re.findall(r"\w+", text))
    for folder in STAGES:
        for path in (REPOSITORY / folder).rglob("*.py"):
            assert path.stem in words, path
    for path in (REPOSITORY / "utils").glob("*.py"):
        assert path.stem == "__init__" or path.stem in words, path
    for path in (REPOSITORY / "utils").iterdir():
        assert path.is_file() or path.name == "__pycache__" or f"    {path.name}/" in text
    for folder in re.findall(r"^(?:    )?(\w+)/", text, re.MULTILINE):
        assert (REPOSITORY / folder).is_dir() or (REPOSITORY / "utils" / folder).is_dir(), folder
    for line in re.findall(r"^    (\w.*?)   ", text, re.MULTILINE):  # modules, up to the words about them
        for name in line.split():
            assert (REPOSITORY / "utils" / f"{name}.py").is_file() or name.endswith("/"), name


@pytest.mark.parametrize(
    "document, results",
    [
        (README, "demo/table_FashionMNIST10k_TinyTen_pairs.md"),
        ("docs/workflow.md", "demo/comparison_FashionMNIST10k_TinyTen.md"),
        ("docs/many-machines.md", "cifar10-cpu/comparison_cifar10-jpeg_TinyTen.md"),
        ("docs/many-machines.md", "cifar10-cpu/table_cifar10-jpeg_TinyTen.md"),
        ("docs/any-network.md", "networks/summary.md"),
        ("docs/workflow.md", "demo/table_FashionMNIST10k_TinyTen_pam.md"),
        ("docs/workflow.md", "demo/robust_table_FashionMNIST10k_TinyTen.md"),
        ("docs/workflow.md", "width/width.md"),
        ("docs/speed.md", "bench/bench.md"),
    ],
)
def test_tables_are_those_of_the_results(document, results):
    """Every row of the results is in the document, and the document's table has no other."""
    tables = re.findall(r"(?:^\|.*\n)+", read(document), re.MULTILINE)
    made = re.findall(r"(?:^\|.*\n)+", (REPOSITORY / "results" / results).read_text(), re.MULTILINE)
    rows = [table.split("\n", 2)[2] for table in tables]
    assert made
    for table in made:
        assert table.split("\n", 2)[2] in rows


def test_the_narrow_table_is_part_of_the_wide_one():
    rows = read("results/cifar10-cpu/comparison_cifar10-jpeg_TinyTen.md").split("\n\n")[0].splitlines()
    assert "\n".join(" |".join(row.split(" |")[:4]) + " |" for row in rows) in read(README)


def test_the_ratio_of_a_curve_epoch_is_that_of_the_table():
    bench = json.loads(read("results/bench/bench.json"))
    train, curve = (statistics.median(bench["seconds"][f"{what}_epoch"]["fp32"]) for what in ("train", "curve"))
    assert f"takes {curve / train:.2f} times a training epoch**: {curve:.2f} s / {train:.2f} s" in read(
        "docs/speed.md"
    )


def test_the_costs_are_sums_of_those_of_the_results():
    """EFLOP by model, without and with robustness, and in all."""
    rows = re.findall(r"^\| (\w+), (robust )?.* \| ([\d,.]+) \|$", read("results/cost/paper.md"), re.MULTILINE)
    text = read("docs/speed.md")
    for is_robust, line in enumerate(re.findall(r"^\| .* EFLOP \|$", text, re.MULTILINE)):
        for model, number in zip(MODELS, re.findall(r"([\d.]+) EFLOP", line), strict=False):
            costs = (cost for name, robust, cost in rows if name == model and bool(robust) == bool(is_robust))
            assert sum(float(cost.replace(",", "")) for cost in costs) / 1000 == pytest.approx(
                float(number), rel=0.01
            )
    stages, total = re.search(r"(\d+) stages: ([\d.]+) EFLOP", read("results/cost/paper.md")).groups()
    assert f"The {stages} stages together are {total} EFLOP" in text
    assert f"{stages} stages, after three that prepare the datasets" in read("docs/many-machines.md")


# --- the library -------------------------------------------------------------------------------------------


def test_the_page_of_the_library_is_complete():
    names = re.findall(r"^\| `(\w+)", (REPOSITORY / "docs/api.md").read_text(), flags=re.MULTILINE)
    assert sorted(names) == utils.__all__


def test_every_step_of_the_method_is_where_the_table_says():
    rows = [line for line in (REPOSITORY / "docs/method.md").read_text().splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 15
    for row in rows:
        names = re.findall(r"`([\w.]+)`", row.rpartition(" | ")[2])
        assert names, row
        for name in names:
            module = re.match(r"(symmetries\.)?\w+", name)[0]
            parts = name.removeprefix(f"{module}.").split(".")
            functools.reduce(getattr, parts, importlib.import_module(f"utils.{module}"))
