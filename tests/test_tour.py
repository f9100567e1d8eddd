"""The notebook: its cells run in their order, in docs/, and find what they say; and progress in notebooks."""

import io
import json
import os
import re
import sys

import numpy as np
import processes
import pytest
from stages import REPOSITORY
from tqdm.std import tqdm

from utils import geometry, progress

NOTEBOOK = REPOSITORY / "docs/tour.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]

# What a kernel does with the cells, without Jupyter; the numbers of the paths are printed last
RUN = """
import json, sys, warnings
warnings.filterwarnings("ignore", ".*non-interactive")  # nobody sees the figures
names = {}
for number, cell in enumerate(json.loads(open("tour.ipynb").read())["cells"]):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"<cell {number}>", "exec"), names)
numbers = {name: names[name].tolist() for name in ("before", "after")}
for words, path in names["paths"].items():
    numbers[words] = {name: path[name].tolist() for name in ("accuracy", "loss")}
print(json.dumps(numbers | {"difference": names["difference"]}))
"""


def test_it_keeps_what_it_shows():
    """In one form, so that what changes in it is what somebody changed; every cell was run once, in their order."""
    canonical = json.dumps(json.loads(NOTEBOOK.read_text()), indent=1, sort_keys=True, ensure_ascii=False)
    assert NOTEBOOK.read_text() == canonical + "\n" and len(canonical.encode()) < 300_000
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    for cell in code:
        source = "".join(cell["source"])
        figures = [one for one in cell["outputs"] if "image/png" in one.get("data", ())]
        assert len(figures) == source.count("plt.show()")
        assert any(one["output_type"] == "stream" for one in cell["outputs"]) == ("print(" in source)


@pytest.mark.long
def test_what_the_tour_finds():
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"MPLBACKEND": "Agg"}
    result = processes.run(sys.executable, "-c", RUN, cwd=NOTEBOOK.parent, env=environment)
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["difference"] < 1e-4
    *layers_before, logits_before = found["before"]
    *layers_after, logits_after = found["after"]
    assert all(one + 0.2 < other for one, other in zip(layers_before, layers_after, strict=True))
    assert logits_before == logits_after  # which keep their order
    line, aligned, curve = (found[words] for words in ("line", "line, aligned", "curve, aligned"))
    assert len(line["accuracy"]) == 5
    (shown,) = (one["text"] for cell in CELLS if cell.get("id") == "barriers" for one in cell["outputs"])
    for words, accuracy, barrier in (re.search(r"(.+?) +midpoint +(.+) %.* (.+)\n", text).groups() for text in shown):
        assert found[words]["accuracy"][2] == pytest.approx(float(accuracy), abs=4)
        assert geometry.barrier(np.linspace(0, 1, 5), found[words]["loss"]) == pytest.approx(float(barrier), abs=0.2)
    assert aligned["accuracy"][2] > line["accuracy"][2] + 30
    assert max(curve["loss"]) < max(aligned["loss"]) < max(line["loss"]) - 1
    for end in (0, -1):  # the same networks, with batch norm re-estimated on the same images
        assert line["loss"][end] == pytest.approx(aligned["loss"][end], rel=1e-3)


class Widget(tqdm):
    """tqdm's bar in a notebook, in what matters here: it has a container, and is shown where there is no terminal."""

    def __init__(self, **options):
        super().__init__(**options | {"disable": False, "file": io.StringIO()})
        self.container = self.fp


def test_a_notebook_shows_one_bar(monkeypatch, capsys):
    """Which stays, with the last line beside it; a log file has the lines."""
    for bar in (Widget, tqdm):
        monkeypatch.setattr("tqdm.auto.tqdm", bar)
        with progress.Progress(30, "step") as shown:
            for epoch in range(3):
                for _ in range(10):
                    shown.step()
                shown.line(f"epoch {epoch + 1}")
        out, err = capsys.readouterr()
        assert (len(out.splitlines()), err) == (0 if bar is Widget else 3, "")
        if bar is Widget:
            assert shown.bar.fp.getvalue().count("\n") == 1  # of the bar that stays
            assert "30/30" in (last := shown.bar.fp.getvalue().split("\r")[-1])
            assert "epoch 3" in last
