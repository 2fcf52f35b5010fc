"""Are well-exposed photographs left alone? The error at EV 0, over all test photographs and over the low-key and high-key ones alone.

    python benchmarks/well_exposed.py --set sets/photos --released wavelet_epoch_2.pth

At EV 0 the label is zero, so the MAE is the mean |residual| that a method finds in a photograph that is fine as it is. Low-key and
high-key pictures are dark or bright on purpose (`mood` in docs/lists/photos.csv): there auto-exposure must fail. Writes
benchmarks/results/well_exposed.csv.
"""
import argparse
import csv
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import eval_benchmark  # noqa: E402
from datasets.iea40k import DatasetError, exposure_of, read_csv  # noqa: E402
from metrics.report import csv_text  # noqa: E402


def subsets(split, photographs):
    """The rows of a split CSV at EV 0, by the name of the subset: all, and those of low-key and high-key pictures."""
    with open(photographs, encoding='utf-8', newline='') as f:
        moods = {Path(row['file']).stem: row['mood'] for row in csv.DictReader(f)}
    fine = [row for row in read_csv(split) if exposure_of(row['img_id']) == 0]
    chosen = {'fine': fine, 'low-and-high-key': [row for row in fine if moods.get(Path(row['ref_id']).stem)]}
    if empty := [name for name, rows in chosen.items() if not rows]:
        raise DatasetError(f'{split}: no pictures at EV 0 that are {empty[0]}')
    return chosen


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--set', type=Path, required=True, help='a set of the photos protocol (docs/data.md)')
    p.add_argument('--split', default='test')
    p.add_argument('--list', type=Path, default=ROOT / 'docs/lists/photos.csv', help='with the column mood')
    p.add_argument('--checkpoint', type=Path, default=ROOT / 'checkpoints/p_ieanet.safetensors')
    p.add_argument('--released', type=Path, help="the authors' .pth")
    p.add_argument('--device', default='auto')
    p.add_argument('--out', type=Path, default=ROOT / 'benchmarks/results/well_exposed.csv')
    args = p.parse_args(argv)
    try:
        chosen = subsets(args.set / f'{args.split}.csv', args.list)
    except (DatasetError, OSError, KeyError) as error:
        print(f'well_exposed.py: {error}', file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        given = []
        for name, rows in chosen.items():
            file = Path(folder) / f'{args.split}-{name}.csv'
            file.write_text(csv_text(rows), encoding='utf-8')
            given += ['--csv', file]
        given += ['--checkpoint', f'P-IEANet={args.checkpoint}'] + [f'released P-IEANet={args.released}'] * bool(args.released)
        given += ['--baseline', 'auto-exposure', 'constant', 'histogram', '--device', args.device, '--out', args.out]
        return eval_benchmark.main(['--data', str(args.set), *map(str, given)])


if __name__ == '__main__':
    sys.exit(main())
