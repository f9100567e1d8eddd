"""What mends an error: names of files read backwards, and commands that make just the files that are missing."""

import itertools
import pickle
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from stages import REPOSITORY, fails, stage

from utils.errors import FileError, UserError
from utils.stages.files import save_array, save_checkpoint
from utils.stages.hints import align_command, command, documented, explain
from utils.stages.layout import USUAL, Layout, Name, Variant, kept, partial, read_name, rolling, tag
from utils.stages.matches import load_match, padded_rows

ALIGNMENTS = ("", "corr", "w2_pre", "w2_post", "pam_", "pam_corr", "pam_w2_post", "mine", "my_own-2", "a_seeds_b")
SEEDS = ((1, 2), (3, 4), (0, 11), (120, 7))
EPOCHS = (1, 250)
VARIANTS = (USUAL, Variant(2), Variant(0, 4), Variant(1, 3, "PolyChain"), Variant(12, 5, "PolyChain"))
LAYOUTS = (
    Layout(Path("r"), "TinyTen", "CIFAR100"),
    Layout(Path("/some/where"), "GoogLeNet", "TINY-IMAGENET-200", robust=True),
    Layout(Path("r"), "ResNet32", "my_own-2.images", replaced={"models": Path("elsewhere"), "curves": None}),
)


# --- names, read backwards ---------------------------------------------------------------------------------


def named(layout):
    """All paths that a layout makes, each with what its name tells."""

    def name(kind, seeds, alignment=None, epoch=None, t=None, variant=USUAL):
        return Name(kind, layout.model, layout.dataset, layout.robust, seeds, alignment, epoch, t, variant)

    for seed, epoch in itertools.product((0, 1, 12, 345), EPOCHS):
        yield layout.endpoint(seed, epoch), name("endpoint", (seed,), epoch=epoch)
        yield rolling(layout.endpoint_stem(seed)), name("endpoint", (seed,))
        for path in layout.model_history(seed).values():
            yield path, name("model_history", (seed,))
    for alignment, (a, b) in itertools.product(ALIGNMENTS, SEEDS):
        for which in ("unaligned", "aligned"):
            if alignment and alignment != "pam_":
                yield layout.correlation(alignment, which, a, b), name("correlation", (a, b), alignment)
            if alignment and "pam" not in alignment:
                yield layout.distance(alignment, which, a, b), name("correlation", (a, b), alignment)
                yield layout.matrices(alignment, a, b), name("matrices", (a, b), alignment)
        if not layout.robust:
            for seeds in ((a, b), (a, b, 19)):
                path = layout.plane_with_alignment(alignment, *seeds)
                yield from ((p, name("plane_with_alignment", seeds, tag(alignment))) for p in (path, partial(path)))
        for variant, epoch in itertools.product(VARIANTS, (0, *EPOCHS)):
            yield from of_path(layout, name, alignment, (a, b), epoch, variant)


def of_path(layout, name, alignment, seeds, epoch, variant):
    pam = alignment.startswith("pam_")
    found = Variant(variant.seed) if pam else USUAL  # what PAM finds depends on its seed
    own = variant if epoch else found  # a straight line is one for all curves between the same ends
    tagged = tag(alignment)
    stem, history = layout.curve_stem(alignment, *seeds, variant), layout.curve_history(alignment, *seeds, variant)
    yield layout.curve(alignment, *seeds, epoch, variant), name("curve", seeds, tagged, epoch, None, own)
    yield rolling(stem), name("curve", seeds, tagged, None, None, variant)
    yield history, name("curve_history", seeds, tagged, None, None, variant)
    if pam:
        for suffix in ("_perm1", "_phi12"):  # its phases
            phase = stem.with_name(stem.name + suffix)
            yield rolling(phase), name("curve", seeds, tagged, None, None, variant)
            yield history.with_stem(history.stem + suffix), name("curve_history", seeds, tagged, None, None, variant)
    if alignment:
        match = layout.match(tagged, *seeds, variant)
        yield from ((p, name("match", seeds, tagged, None, None, found)) for p in (match, match.with_suffix(".json")))
        measured = layout.correlation(tagged, "aligned", *seeds, variant)
        yield measured, name("correlation", seeds, tagged, None, None, found)
    path = layout.evaluated(alignment, *seeds, epoch, variant)
    yield from ((p, name("evaluated", seeds, tagged, epoch, None, own)) for p in (path, partial(path)))
    for t in (0.0, 0.25, 1 / 3, 1e-05, 1.0):
        path, at = layout.along_curve(alignment, *seeds, epoch, t, variant), float(f"{t:g}")
        yield from ((p, name("along_curve", seeds, tagged, epoch, at, own)) for p in (path, partial(path)))
    if not layout.robust:
        path = layout.plane_with_curve(alignment, *seeds, epoch, variant)
        yield from ((p, name("plane_with_curve", seeds, tagged, epoch, None, variant)) for p in (path, partial(path)))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.model)
