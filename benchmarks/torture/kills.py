"""kill -9, at random moments and before random file operations; and the end of a run that was disturbed."""

import random
import signal
from functools import partial
from pathlib import Path

from benchmarks.torture.judging import Failure, clone, differences, expect_good_end, expect_refusal, rubbish
from benchmarks.torture.running import Outcome, run
from benchmarks.torture.trials import Torture
from benchmarks.torture.workspaces import CORR, CURVE, PAIR, ROBUST

# By script: the workspace, and flags with which it takes seconds. Training goes on with --resume.
LONG = {
    "training/train_model.py": ("networks", ["--seed", 5, "--epochs", 24, "--save_freq", 7]),
    "training/train_curve.py": (
        "networks",
        [*PAIR, *CORR, "--seed", 5, "--num_bends", 4, "--val_freq", 7, "--epochs", 20],
    ),
    "training/train_curve_pam.py": (
        "networks",
        [*PAIR, *CORR, "--lr", 0.5, "--outer_iters", 2, "--inner_iters_perm", 3, "--inner_iters_phi", 5],
    ),
    "training/train_model_adversarial.py": ("networks", ["--seed", 5, "--epochs", 10, *ROBUST]),
    "training/train_curve_adversarial.py": (
        "networks",
        ["--epochs_model", 2, *CORR, "--epochs", 10, *ROBUST],
    ),
    "evaluation/eval_curve.py": ("curves", [*CURVE, *CORR, "--num_points", 24]),
    "evaluation/eval_plane_with_curve.py": ("curves", [*CURVE, *CORR, "--num_points", 6]),
    "evaluation/eval_plane_with_alignment.py": ("curves", [*PAIR, "--num_points", 6]),
    "alignment/align_models.py": ("networks", ["--epochs", 3, "--align_name", "again"]),
}


def long_flags(t: Torture, script: str) -> list[object]:
    resume = ["--resume"] if script.startswith("training/") else []
    return t.flags(t.trial, script, *LONG[script][1], *resume)


def undisturbed(t: Torture, script: str) -> tuple[Path, Outcome]:
    """The results of a stage of LONG that nothing happens to; made once."""
    if script not in t.undisturbed:
        t.fresh(LONG[script][0])
        outcome = run(script, long_flags(t, script))
        assert outcome.code == 0, outcome
        t.undisturbed[script] = clone(t.trial, t.folder / "undisturbed" / Path(script).stem), outcome
    return t.undisturbed[script]


def finish(t: Torture, script: str) -> str:
    """Let the run in the trial folder go on to its end, which must be that of an undisturbed one."""
    expected, _ = undisturbed(t, script)
    outcome = run(script, long_flags(t, script))
    expect_good_end(outcome, "it did not go on")
    if different := differences(expected, t.trial):  # tells of a checkpoint or partial table that is left, too
        raise Failure("; ".join(different), outcome)
    return "identical"


def expect_intact(t: Torture, workspace: str, outcome: Outcome) -> None:
    """Failure unless a run was refused, with all that was there before as it was, and nothing half-written."""
    expect_refusal(outcome)
    if lost := [*differences(t.folder / workspace, t.trial, more=True), *rubbish(t.trial)]:
        raise Failure("; ".join(lost), outcome)


def kills(t: Torture, count: int) -> None:
    for script in LONG:
        _, outcome = undisturbed(t, script)
        print(f"  {script}: {outcome.seconds:.1f} s, {outcome.operations} file operations", flush=True)
    for how, number in (("at a random moment", count), ("before a file operation", -(-count // 2))):
        for index, script in enumerate(LONG):
            share = number // len(LONG) + (index < number % len(LONG))
            _kill(t, script, how, share)


def _kill(t: Torture, script: str, how: str, share: int) -> None:
    """Kill a stage so often: again and again until a run of it ends by itself, and then from the beginning."""
    generator = random.Random(f"{t.seed} {how} {script}")
    section = f"kill -9 {how}: {Path(script).stem}"
    workspace, (_, known) = LONG[script][0], undisturbed(t, script)
    while share:
        t.fresh(workspace)
        killed: list[str] = []
        outcome = None
        while len(killed) < share and (outcome is None or outcome.code == -signal.SIGKILL):
            if how == "at a random moment":
                moment = generator.uniform(0, known.seconds)
                outcome = run(script, long_flags(t, script), kill_after=moment)
                words = f"after {moment:.3f} s"
            else:
                trap = generator.randint(1, known.operations)
                outcome = run(script, long_flags(t, script), trap=trap)
                words = f"before file operation {trap}"
            if outcome.code == -signal.SIGKILL:
                killed.append(words)
        share -= len(killed)
        if killed or outcome.code != 0:
            end = partial(_end, t, script, outcome)
            t.attempt(section, f"killed {', '.join(killed)}", end, tries=max(len(killed), 1))


def _end(t: Torture, script: str, last: Outcome) -> str:
    if last.code != -signal.SIGKILL:
        expect_good_end(last, "it did not go on")
    return finish(t, script)
