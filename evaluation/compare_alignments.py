"""Compare all alignments of one pair of networks or several: correlation, distance, and what lies between.

python evaluation/compare_alignments.py --dataset CIFAR10 --model TinyTen --seed_a 1 3 5 --seed_b 2 4 6
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stages import start

start.quietly()

from utils.reports import comparison, figures, paths, results, tables
from utils.stages import flags, process
from utils.stages.files import write_atomically
from utils.stages.layout import model_folder


def parse_args(argv=None):
    parser = flags.results_parser(__doc__, of_all=True)
    flags.add_variant_flags(parser, of_all=True)
    flags.add_title_flag(parser)
    return flags.parse_results(parser, argv, script=__file__)


def main(args):
    curves = {"curve_seeds": args.curve_seed, "num_bends": args.num_bends, "curves": args.curve}
    asked_for = paths.Selection(args.dataset, args.model, args.pairs, args.alignment, args.epochs, **curves)
    table = comparison.build(args.root, asked_for)
    if not table.rows:
        raise table.missing[0]
    markdown = tables.to_markdown(table)
    texts = {"md": markdown, "csv": tables.to_csv(table), "tex": tables.to_latex(table, args.command)}
    datasets = list(dict.fromkeys(column.dataset for column in table.columns))
    models = list(dict.fromkeys(row.model for row in table.rows))
    found = [one for one in paths.evaluated(args.root) if asked_for.includes(one)]
    files = []
    try:
        for suffix, text in texts.items():
            subjects = ("_".join(datasets), "_".join(map(model_folder, models)))
            path = results.output_path(args.root, "comparison", suffix, *subjects, name=args.name)
            write_atomically(path, lambda stream, text=text: stream.write(text.encode()))
            files.append(path)
        for layout in dict.fromkeys(one.layout for one in found):
            if (layout.dataset in datasets) and (layout.model in models):
                pairs = list(dict.fromkeys(one.pair for one in found if one.layout == layout))
                with figures.style():
                    drawing = comparison.draw(table, layout.model, layout)
                    how = {"name": args.name, "titled": not args.no_title}
                    files += figures.save([drawing], pairs=pairs, command=args.command, **how)
    finally:  # as the table is printed whatever becomes of its files
        print(markdown)
        for error in table.missing:
            print(f"Not in the comparison: {args.stage.explain(error)}")
    process.closing_words(files)


if __name__ == "__main__":
    process.run(parse_args, main)