def test_names_are_read_back(layout):
    paths = list(named(layout))
    assert len({name.kind for _, name in paths}) == (9 if layout.robust else 11)
    for path, name in paths:
        assert read_name(path) == name, path


@pytest.mark.parametrize(
    "path", ["c.pt", "a/b/notes.txt", "m/d/checkpoint_seed_x-1.pt", "m/d/match.npy", "m/d/.x.npy"]
)
def test_other_names_tell_nothing(path):
    assert read_name(Path(path)) is None
    for mend in ("make", "remake", "replace", "resume", "continue"):
        assert (
            explain(FileError(Path(path), "is odd", mend), running("visualization/viz_plane.py")) == f"{path} is odd"
        )


# --- commands ----------------------------------------------------------------------------------------------


def running(script, *flags):
    """The script that runs, as errors are explained for it."""
    parse_args, _ = stage(script)
    return parse_args([str(flag) for flag in flags]).here


def parsed(said):
    """The script that a command at the end of a sentence runs, and what its parser makes of its flags."""
    script, *words = shlex.split(said[said.rindex("python ") :].removeprefix("python "))
    parse_args, _ = stage(script)
    return script, parse_args(words)


def written_by(script, args):
    """The file with the result of a stage."""
    layout = Layout(args.root, args.model, args.dataset, args.robust, args.replaced)
    if script.startswith("training/train_model"):
        return layout.endpoint(args.seed, args.epochs)
    pair = (args.seed_a, args.seed_b)
    if script.startswith("alignment/align_models") or script == "alignment/align_googlenet.py":
        return (layout.matrices if args.matrices else layout.match)(args.align_name, *pair)
    if script == "evaluation/eval_plane_with_alignment.py":
        return layout.plane_with_alignment(args.alignment, *pair, args.seed_c)
    variant = Variant(args.seed, args.num_bends, args.curve)
    assert script != "training/train_curve_pam.py" or variant == Variant(args.seed)
    if script == "training/train_curve_pam.py":
        return layout.curve(f"pam_{tag(args.alignment)}", *pair, args.inner_iters_phi, variant)
    if script.startswith("training/train_curve"):
        return layout.curve(args.alignment, *pair, args.epochs, variant)
    at = (args.alignment, *pair, args.epochs_curve)
    if script == "alignment/align_along_curve.py":
        return layout.along_curve(*at, args.point_t, variant)
    return (layout.plane_with_curve if "plane" in script else layout.evaluated)(*at, variant)


RUNNING = {
    "evaluation/eval_curve.py": ["--epochs_model", 9, "--epochs_curve", 7, "--alignment", "corr"],
    "training/train_curve.py": ["--epochs_model", 9, "--epochs", 7, "--alignment", "corr"],
    "training/train_curve_pam.py": ["--epochs_model", 9, "--inner_iters_phi", 7, "--alignment", "corr"],
    "alignment/align_models.py": ["--epochs", 9],
    "evaluation/eval_plane_with_alignment.py": ["--epochs_model", 9],
    "visualization/viz_curve.py": ["--epochs", 0, 7],
}


