"""The report, as a file and in a browser."""

import base64
import json
import re
import shutil

import numpy as np
import pytest
from conftest import write_results
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from stages import run

from utils.reports import page as pages
from utils.stages.files import save_array, save_arrays
from utils.stages.layout import Layout, Variant

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no browser: install chromium and chromium-driver (or chromedriver)"
)


def report(root, *flags):
    """The report of what has been evaluated under `root`."""
    run("evaluation/make_report.py", "--root", root, *flags)
    return (root / "figures/report.html").read_text()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    write_results(root)
    flags = ["--root", root, "--dataset", "CIFAR10", "--seed_a", 1, 3, "--seed_b", 2, 4]
    run("visualization/viz_curve.py", *flags, "--epochs", 0, 250)
    run("visualization/viz_curve_on_plane.py", *flags, "--epochs", 250)
    run("evaluation/compare_alignments.py", "--root", root)
    report(root)
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
    assert page.count("<figure>") == len(list((root / "figures").glob("*.png"))) == 8
    assert "python visualization/viz_curve.py --root" in page
    assert "python evaluation/make_tables.py" in page
    assert "python evaluation/eval_curve.py" in page
    assert "python evaluation/eval_plane_with_curve.py" in page
    assert "<li>Nothing.</li>" in page


def test_it_begins_with_how_far_barriers_fall(tmp_path):
    """In words, what alignment does for lines and what for curves."""
    layout = write_results(tmp_path, pairs=((1, 2),))
    page = report(tmp_path)
    barriers = {
        (name, epochs): f"{np.ptp(np.load(layout.evaluated(name, 1, 2, epochs))['loss']):.2f}"
        for name in ("null", "corr")
        for epochs in (0, 250)
    }
    words = "TinyTen on CIFAR10: the barrier of the loss falls "
    words += f"from {barriers['null', 0]} (line, unaligned) to {barriers['corr', 0]} (line, aligned), and "
    words += f"from {barriers['null', 250]} (curve, unaligned) to {barriers['corr', 250]} (curve, aligned)."
    assert page.split("<p>")[1].startswith(words)
    save_arrays(layout.evaluated("corr", 1, 2, 250), **np.load(layout.evaluated("null", 1, 2, 250)))
    lines, *_ = words.partition(", and ")
    assert report(tmp_path).split("<p>")[1].startswith(f"{lines}.")  # curves do not differ


def test_alignments_are_compared(root, page):
    """By the table that compares them and by its figure, in a part of their own, where there are several."""
    part = page.partition("<h2>Alignments compared</h2>")[2].partition("<h2>")[0]
    written = (root / "figures/comparison_CIFAR10_TinyTen.md").read_text()
    headings = [cell.strip() for cell in written.splitlines()[0].strip("|").split("|")]
    assert "L2 distance of the networks" in headings
    assert re.findall("<th scope=col>(.*?)</th>", part) == headings
    for line in written.splitlines()[3:7]:
        words, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        row = re.search(f"<th scope=row>{words}</th>(.*?)</tr>", part)[1]
        assert re.findall("<td>(.*?)</td>", row) == cells
    assert "compare_alignments.py --root" in part
    assert part.count("<figure>") == 1
    assert "figures/comparison_CIFAR10_TinyTen.png" in part


def test_captions_differ(page):
    """Of figures that a script draws of accuracy and of loss too; they say what is shown."""
    captions = re.findall(r'<figure><img alt="(.*?)".*?<figcaption>(.*?)<p', page, re.DOTALL)
    assert all(alt == f"TinyTen on CIFAR10: {caption}" for alt, caption in captions)
    assert len(set(captions)) == len(captions)
    names = re.findall("<p class=made>figures/(.*?)_CIFAR10_TinyTen.png</p>", page)
    told = {name: caption for name, (_, caption) in zip(names, captions, strict=True)}
    assert "test accuracy (%)" in told["plane_with_curve_accuracy"]
    assert "test loss" in told["plane_with_curve_loss"]
    assert "standard deviation of test loss" in told["plane_with_curve_loss_deviation"]
    assert told["plane_with_curve_loss"].endswith("Shown: curve, unaligned; curve, aligned.")
    assert told["curve"].endswith("Shown: line, unaligned; line, aligned; curve, unaligned; curve, aligned.")


