"""A loss that is no number ends training with one line, and the last good epoch is kept."""

from functools import partial

from benchmarks.torture.judging import Failure, expect_refusal
from benchmarks.torture.kills import expect_intact
from benchmarks.torture.running import run
from benchmarks.torture.trials import Torture
from benchmarks.torture.workspaces import CORR, PAIR, ROBUST
from utils.stages.files import load_checkpoint

CASES = {
    "training/train_model.py": ["--seed", 5, "--epochs", 5],
    "training/train_curve.py": [*PAIR, *CORR, "--epochs", 5],
    "training/train_curve_pam.py": [*PAIR, *CORR, "--inner_iters_perm", 5, "--inner_iters_phi", 5],
    "training/train_model_adversarial.py": ["--seed", 5, "--epochs", 5, *ROBUST],
    "training/train_curve_adversarial.py": ["--epochs_model", 2, *CORR, "--epochs", 5, *ROBUST],
}


def divergence(t: Torture) -> None:
    for script, flags in CASES.items():
        section = "a loss that is no number"
        t.attempt(section, f"{script} from the first epoch", partial(_at_once, t, script, flags))
        if "adversarial" not in script:  # whose schedule never rises
            t.attempt(section, f"{script} in a later epoch", partial(_later, t, script, flags))


def _at_once(t: Torture, script: str, flags: list[object]) -> str:
    t.fresh("networks")
    expect_intact(t, "networks", run(script, t.flags(t.trial, script, *flags, "--lr", "1e30")))
    return "refused"


def _later(t: Torture, script: str, flags: list[object]) -> str:
    t.fresh("networks")
    command = t.flags(t.trial, script, *flags, "--lr", 0.01, "--lr_decay", 1e20, "--resume")
    expect_intact(t, "networks", run(script, command))
    rolling = list(t.trial.rglob("*-resume.pt"))
    if len(rolling) != 1:
        raise Failure(f"checkpoints that are kept: {rolling}")
    content = rolling[0].read_bytes()
    state = load_checkpoint(rolling[0])["model_state"]
    again = run(script, command)
    expect_refusal(again)
    if not all(value.isfinite().all() for value in state.values()) or rolling[0].read_bytes() != content:
        raise Failure("the last good checkpoint is not kept", again)
    return "refused"