@pytest.mark.parametrize("script", RUNNING)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.suffix or "usual")
def test_commands_make_what_is_missing(script, variant, tmp_path):
    """Whoever finds a file missing says a command that a script accepts, and that writes just this file."""
    flags = running(script, "--root", tmp_path, *RUNNING[script])
    layout = Layout(tmp_path, "TinyTen", "bars")
    missing = [layout.endpoint(4, 250)]
    for alignment, (a, b) in itertools.product(
        ("", "corr", "w2_post", "w2_pre", "corr_500", "pam_", "pam_corr"), SEEDS
    ):
        missing += [layout.curve(alignment, a, b, 250, variant), layout.evaluated(alignment, a, b, 250, variant)]
        missing += [layout.plane_with_curve(alignment, a, b, 250, variant), layout.evaluated(alignment, a, b, 0)]
        missing.append(layout.along_curve(alignment, a, b, 250, 0.25, variant))
        if alignment:
            missing += [layout.plane_with_alignment(alignment, a, b, *c) for c in ((), (19,))]
        if alignment and not alignment.startswith("pam_"):
            missing += [layout.match(alignment, a, b), layout.matrices(alignment, a, b)]
    for path in missing:
        said = explain(FileError(path, "does not exist", "make"), flags)
        assert said.startswith(f"{path} does not exist; make it with: python ")
        made, args = parsed(said)
        assert written_by(made, args) == path, said
        assert args.root == tmp_path
        if "epochs_model" in args and script != "visualization/viz_curve.py":
            assert args.epochs_model == 9


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.suffix or "usual")
def test_matches_that_pam_finds(variant, tmp_path):
    """By a run as long as the curve that is asked for, of the networks that are asked for."""
    layout = Layout(tmp_path, "TinyTen", "bars")
    flags = running("evaluation/eval_curve.py", *RUNNING["evaluation/eval_curve.py"], "--root", tmp_path)
    for alignment, start in (("pam_null", ""), ("pam_corr", "corr"), ("pam_w2_pre", "w2_pre")):
        said = explain(FileError(layout.match(alignment, 3, 4, variant), "does not exist", "make"), flags)
        script, args = parsed(said)
        assert script == "training/train_curve_pam.py"
        assert (args.alignment, args.seed_a, args.seed_b) == (start, 3, 4)
        assert (args.epochs_model, args.inner_iters_phi, args.seed) == (9, 7, variant.seed)


def test_googlenets_are_matched_by_their_own_script(tmp_path):
    layout = Layout(tmp_path, "GoogLeNet", "bars")
    flags = running("training/train_curve.py", "--model", "GoogLeNet", "--root", tmp_path)
    for name, script in (("corr", "align_googlenet"), ("w2_pre", "align_models_w2")):
        made, _ = parsed(explain(FileError(layout.match(name, 1, 2), "does not exist", "make"), flags))
        assert made == f"alignment/{script}.py"


TWINS = {
    "endpoint": "training/train_model_adversarial.py",
    "curve": "training/train_curve_adversarial.py",
    "match": "alignment/align_models.py",
    "evaluated": "evaluation/eval_adversarial_curve.py",
    "along_curve": "alignment/align_along_curve.py",
}


@pytest.mark.parametrize("kind", ["endpoint", "curve", "match", "evaluated"])
@pytest.mark.parametrize("model", ["TinyTen", "GoogLeNet"])
def test_robust_networks_are_made_by_the_twins(kind, model, tmp_path):
    layout = Layout(tmp_path, model, "bars", robust=True)
    path = {
        "endpoint": layout.endpoint(1, 250),
        "curve": layout.curve("corr", 1, 2, 250),
        "match": layout.match("corr", 1, 2),
        "evaluated": layout.evaluated("corr", 1, 2, 250),
    }[kind]
    told = ["--root", tmp_path, "--model", model, "--epochs_model", 9, "--epochs_curve", 250]
    flags = running("evaluation/eval_adversarial_curve.py", *told)
    made, args = parsed(explain(FileError(path, "does not exist", "make"), flags))
    twin = TWINS[kind].replace("align_models", "align_googlenet") if model == "GoogLeNet" else TWINS[kind]
    assert made == twin
    assert args.robust
    assert written_by(made, args) == path
    # What the path says counts, where the running stage, which reads results, says nothing of it
    plain = running("visualization/viz_curve.py", "--root", tmp_path, "--model", model)
    assert parsed(explain(FileError(path, "does not exist", "make"), plain))[0] == twin