def test_it_says_what_is_missing(tmp_path, capsys):
    layout = write_results(tmp_path)
    layout.plane_with_curve("corr", 3, 4, 250).unlink()
    layout.evaluated("null", 3, 4, 0).write_bytes(b"damaged")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/mine.png").write_bytes(b"a picture of something else")
    page, printed = report(tmp_path), capsys.readouterr().out
    for name in ("plane_align_corr_seeds_03_04-250.npz", "curve_align_null_seeds_03_04-0.npz", "mine.png"):
        assert re.search(rf"<li>[^<]*{name}", page)
        assert re.search(rf"Not in the report: .*{name}", printed)


def test_one_kind_of_networks_that_cannot_be_read_does_not_stop_the_rest(tmp_path, capsys):
    write_results(tmp_path, pairs=((1, 2),), alignments=("corr",))
    layout = write_results(tmp_path, pairs=((1, 2),), robust=True)
    for path in layout.folder("evaluated").glob("*.npz"):
        path.write_bytes(b"damaged")
    page = report(tmp_path)
    assert "<b>TinyTen</b>" in page
    assert "Alignments compared" not in page  # there is one, and nothing to compare it with
    assert f"Not in the report: {path}" in capsys.readouterr().out


def walks_of(page):
    """What is drawn of each path, by its words, in the first section that there is."""
    state = json.loads(re.search("data-state>(.*?)</script>", page)[1])
    return {walk["words"]: walk for walk in state["walks"]}


def test_robust_networks_alone(tmp_path):
    """Every command is that of their stages; curves are marked where they are worst and best."""
    layout = write_results(tmp_path, pairs=((1, 2),), alignments=("corr",), robust=True)
    path = layout.evaluated("corr", 1, 2, 250)
    table = dict(np.load(path)) | {"accuracy_robust": np.array([50, 51, 52, 49, 40, 45, 55, 53, 52.0])}
    save_arrays(path, **table)
    page = report(tmp_path)
    assert "<h3>Robust networks</h3>" in page
    assert "<h3>Networks</h3>" not in page
    assert re.search("make_tables.py [^<]*--adversarial", page)
    assert "python evaluation/eval_adversarial_curve.py" in page
    assert "python evaluation/eval_curve.py" not in page
    assert "there are no figures yet; draw them with: python visualization/viz_curve.py" in page
    walks = walks_of(page)
    assert list(walks) == ["line, aligned", "curve, aligned"]
    assert walks["curve, aligned"]["extremes"] == [4, 6]
    for name in ("accuracy", "accuracy_robust"):
        np.testing.assert_allclose(walks["curve, aligned"]["values"][name], table[name])
    of_table = "robust accuracy, maximum", "clean accuracy, where robust accuracy is highest", "the more robust of"
    assert all(words in page for words in of_table)


