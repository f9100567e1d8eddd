"""Write one point of a curve or a straight line as a network's checkpoint, with statistics of its own.

With --adversarial --t best, the point of a robust curve that is the most robust on held-out training images.

python evaluation/export_point.py --dataset CIFAR100 --alignment corr --epochs_model 250 --epochs_curve 0 --out FILE
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import torch

import models
from utils import distributed
from utils.errors import FileError, UserError
from utils.measuring import measure
from utils.progress import in_words
from utils.repairing import renormalizer
from utils.reports.paths import Route
from utils.reports.results import load_path, robust_places
from utils.stages import flags, hints, process
from utils.stages.files import clear, hold, save_checkpoint
from utils.stages.flags import fraction, new_file
from utils.stages.layout import tag


def fraction_or_best(text):
    """A position on the path; best is chosen by its evaluation."""
    return text if text == "best" else fraction(text)


def parse_args(argv=None):
    parser = flags.stage_parser(__doc__, __file__, models, f"{flags.PATH} attack")
    parser.set_defaults(robust=False)
    t_help = "the point, from 0 at A to 1 at B; or best, of an evaluated robust path"
    parser.networks("--t", fraction_or_best, 0.5, t_help, outcome=True)
    robust_help = "robust networks, whose batch norm is re-estimated on attacked images"
    parser.networks("--adversarial", bool, False, robust_help, dest="robust")
    parser.files("--out", type=new_file, required=True, metavar="FILE", help="the checkpoint that is written")
    args = flags.parse(parser, argv)
    if args.t == "best" and not args.robust:
        parser.error("--t best is for robust networks: add --adversarial")
    return args


def main(args):
    clear(args.out)
    if args.out.exists() and not args.overwrite:
        raise UserError(f"{args.out} is there already; name another file, or add --overwrite", exit_code=2)
    route = Route(args.layout, tag(args.alignment), args.epochs_curve, args.variant)
    t = most_robust(route, args.seeds) if args.t == "best" else args.t
    data, curve, record = flags.load_path(args, args.out)
    distributed.from_main(lambda: hold(args.out))
    images, size, precision = data.for_batch_norm(args.bn_images), args.batch_size, args.precision
    measured = partial(measure, splits={"": data.test}, loss=data.task, batch_size=size, precision=precision)
    if args.robust:
        network = curve.place(t)
        metrics = measured(network, for_batch_norm=images, attack=args.attack)
    else:
        renormalize = renormalizer(curve, images, repaired=args.repair, batch_size=size, precision=precision)
        network = curve.place(t)
        renormalize(network, t)
        metrics = measured(network)
    state = {name: value.clone(memory_format=torch.contiguous_format) for name, value in network.state_dict().items()}
    save_checkpoint(args.out, {"model_state": state, "record": record.having(t=t).stored()})
    if args.robust:
        words = f"loss {metrics['loss']:.4f}, accuracy {metrics['accuracy']:.1f} %"
        words += f", robust accuracy {metrics['accuracy_robust']:.1f} %"
    else:
        words = in_words(metrics).replace("  ", ", ")
    print(f"At t = {t:g}: {words} on test images")
    hints.closing_words(args.here, [args.out])


def most_robust(route, seeds):
    """The t at which robust accuracy on held-out training images is highest, as the path was evaluated."""
    evaluated = load_path(route, seeds)
    places = robust_places(evaluated)
    if "chosen" not in places:
        raise FileError(evaluated.path, "was not evaluated on held-out training images", "replace")
    return float(evaluated["t"][places["chosen"]])


if __name__ == "__main__":
    process.run(parse_args, main)