@pytest.mark.parametrize("script", ["evaluation/eval_curve.py", "training/train_curve.py"])
def test_where_things_are_is_carried_along(script, tmp_path):
    folders = {"data_path": tmp_path / "all images", "dir_models": tmp_path / "nets", "dir_alignment": tmp_path / "m"}
    given = [word for name, folder in folders.items() for word in (f"--{name}", folder)]
    told = ["--root", tmp_path, *given, "--no-use_test", "--transform", "ResNet32", *RUNNING[script]]
    layout = Layout(tmp_path, "TinyTen", "bars", replaced={"models": tmp_path / "nets", "matches": tmp_path / "m"})
    flags = running(script, "--dataset", "bars", *told)
    for path in (layout.endpoint(1, 9), layout.match("corr", 1, 2), layout.match("pam_corr", 1, 2)):
        made, args = parsed(explain(FileError(path, "does not exist", "make"), flags))
        assert (args.root, args.data_path, args.use_test) == (tmp_path, tmp_path / "all images", False)
        assert args.transform == "ResNet32"
        if "pam" not in path.name:
            assert written_by(made, args) == path
        assert args.replaced["models"] == tmp_path / "nets"
        assert made.startswith("training/train_model") or args.replaced["matches"] == tmp_path / "m"


def test_the_repository_is_no_root_to_speak_of():
    flags = running("training/train_curve.py")
    said = explain(FileError(Layout(REPOSITORY, "TinyTen", "X").endpoint(1, 9), "does not exist", "make"), flags)
    expected = "python training/train_model.py --model TinyTen --dataset X --seed 1 --epochs 9"
    assert said.endswith(f"make it with: {expected}")
    assert command(flags, "training/train_model.py", {"seed": 1}) == (
        "python training/train_model.py --model TinyTen --dataset FashionMNIST10k --seed 1"
    )
    assert align_command(flags, {"epochs": 3}).startswith("python alignment/align_models.py --model TinyTen")


def test_commands_of_documents():
    flags = {"model": ("TinyTen", "my net.py:Net"), "alignment": "", "curve": None, "help": True}
    said = documented("visualization/viz_curve.py", flags, root=Path("/a b"), robust=True)
    assert said == (
        "python visualization/viz_adversarial_curve.py --model TinyTen 'my net.py:Net' --alignment '' --help "
        "--root '/a b'"
    )


# --- what there is instead ---------------------------------------------------------------------------------