def test_losses_alone(tmp_path):
    """Of tasks without accuracy: tables, figures and slider show losses, and no plane is coloured by accuracy."""
    write_results(tmp_path, pairs=((1, 2),))
    settings = {"task": "regression", "epochs_model": 250}
    for path in tmp_path.rglob("*.np[yz]"):
        if path.name.startswith("accuracy"):
            path.unlink()
        elif path.name.startswith("loss"):
            save_array(path, np.load(path), {"settings": settings})
        elif path.suffix == ".npz":
            arrays = {name: array for name, array in np.load(path).items() if not name.startswith("accuracy")}
            save_arrays(path, **arrays | {"settings": np.array(json.dumps(settings))})
    flags = ["--root", tmp_path, "--dataset", "CIFAR10"]
    for script in ("viz_curve", "viz_curve_on_plane", "viz_plane"):
        run(f"visualization/{script}.py", *flags, "--epochs", 250)
    run("evaluation/compare_alignments.py", "--root", tmp_path)
    page = report(tmp_path)
    assert "<li>Nothing.</li>" in page
    assert {name for walk in walks_of(page).values() for name in walk["values"]} == {"loss"}
    assert not any(walk["plane"] for walk in walks_of(page).values())
    headings = re.findall("<th scope=col>(.*?)</th>", page)
    assert "<b>TinyTen</b>, line, unaligned" in page
    assert page.count("Losses on test samples; one pair.") == 2 and "Test accuracy in percent" not in page
    assert "loss, barrier" in headings and not any("accuracy" in words for words in headings)
    figures = re.findall(r"figures/(\w+)_CIFAR10_TinyTen.png</p>", page)
    kinds = {"curve", "training", "training_networks", "comparison", "plane_with_curve_loss"}
    assert set(figures) == kinds | {"plane_with_alignment_loss"}


def test_curves_of_other_seeds_are_told_apart(tmp_path, capsys):
    """Each in the table, under the slider, and in the commands that made them."""
    layout = write_results(tmp_path)
    for variant, pair in ((Variant(1, 5), (1, 2)), (Variant(1, 5), (3, 4)), (Variant(3), (3, 4))):
        save_arrays(layout.evaluated("corr", *pair, 250, variant), **np.load(layout.evaluated("corr", *pair, 250)))
        plane = np.load(layout.plane_with_curve("corr", *pair, 250))
        save_arrays(layout.plane_with_curve("corr", *pair, 250, variant), **plane)
    page = report(tmp_path)
    curves = {"curve, aligned", "curve of 5 bends, aligned", "curve, aligned, curve seed 3"}
    assert curves <= set(walks_of(page))
    assert "<th scope=row>curve, aligned, curve seed 3 (1 of 2 pairs)</th>" in page
    assert re.search("eval_curve.py [^<]*--num_bends 5", page)
    assert re.search("eval_plane_with_curve.py [^<]*--seed_a 3[^<]*--seed 3", page)
    assert not re.search("--(height|points|trained|images) ", page)  # no flags, though settings tell them
    page = report(tmp_path, "--num_bends", "5")
    assert "curve, aligned" not in page.split("<h2>Figures</h2>")[0]
    assert re.search("make_tables.py [^<]*--num_bends 5", page)
    capsys.readouterr()
    flags = ["--epochs", "250", "--alignment", "corr", "--num_bends", "3"]
    page = report(tmp_path, "--curve_seed", "1", "3", *flags)
    assert "<th scope=row>curve, aligned, curve seeds 1, 3</th>" in page
    missing = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Not in the report")]
    assert all("no figures yet" in line for line in missing)


def test_hostile_names_are_shown_as_they_are_written(tmp_path):
    """Of datasets, alignments and files: none ends an element, an attribute or a script, or is a template's."""
    dataset, alignment = "<script>alert(1)<", 'x"<b>{{ 7*7 }}'
    write_results(tmp_path, dataset, pairs=((1, 2),), alignments=("null", alignment))
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/<i>.png").write_bytes(b"no picture")
    page = report(tmp_path)
    assert f"line, {alignment}" in walks_of(page)
    for hostile in ("<script>alert", 'x"<b>', "<i>"):
        assert hostile not in page.replace("</script>", "")
    for shown in ("TinyTen on &lt;script&gt;alert(1)&lt;", "line, x&#34;&lt;b&gt;{{ 7*7 }}", "figures/&lt;i&gt;.png"):
        assert shown in page


def test_it_can_be_of_one_dataset(root, tmp_path):
    write_results(tmp_path, dataset="mine")
    write_results(tmp_path, pairs=((1, 2),))
    for dataset in ("mine", "CIFAR10"):
        run("visualization/viz_plane.py", "--root", tmp_path, "--dataset", dataset)
    page = report(tmp_path, "--dataset", "mine", "--alignment", "", "corr")
    assert "TinyTen on mine" in page
    assert "on CIFAR10" not in page
    assert re.search("make_tables.py [^<]*--dataset mine --alignment &#39;&#39; corr", page)


