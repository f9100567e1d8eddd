"""Write one point of a curve or a straight line as a network's checkpoint, with statistics of its own.

python evaluation/export_point.py --dataset CIFAR100 --alignment corr --epochs_model 250 --epochs_curve 0 --out FILE
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

import torch

from utils import distributed
from utils.devices import memory_format
from utils.errors import UserError
from utils.measuring import evaluate
from utils.repairing import renormalizer
from utils.stages import flags, process
from utils.stages.data import load_data
from utils.stages.files import expect_writable, hold, save_checkpoint
from utils.stages.inputs import check_input
from utils.stages.layout import Layout, Variant
from utils.stages.loading import expect_curve, load_curve
from utils.stages.parser import add_folder_flags, fraction
from utils.stages.records import behind


def parse_args(argv=None):
    parser = flags.stage_parser(__doc__, __file__, batch_size=512)
    flags.add_path_flags(parser)
    add_folder_flags(parser, "evaluation/export_point.py")
    flags.add_evaluation_flags(parser)
    parser.networks("--t", type=fraction, default=0.5, help="the point, from 0 at A to 1 at B", outcome=True)
    parser.files("--out", type=Path, required=True, metavar="FILE", help="the checkpoint that is written")
    return flags.parse(parser, argv)


def main(args):
    if args.out.exists() and not args.overwrite:
        raise UserError(f"{args.out} is there already; name another file, or add --overwrite", exit_code=2)
    layout = Layout(args.root, args.model, args.dataset, args.robust, args.replaced)
    seeds, variant = (args.seed_a, args.seed_b), Variant(args.seed, args.num_bends, args.curve)
    expect_curve(layout, seeds, args.epochs_model, args.epochs_curve, args.alignment, variant)
    expect_writable(args.out.parent)
    distributed.from_main(lambda: hold(args.out))
    data = load_data(args.dataset, **flags.of_images(args))
    curve = load_curve(
        layout, data, seeds, args.epochs_model, args.epochs_curve, alignment=args.alignment, variant=variant
    ).to(args.device, memory_format=memory_format(args.device))
    images, how = data.for_batch_norm(args.bn_images), {"batch_size": args.batch_size, "precision": args.precision}
    check_input(curve.base, images, args.batch_size)
    if args.compile:
        curve.compile()
    renormalize = renormalizer(curve, images, repaired=args.repair, **how)
    network = curve.place(args.t)
    renormalize(network, args.t)
    state = {name: value.clone(memory_format=torch.contiguous_format) for name, value in network.state_dict().items()}
    made_from = behind(layout, seeds, args.epochs_model, args.alignment, args.epochs_curve, variant)
    record = args.record.of(args.model, made_from, images=data.digest, points=curve.digests())
    save_checkpoint(args.out, {"model_state": state, "record": record.stored()})
    loss, accuracy = evaluate(network, data.test, **how)
    print(f"At t = {args.t:g}: loss {loss:.4f}, accuracy {accuracy:.1f} % on test images")
    process.closing_words([args.out])


if __name__ == "__main__":
    process.run(parse_args, main)