def touched(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_networks_of_other_epochs(tmp_path):
    layout = Layout(tmp_path, "TinyTen", "bars")
    error = FileError(layout.endpoint(1, 250), "does not exist", "make")
    for script, flag in (
        ("training/train_curve.py", "--epochs_model"),
        ("evaluation/eval_curve.py", "--epochs_model"),
        ("alignment/align_models.py", "--epochs"),
    ):
        flags = running(script, "--root", tmp_path)
        assert "there is" not in explain(error, flags)
        touched(
            layout.endpoint(1, 8), layout.endpoint(2, 9), layout.endpoint(11, 7), rolling(layout.endpoint_stem(1))
        )
        beginning = (
            f"{error.path} does not exist; there is one of 8 epochs: {flag} 8, or make it with: python training"
        )
        assert explain(error, flags).startswith(beginning)
        touched(layout.endpoint(1, 16))
        both = f"there is one of 8 epochs: {flag} 8, or there is one of 16 epochs: {flag} 16, or make it with: "
        assert both in explain(error, flags)
        for path in layout.folder("models").iterdir():
            path.unlink()


def test_networks_of_other_seeds(tmp_path):
    layout = Layout(tmp_path, "TinyTen", "bars")
    touched(*(layout.endpoint(seed, epochs) for seed, epochs in ((1, 3), (2, 3), (3, 3), (3, 8))))
    said = explain(FileError(layout.endpoint(5, 3), "does not exist", "make"), running("alignment/align_models.py"))
    assert "does not exist; there is seed 1, 2, 3 (of 3 epochs) and seed 3 (of 8 epochs), or make it with: " in said


def test_curves_and_results_of_other_epochs(tmp_path):
    """Of the same kind of curve only; a straight line is not taken for one."""
    layout, pair = Layout(tmp_path, "TinyTen", "bars"), ("corr", 1, 2)
    other = Variant(2)
    touched(*(layout.curve(*pair, epoch, variant) for epoch, variant in ((0, USUAL), (8, USUAL), (9, other))))
    touched(layout.evaluated(*pair, 0), layout.evaluated(*pair, 8), layout.along_curve(*pair, 5, 0.5))
    phase = layout.curve_stem(*pair)
    touched(kept(phase.with_name(f"{phase.name}_perm1"), 4))
    flags = running("evaluation/eval_plane_with_curve.py", "--root", tmp_path)
    for variant, epochs in ((USUAL, 8), (other, 9)):
        said = explain(FileError(layout.curve(*pair, 250, variant), "does not exist", "make"), flags)
        assert said.count("there is") == 1
        assert f"there is one of {epochs} epochs: --epochs_curve {epochs}, or make it with" in said
    flags = running("visualization/viz_curve.py", "--root", tmp_path)
    said = explain(FileError(layout.evaluated(*pair, 250), "does not exist", "make"), flags)
    assert said.count("there is") == 1
    assert "there is one of 8 epochs: --epochs 8, or make it with" in said


def test_matches_of_other_names(tmp_path):
    """No command is said to make a match of a name that no script gives; those that exist are named."""
    layout = Layout(tmp_path, "TinyTen", "bars")
    flags = running("training/train_curve.py", "--root", tmp_path, "--alignment", "mine")
    error = FileError(layout.match("mine", 1, 2), "does not exist", "make")
    other = "any other name is given by: align_models.py --align_name"
    assert explain(error, flags) == f"{error.path} does not exist; {other}"
    touched(*(layout.match(name, 1, 2) for name in ("w2_post", "corr")), layout.match("w2_pre", 3, 4))
    assert explain(error, flags) == (
        f"{error.path} does not exist; there is corr: --alignment corr, "
        f"or there is w2_post: --alignment w2_post, or {other}"
    )


# --- other errors ------------------------------------------------------------------------------------------

RUN = {
    "resume": "go on with: {command} --resume",
    "replace": "make it anew with: {command} --overwrite",
    "remake": "move it away, and make it anew with: {command}",
}


@pytest.mark.parametrize("mend", RUN)
def test_what_mends_the_file_of_another_stage(mend, tmp_path):
    layout = Layout(tmp_path, "TinyTen", "bars")
    flags = running("evaluation/eval_curve.py", "--root", tmp_path, "--epochs_model", 9)
    error = FileError(layout.curve("corr", 1, 2, 250), "is so and so", mend)
    made = "python training/train_curve.py --model TinyTen --dataset bars --seed_a 1 --seed_b 2 --epochs_model 9"
    made += f" --alignment corr --epochs 250 --root {tmp_path}"
    assert explain(error, flags) == f"{error}; {RUN[mend].format(command=made)}"


def test_going_on_with_what_another_stage_left_unfinished(tmp_path):
    """Training is told to; what an evaluation has it finds by itself."""
    layout = Layout(tmp_path, "TinyTen", "bars")
    flags = running("evaluation/eval_curve.py", "--root", tmp_path)
    said = explain(FileError(layout.curve("corr", 1, 2, 250), "is not finished", "continue"), flags)
    assert said.endswith(" --resume")
    error = FileError(layout.evaluated("corr", 1, 2, 250), "is not finished", "continue", num_points=9)
    said = explain(error, running("visualization/viz_curve.py", "--root", tmp_path))
    assert "is not finished; go on with: python evaluation/eval_curve.py " in said
    assert parsed(said)[1].num_points == 9  # what the file was made with
    assert "--resume" not in said


@pytest.mark.parametrize("kind", ["network", "curve", "table", "match", "pam's match"])
def test_what_mends_a_stages_own_file(kind, tmp_path):
    layout = Layout(tmp_path, "TinyTen", "bars")
    path, script = {
        "network": (layout.endpoint(1, 9), "training/train_model.py"),
        "curve": (rolling(layout.curve_stem("corr", 1, 2)), "training/train_curve_pam.py"),
        "table": (partial(layout.evaluated("corr", 1, 2, 9)), "evaluation/eval_curve.py"),
        "match": (layout.match("corr", 1, 2), "alignment/align_models.py"),
        "pam's match": (layout.match("pam_corr", 1, 2), "training/train_curve_pam.py"),
    }[kind]
    flags = running(script, "--root", tmp_path)

    def said(mend):
        return explain(FileError(path, "is so", mend), flags).removeprefix(f"{path} is so; ")

    assert said("resume") == "add --resume to go on, or --overwrite to begin anew"
    assert said("remake") == "move it away, and run the same command again"
    assert said("continue") == "run the same command again"
    if kind == "match":
        assert said("replace") == "add --overwrite to replace it, or --align_name for a new one"
    else:
        assert said("replace") == "use the same flags, or --overwrite to make it anew, or another --root"


def test_pam_makes_no_matches_but_its_own(tmp_path):
    layout = Layout(tmp_path, "TinyTen", "bars")
    flags = running("training/train_curve_pam.py", "--root", tmp_path, "--alignment", "corr")
    error = FileError(layout.match("corr", 1, 2), "does not exist", "make")
    made, args = parsed(explain(error, flags))
    assert written_by(made, args) == error.path


def test_what_pam_learns_is_told_as_its_run_has_it(tmp_path):
    """Also of one under way, whatever epochs of it were kept."""
    layout = Layout(tmp_path, "TinyTen", "bars")
    stem = layout.curve_stem("pam_corr", 1, 2)
    first = stem.with_name(f"{stem.name}_perm1")
    settings = {"outer_iters": 2, "inner_iters_perm": 20, "lr": 0.5, "epochs_model": 9}
    for path in (kept(first, 10), rolling(first)):
        save_checkpoint(path, {"epoch": 10, "model_state": {"w": torch.ones(1)}, "settings": settings})
    flags = running("evaluation/eval_curve.py", "--root", tmp_path)
    for path in (layout.match("pam_corr", 1, 2), layout.correlation("pam_corr", "aligned", 1, 2)):
        _, args = parsed(explain(FileError(path, "does not exist", "make"), flags))
        assert (args.outer_iters, args.inner_iters_perm, args.lr) == (2, 20, 0.5)


def test_errors_that_say_it_all(tmp_path):
    flags = running("evaluation/eval_curve.py", "--root", tmp_path)
    path = Layout(tmp_path, "TinyTen", "bars").endpoint(1, 9)
    for error in (
        UserError("no such thing"),
        FileError(path, "is a state dict by itself"),
        UserError("", exit_code=2),
    ):
        assert explain(error, flags) == str(error)


def test_files_that_cannot_be_used_are_never_proposed_for_deletion(tmp_path):
    """They are to be moved away, or are called what they are."""
    layout = Layout(tmp_path, "TinyTen", "bars")
    flags = running("training/train_curve.py", "--root", tmp_path, "--alignment", "corr", "--epochs_model", 9)
    match = layout.match("corr", 1, 2)
    save_array(match, padded_rows([np.arange(3)]))
    match.with_suffix(".json").write_text("{")
    with pytest.raises(FileError, match="is not a note on a match, or it is damaged") as caught:
        load_match(match)
    made, args = parsed(explain(caught.value, flags))
    assert f"{caught.value}; move it away, and make it anew with: python " in explain(caught.value, flags)
    assert written_by(made, args) == match
    odd = FileError(layout.match("mine", 1, 2), "is not a match", "remake")
    assert explain(odd, flags) == f"{odd}; move it away"
    scripts = ("training/train_curve.py", "alignment/align_models.py", "training/train_model.py")
    for path, script in itertools.product((layout.endpoint(1, 9), match, odd.path), scripts):
        for mend in ("make", "continue", "remake", "replace", "resume", ""):
            said = explain(FileError(path, "is odd", mend), running(script, "--root", tmp_path))
            assert "delete" not in said.lower()


# --- errors between processes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        UserError("wrong", exit_code=2),
        FileError(Path("a/b.pt"), "does not exist", "make"),
        FileError(Path("a/b.npz"), "is not finished", "continue", 2, num_points=9, model="TinyTen"),
    ],
    ids=str,
)
def test_errors_are_sent_to_other_processes_whole(error):
    sent = pickle.loads(pickle.dumps(error))
    assert type(sent) is type(error)
    assert str(sent) == str(error)
    if isinstance(error, FileError):
        whole = ("path", "reason", "mend", "exit_code", "flags")
        assert [getattr(sent, name) for name in whole] == [getattr(error, name) for name in whole]


@pytest.mark.parametrize("script", ["viz_plane", "viz_curve"])
def test_a_users_network_is_advised_as_it_was_typed(script, tmp_path, capsys):
    """Although its results are in a folder whose name is a digest."""
    (tmp_path / "nets.py").write_text("from torch import nn\n\n\ndef mlp():\n    return nn.Linear(6, 2)\n")
    words = ["--root", tmp_path, "--model", f"{tmp_path}/nets.py:mlp", "--dataset", "FashionMNIST10k"]
    code, line = fails(capsys, f"visualization/{script}.py", *words, "--alignment", "corr")
    assert code == 1 and f"--model {tmp_path}/nets.py:mlp " in line.rpartition("make it with: ")[2]