# --- curves to be walked along -----------------------------------------------------------------------------


def test_the_slider_stops_at_evaluated_points_and_between_them():
    evaluated = sorted({*np.linspace(0, 1, 9).tolist(), *np.linspace(0, 1, 61).tolist()})
    stops = pages.positions(evaluated)
    assert set(evaluated) <= set(stops)
    steps = np.diff(stops)
    assert steps.min() > 0
    assert steps.max() <= pages.STEP + 1e-9


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
    driver.set_page_load_timeout(60)
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def opened(browser, root):
    browser.get((root / "figures/report.html").as_uri())
    return browser


PIXEL = {"rtol": 1e-4, "atol": 1e-3}  # less than a tenth of one, in any plot here


def drawn(browser):
    """Where the points are, by plot: (points, 2), where they are seen."""
    points = browser.execute_script(
        """return Object.fromEntries([...document.querySelectorAll(".explorer [data-name]")].map((div) => {
          const { xaxis, yaxis } = div._fullLayout;
          const circles = [...div.parentElement.querySelectorAll("circle")].filter((circle) => circle.checkVisibility(
            { visibilityProperty: true }));
          return [div.dataset.name, circles.map((circle) => [["cx", xaxis], ["cy", yaxis]].map(([name, axis]) =>
            axis.p2l(circle.getAttribute(name) - axis._offset)))];
        }))"""
    )
    return {name: np.array(places) for name, places in points.items()}


def readings(browser):
    """The cells of each path in the table beside the slider."""
    rows = browser.find_elements(By.CSS_SELECTOR, ".explorer .readings tbody tr")
    texts = [[cell.text for cell in row.find_elements(By.XPATH, "*")] for row in rows]
    return {words: cells for words, *cells in texts}


def said(browser):
    return browser.find_element(By.CSS_SELECTOR, ".explorer output").text


def slider_of(browser):
    return browser.find_element(By.CSS_SELECTOR, ".explorer input[type=range]")


@needs_browser
def test_the_slider_walks_along_every_path(opened, root):
    """Wherever it is set, the points on planes and lines, and the numbers, are those evaluated there."""
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
    before, after = opened.find_elements(By.CSS_SELECTOR, ".explorer button")
    assert said(opened) == "t = 0.500, evaluated"  # the middle of nine points
    at = 4
    for move, places in ((after.click, 2), (lambda: slider_of(opened).send_keys(Keys.HOME), -6), (after.click, 1)):
        for _ in range(max(1, places)):
            move()
        at += places
        assert said(opened) == f"t = {at / 8:.3f}, evaluated"
        points = drawn(opened)
        for name, words in (("plane_2", "curve, unaligned"), ("plane_3", "curve, aligned")):
            np.testing.assert_allclose(points[name], [mean[words]["coordinates"][at]], **PIXEL)
        for name in ("accuracy", "loss"):
            np.testing.assert_allclose(points[name], [[at / 8, path[name][at]] for path in mean.values()], **PIXEL)
        for words, cells in readings(opened).items():
            assert cells == [f"{mean[words]['accuracy'][at]:.2f}", f"{mean[words]['loss'][at]:.3f}"]
    before.click()
    assert said(opened) == "t = 0.000, evaluated"
    before.click()  # there is none before
    assert said(opened) == "t = 0.000, evaluated"
    far = opened.execute_script(
        """const middle = (part) => {
          const { x, y, width, height } = part.getBoundingClientRect();
          return [x + width / 2, y + height / 2];
        };
        return ["accuracy", "loss"].flatMap((name) => {
          const drawing = document.querySelector(`.explorer [data-name=${name}]`).parentElement;
          const first = [...drawing.querySelectorAll(".scatterlayer .trace .point:first-child")];
          return [...drawing.querySelectorAll("circle")].map((circle, i) => {
            const [point, evaluated] = [circle, first[i]].map(middle);
            return Math.hypot(point[0] - evaluated[0], point[1] - evaluated[1]);
          });
        })"""
    )
    assert len(far) == 8
    assert max(far) < 1  # pixels, between the first evaluated points and those that are there


