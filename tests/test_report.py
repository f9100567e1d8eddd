"""The report, as a file and in a browser."""

import importlib
import json
import re
import shutil

import numpy as np
import pytest
from conftest import write_results
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from utils.storage.files import save_arrays
from utils.storage.layout import Layout, Variant

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no browser: install chromium and chromium-driver (or chromedriver)"
)


def run(script, root, *flags):
    module = importlib.import_module(script)
    module.main(module.parse_args(["--root", str(root), *flags]))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    write_results(root)
    pairs = ["--seed_a", "1", "3", "--seed_b", "2", "4"]
    run("visualization.viz_curve", root, "--dataset", "CIFAR10", *pairs, "--epochs", "0", "250")
    run("evaluation.make_report", root)
    return root


@pytest.fixture(scope="module")
def page(root):
    return (root / "figures/report.html").read_text()


def test_it_needs_no_network(page):
    without_library = re.sub(r"<script>/\*\*.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)=["']?(?!data:)[^"'\s>]+""", without_library)
    assert "default-src 'none'" in page  # and the browser holds it to that


def test_it_holds_tables_figures_and_their_commands(page, root):
    assert "<b>TinyTen</b>, the two networks" in page
    assert "<td>87.4 ± 0.1</td>" in page  # published
    assert page.count("<figure>") == len(list((root / "figures").glob("*.png"))) == 3
    assert "python visualization/viz_curve.py --root" in page
    assert "python evaluation/make_tables.py" in page
    assert "python evaluation/eval_curve.py" in page
    assert "python evaluation/eval_plane_with_curve.py" in page
    assert "<li>Nothing.</li>" in page


def test_it_begins_with_the_barriers(tmp_path):
    """In its first sentence, those of every path."""
    layout = write_results(tmp_path, pairs=((1, 2),))
    run("evaluation.make_report", tmp_path)
    page = (tmp_path / "figures/report.html").read_text()
    loss = np.load(layout.evaluated("null", 1, 2, 0))["loss"]
    words = f"Barriers of the loss between networks TinyTen on CIFAR10: line, unaligned {np.ptp(loss):.3f};"
    assert page.split("<p>")[1].startswith(words)


def test_it_says_what_is_missing(tmp_path, capsys):
    layout = write_results(tmp_path)
    layout.plane_with_curve("corr", 3, 4, 250).unlink()
    layout.evaluated("null", 3, 4, 0).write_bytes(b"damaged")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/mine.png").write_bytes(b"a picture of something else")
    run("evaluation.make_report", tmp_path)
    page, printed = (tmp_path / "figures/report.html").read_text(), capsys.readouterr().out
    for name in ("plane_align_corr_seeds_03_04-250.npz", "curve_align_null_seeds_03_04-0.npz", "mine.png"):
        assert re.search(rf"<li>[^<]*{name}", page)
        assert re.search(rf"Not in the report: .*{name}", printed)


def test_one_kind_of_networks_that_cannot_be_read_does_not_stop_the_rest(tmp_path, capsys):
    write_results(tmp_path, pairs=((1, 2),))
    layout = write_results(tmp_path, pairs=((1, 2),), robust=True)
    for path in layout.folder("evaluated").glob("*.npz"):
        path.write_bytes(b"damaged")
    run("evaluation.make_report", tmp_path)
    assert "<b>TinyTen</b>" in (tmp_path / "figures/report.html").read_text()
    assert f"Not in the report: {path}" in capsys.readouterr().out


def test_robust_networks_alone(tmp_path):
    """Every command is that of the robust networks' stages."""
    write_results(tmp_path, pairs=((1, 2),), robust=True)
    run("evaluation.make_report", tmp_path)
    page = (tmp_path / "figures/report.html").read_text()
    assert "<h3>Robust networks</h3>" in page
    assert "<h3>Networks</h3>" not in page
    assert re.search("make_tables.py [^<]*--adversarial", page)
    assert "python evaluation/eval_adversarial_curve.py" in page
    assert "python evaluation/eval_curve.py" not in page
    assert "there are no figures yet; draw them with: python visualization/viz_curve.py" in page