@needs_browser
def test_between_evaluated_points_it_says_so(opened, root):
    """Numbers are on the straight line between, with a sign; arrow keys go there."""
    slider = slider_of(opened)
    slider.send_keys(Keys.HOME)
    for _ in range(10):
        slider.send_keys(Keys.ARROW_RIGHT)
    assert said(opened) == slider.get_attribute("aria-valuetext") == "t = 0.050, between evaluated 0.000 and 0.125"
    layout = Layout(root, "TinyTen", "CIFAR10")
    ends = np.mean([np.load(layout.evaluated("null", *pair, 0))["accuracy"][:2] for pair in ((1, 2), (3, 4))], axis=0)
    about = ends @ [0.6, 0.4]
    assert readings(opened)["line, unaligned"][0] == f"≈ {about:.2f}"
    np.testing.assert_allclose(drawn(opened)["accuracy"][0], [0.05, about], **PIXEL)


@needs_browser
def test_a_path_can_be_left_out(opened):
    boxes, planes = opened.find_elements(By.CSS_SELECTOR, ".explorer [data-path]"), {"plane_2": 1, "plane_3": 1}
    shown = "return document.querySelector('.explorer [data-name=accuracy]').data.map(trace => trace.visible ?? true)"
    boxes[0].click()
    assert opened.execute_script(shown) == [False, True, True, True]
    assert {name: len(points) for name, points in drawn(opened).items()} == planes | {"accuracy": 3, "loss": 3}
    boxes[0].click()
    assert opened.execute_script(shown) == [True] * 4
    assert {name: len(points) for name, points in drawn(opened).items()} == planes | {"accuracy": 4, "loss": 4}


@needs_browser
def test_planes_have_levels_where_curves_run(opened):
    """Contours stand at levels, which are named beside the colours; both curves cross several of them."""
    state = json.loads(opened.find_element(By.CSS_SELECTOR, ".explorer [data-state]").get_attribute("textContent"))
    levels, steps = np.array(state["levels"]), np.arange(len(state["levels"]))
    for number in (2, 3):
        walk = state["walks"][number]
        passed, labels = opened.execute_script(
            f"const [plot] = document.querySelector('[data-name=plane_{number}]').data;"
            "return [plot.z, plot.colorbar.ticktext]"
        )
        accuracy = np.array(walk["plane"]["accuracy"])
        between = np.where(accuracy < levels[0], -1, np.interp(accuracy, levels, steps))
        np.testing.assert_allclose(passed, between)
        assert labels == state["levels"]
        assert len(set(np.digitize(walk["values"]["accuracy"], levels))) >= 2


@needs_browser
def test_pages_are_full_on_paper(opened, page):
    """Figures share pages, and all that was run is among the settings, so that nothing folded up is lost."""
    settings = page.partition("<h2>Settings</h2>")[2]
    ran = [words for part in re.findall("<details>(.*?)</details>", page, re.DOTALL) for words in commands(part)]
    assert ran and set(ran) <= set(commands(settings))
    pdf = base64.b64decode(opened.print_page())
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 7  # of eight figures, two tables, four plots


def commands(part):
    return re.findall("<pre class=command>(.*?)</pre>", part)


@needs_browser
def test_it_opens_without_errors_or_requests(opened):
    assert not [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"]
    requests = opened.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert not [name for name in requests if not name.startswith(("data:", "blob:"))]
    broken = opened.execute_script("return [...document.images].filter(image => !image.naturalWidth).length")
    assert broken == 0


# --- on a phone, on a laptop, and on paper -----------------------------------------------------------------

SIZES = {"phone": (390, 844), "laptop": (1280, 900)}


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """The path of a report with long names and many alignments, of plain and of robust networks."""
    root = tmp_path_factory.mktemp("crowded")
    alignments = ("null", "corr", "w2_pre", "weight", "an_alignment_of_ones_own")
    for robust in (False, True):
        write_results(root, "images-of-a-long-name-96x96", pairs=((1, 2),), alignments=alignments, robust=robust)
    run("evaluation/compare_alignments.py", "--root", root)
    report(root)
    return root / "figures/report.html"


@pytest.fixture(scope="module", params=SIZES.values(), ids=SIZES)
def shown(browser, crowded, request):
    """The browser with the report open, as wide and as high as a screen."""
    width, height = request.param
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(crowded.as_uri())
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@needs_browser
def test_nothing_is_wider_than_the_screen(shown, request):
    """Tables are, and move within their own boxes."""
    width = SIZES[request.node.callspec.id][0]
    assert shown.execute_script("return document.scrollingElement.scrollWidth") <= width
    sizes = shown.execute_script(
        """return [...document.querySelectorAll("body *")]
          .filter((part) => !part.closest("script") && !part.closest(".scroll table") && part.checkVisibility())
          .map((part) => [part.outerHTML.slice(0, 80), part.getBoundingClientRect().right])"""
    )
    assert len(sizes) > 100
    assert not [part for part, right in sizes if right > width]
    boxes = shown.execute_script(
        """return [...document.querySelectorAll("table")].map((table) => {
          const box = table.parentElement;
          box.scrollLeft = 1e6;
          const moved = box.scrollLeft;
          box.scrollLeft = 0;
          return [box.className, table.scrollWidth - box.clientWidth, moved];
        })"""
    )
    assert all(name == "scroll" and moved >= more - 1 for name, more, moved in boxes)
    cells = (
        "return [...document.querySelectorAll('th, td')].filter(cell => cell.scrollWidth > cell.clientWidth).length"
    )
    assert shown.execute_script(cells) == 0


OVERLAPS = """
const WORDS = ".infolayer text, .xaxislayer-above text, .yaxislayer-above text";
const seen = (part) => part.checkVisibility() && part.textContent.trim();
const overlaps = (parts) => parts.flatMap((one, i) => parts.slice(i + 1).flatMap((other) => {
  const [a, b] = [one.getBoundingClientRect(), other.getBoundingClientRect()];
  const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  return width > 1 && height > 1 ? [[one.textContent.slice(0, 40), other.textContent.slice(0, 40)]] : [];
}));
window.scrollTo(0, 0);
const blocks = "h1, h2, h3, p, li, summary, label, output, .command, .scroll, .slider, img, figcaption, [data-name]";
const leaves = [...document.querySelectorAll(blocks)].filter((part) => !part.querySelector(blocks)
  && !part.closest(".scroll table") && part.checkVisibility());
const plots = [...document.querySelectorAll("[data-name]")];
return [leaves.length, overlaps(leaves), plots.flatMap((plot) =>
  overlaps([...plot.querySelectorAll(WORDS)].filter(seen)))];
"""


@needs_browser
def test_nothing_overlaps(shown):
    """Neither the parts of the page nor the words in a plot, which lie within it."""
    count, parts, words = shown.execute_script(OVERLAPS)
    assert count > 50
    assert parts == []
    assert words == []
    outside = shown.execute_script(
        """return [...document.querySelectorAll("[data-name]")].flatMap((plot) => {
          const box = plot.getBoundingClientRect();
          return [...plot.querySelectorAll("text")].filter((text) => text.textContent.trim()).filter((text) => {
            const { left, right, top, bottom } = text.getBoundingClientRect();
            return left < box.left - 1 || right > box.right + 1 || top < box.top - 1 || bottom > box.bottom + 1;
          }).map((text) => text.textContent);
        })"""
    )
    assert outside == []


@needs_browser
def test_slider_and_readings_stay_in_sight(shown, request):
    """While each plot goes by, below them and whole."""
    height = SIZES[request.node.callspec.id][1]
    for number, section in enumerate(shown.find_elements(By.CSS_SELECTOR, ".explorer")):
        last = section.find_elements(By.CSS_SELECTOR, ".plot")[-1]
        shown.execute_script("arguments[0].scrollIntoView({ block: 'end', behavior: 'instant' })", last)
        walk, plot, slider, table = shown.execute_script(
            """return [".walk", ".plot:last-child [data-name]", ".walk input[type=range]", ".walk .scroll"]
              .map((part) => arguments[0].querySelector(part).getBoundingClientRect().toJSON())""",
            section,
        )
        assert walk["top"] == 0, number
        assert walk["bottom"] <= plot["top"]
        assert plot["bottom"] <= height + 1
        for part in (slider, table):
            assert walk["top"] <= part["top"] <= part["bottom"] <= walk["bottom"]


@needs_browser
def test_the_worst_and_best_robust_accuracies_are_marked(shown):
    """At points of their paths, on both accuracies and on no loss."""
    marks = shown.execute_script(
        """return [...document.querySelectorAll("[id^=robust] [data-name]")].flatMap((plot) => plot.data
          .filter(({ text }) => text?.includes("highest robust accuracy"))
          .map(({ x, y, meta }) => [plot.dataset.name, x, y, plot.data.find((line) => line.meta === meta)]))"""
    )
    assert [name for name, *_ in marks] == ["accuracy"] * 10 + ["accuracy_robust"] * 10
    for _, x, y, line in marks:
        at = [line["x"].index(t) for t in x]
        assert [line["y"][i] for i in at] == y
        assert (y[0], y[1]) == (min(line["y"]), max(line["y"]))  # robust accuracy is made up as the clean one


@needs_browser
def test_sliders_have_names(shown):
    """What a screen reader says of them: a name, and where they are."""
    nodes = shown.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    sliders = [node for node in nodes if node["role"]["value"] == "slider"]
    assert len(sliders) == 2
    for slider in sliders:
        assert slider["name"]["value"].startswith("Position t, from 0")
    texts = [
        slider.get_attribute("aria-valuetext") for slider in shown.find_elements(By.CSS_SELECTOR, "[type=range]")
    ]
    assert texts == ["t = 0.500, evaluated"] * 2
    kinds = ("button", "checkbox", "img", "image", "region")
    unnamed = [node for node in nodes if node["role"]["value"] in kinds and not node.get("name", {}).get("value")]
    assert unnamed == []


@needs_browser
def test_paper_has_all_of_it(shown):
    """Within its width, drawings too, with none cut in two, and nothing that sticks or has to be moved.

    Nothing tells plots that they are printed: they shrink as they are.
    """
    pages = shown.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    assert base64.b64decode(pages).startswith(b"%PDF")
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    parts = shown.execute_script(
        """const AROUND = "section, figure, body";
        document.body.style.width = "340px";
        const PARTS = ".plot, figure img, .walk, .main-svg, .moving, .scroll";
        const parts = [...document.querySelectorAll(PARTS)].map((part) => {
          const [box, around] = [part, part.closest(AROUND)].map((one) => one.getBoundingClientRect());
          const { position, overflowX } = getComputedStyle(part);
          const { breakInside } = getComputedStyle(part.closest("figure, .walk, .scroll"));
          const { width, height } = part.viewBox?.baseVal ?? box;
          return {
            name: part.outerHTML.slice(0, 60), position, overflowX, breakInside,
            outside: [around.left - box.left, box.right - around.right],
            stretched: (width / height) / (box.width / box.height),
          };
        });
        document.body.style.width = "";
        return parts;"""
    )
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert len(parts) > 20
    for part in parts:
        if "scroll" in part["name"]:
            assert part["overflowX"] == "visible", part
            continue
        assert max(part["outside"]) <= 1, part
        assert part["stretched"] == pytest.approx(1, rel=0.05), part
        assert part["position"] != "sticky", part
        assert part["breakInside"] == "avoid", part