def plots(page):
    """What Plotly draws, by the name of each plot, of the first section that there is."""
    found = re.findall(r'data-plot="(\w+)">(.*?)</script>', page, re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def test_robust_curves_are_marked_where_they_are_worst_and_best(tmp_path):
    layout = write_results(tmp_path, pairs=((1, 2),), alignments=("corr",), robust=True)
    path = layout.evaluated("corr", 1, 2, 250)
    table = dict(np.load(path)) | {"accuracy_robust": np.array([50, 51, 52, 49, 40, 45, 55, 53, 52.0])}
    save_arrays(path, **table)
    run("evaluation.make_report", tmp_path)
    page = (tmp_path / "figures/report.html").read_text()
    marks = [trace for trace in plots(page)["lines"]["data"] if "highest robust accuracy" in trace.get("text", ())]
    of_curve = [trace for trace in marks if trace["legendgroup"] == "curve, aligned"]
    assert len(marks) == 4  # a line and a curve, on clean and on robust accuracy
    for trace, name in zip(of_curve, ("accuracy", "accuracy_robust"), strict=True):
        np.testing.assert_allclose(trace["x"], [0.5, 0.75])
        np.testing.assert_allclose(trace["y"], table[name][[4, 6]])
    for words in (
        "robust accuracy, maximum",
        "clean accuracy, where robust accuracy is highest",
        "the more robust of",
    ):
        assert words in page


def test_curves_of_other_seeds_are_told_apart(tmp_path, capsys):
    """Each in the table, under the slider, and in the commands that made them."""
    layout = write_results(tmp_path)
    for variant, pair in ((Variant(1, 5), (1, 2)), (Variant(1, 5), (3, 4)), (Variant(3), (3, 4))):
        save_arrays(layout.evaluated("corr", *pair, 250, variant), **np.load(layout.evaluated("corr", *pair, 250)))
        plane = np.load(layout.plane_with_curve("corr", *pair, 250))
        save_arrays(layout.plane_with_curve("corr", *pair, 250, variant), **plane)
    run("evaluation.make_report", tmp_path)
    page = (tmp_path / "figures/report.html").read_text()
    curves = {"curve, aligned", "curve of 5 bends, aligned", "curve, aligned, curve seed 3"}
    assert curves <= {trace["name"] for trace in plots(page)["lines"]["data"] if trace.get("mode") == "lines"}
    assert "<th>curve, aligned, curve seed 3 (1 of 2 pairs)</th>" in page
    assert re.search("eval_curve.py [^<]*--num_bends 5", page)
    assert re.search("eval_plane_with_curve.py [^<]*--seed_a 3[^<]*--seed 3", page)
    assert not re.search("--(height|points|trained|images) ", page)  # no flags, though settings tell them
    run("evaluation.make_report", tmp_path, "--num_bends", "5")
    page = (tmp_path / "figures/report.html").read_text()
    assert "curve, aligned" not in page.split("<h2>Figures</h2>")[0]
    assert re.search("make_tables.py [^<]*--num_bends 5", page)
    capsys.readouterr()
    flags = ["--epochs", "250", "--alignment", "corr", "--num_bends", "3"]
    run("evaluation.make_report", tmp_path, "--curve_seed", "1", "3", *flags)
    page = (tmp_path / "figures/report.html").read_text()
    assert "<th>curve, aligned, curve seeds 1, 3</th>" in page
    missing = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Not in the report")]
    assert all("no figures yet" in line for line in missing)


def test_it_can_be_of_one_dataset(root, tmp_path):
    write_results(tmp_path, dataset="mine")
    write_results(tmp_path, pairs=((1, 2),))
    for dataset in ("mine", "CIFAR10"):
        run("visualization.viz_plane", tmp_path, "--dataset", dataset)
    run("evaluation.make_report", tmp_path, "--dataset", "mine", "--alignment", "", "corr")
    page = (tmp_path / "figures/report.html").read_text()
    assert "TinyTen on mine" in page
    assert "on CIFAR10" not in page
    assert re.search("make_tables.py [^<]*--dataset mine --alignment &#x27;&#x27; corr", page)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    switches = ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync")
    quiet = ("disable-background-networking", "disable-component-update", "window-size=1200,1000")
    for switch in (*switches, *quiet, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@needs_browser
def test_the_slider_walks_along_every_path(browser, root):
    """Wherever it is set, the points on planes and lines, and the numbers, are those evaluated there."""
    browser.get((root / "figures/report.html").as_uri())
    slider = browser.find_element(By.CSS_SELECTOR, ".explorer input[type=range]")
    layout, pairs = Layout(root, "TinyTen", "CIFAR10"), ((1, 2), (3, 4))
    kinds = {"line, unaligned": ("null", 0), "line, aligned": ("corr", 0)}
    kinds |= {"curve, unaligned": ("null", 250), "curve, aligned": ("corr", 250)}
    mean = {
        words: {
            name: np.mean([np.load(layout.evaluated(alignment, *pair, epochs))[name] for pair in pairs], axis=0)
            for name in ("t", "accuracy", "loss", "coordinates")
        }
        for words, (alignment, epochs) in kinds.items()
    }
    assert slider.get_attribute("value") == "4"  # the middle of nine points
    positions = [4]
    for key, times in ((Keys.ARROW_RIGHT, 2), (Keys.HOME, 1), (Keys.ARROW_RIGHT, 1), (Keys.END, 1)):
        for _ in range(times):
            slider.send_keys(key)
        positions.append({Keys.HOME: 0, Keys.END: 8}.get(key, positions[-1] + times))
        i = positions[-1]
        assert browser.find_element(By.CSS_SELECTOR, ".explorer output").text == f"{i / 8:.3f}"
        points = browser.execute_script(
            "return [...document.querySelectorAll('.plot')].map(div => div.data"
            ".filter(trace => trace.mode === 'markers').map(trace => [trace.name, trace.x, trace.y]))"
        )
        planes, lines = points
        for (_, x, y), words in zip(planes, ("curve, unaligned", "curve, aligned"), strict=True):
            np.testing.assert_allclose([x[0], y[0]], mean[words]["coordinates"][i], rtol=1e-9)
        assert len(lines) == 8
        for (words, x, y), name in zip(lines, ["accuracy"] * 4 + ["loss"] * 4, strict=True):
            np.testing.assert_allclose([x[0], y[0]], [i / 8, mean[words][name][i]], rtol=1e-9)
        rows = browser.find_elements(By.CSS_SELECTOR, ".readings tbody tr")
        for row in rows:
            words, accuracy, loss = (cell.text for cell in row.find_elements(By.XPATH, "*"))
            assert float(accuracy) == pytest.approx(mean[words]["accuracy"][i], rel=1e-3)
            assert float(loss) == pytest.approx(mean[words]["loss"][i], rel=1e-3)
    markers = browser.execute_script("return document.querySelectorAll('.plot .scatterlayer .point').length")
    assert markers >= 2 + 8  # drawn, not only set


@needs_browser
def test_it_opens_without_errors_or_requests(browser, root):
    browser.get((root / "figures/report.html").as_uri())
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    requests = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert not [name for name in requests if not name.startswith(("data:", "blob:"))]
    broken = browser.execute_script("return [...document.images].filter(image => !image.naturalWidth).length")
    assert broken == 0
    wide = browser.execute_script("return document.documentElement.scrollWidth > window.innerWidth")
    assert not wide
    state = browser.execute_script("return document.querySelector('[data-state]').textContent")
    assert len(json.loads(state)["steps"]) == 9
