"""Make the README's main table: P-IEANet, the released weights, trained and untrained baselines on every test set.

    python benchmarks/main_table.py --sets sets --released wavelet_epoch_2.pth --trained runs/baselines --keep runs/measured
    torchrun --standalone --nproc_per_node=2 benchmarks/main_table.py ...       the same figures, sooner

--sets holds photos, photos-mixed, stacks, stacks-frame and hdri as docs/data.md rebuilds them; --trained is what
benchmarks/train_baselines.py wrote. Writes benchmarks/results/benchmark.csv and puts it into the README. With --keep a method is measured once, so
that the command can be interrupted, and costs little when only one method has changed. A method that is not measured this time keeps its row, without
what compares it with the first one; --fresh leaves it out.
"""
import argparse
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

import eval_benchmark  # noqa: E402
import readme_table  # noqa: E402
from datasets.iea40k import read_table  # noqa: E402
from metrics.report import csv_text  # noqa: E402
from models.checkpoint import atomic_write  # noqa: E402
from train_baselines import finished  # noqa: E402

SETS = ('photos', 'photos-mixed', 'hdri', 'stacks', 'stacks-frame')
KEYS = ('set', 'method')  # of a row of benchmark.csv
TITLES = {'p_ieanet': 'P-IEANet', 'nafnet': 'NAFNet', 'retinexformer': 'Retinexformer', 'unet': 'U-Net (timm ResNet-18)',
          'encoder_decoder': 'Encoder-decoder', 'iqa_resnet50': 'ResNet-50, dense head', 'zerodce': 'Zero-DCE', 'mslt': 'MSLT',
          'tone_curve': 'Tone curve from statistics'}


def checkpoints(own, released, trained):
    """The arguments of --checkpoint, NAME=FILE: the shipped weights, the authors', those of equal budget with the budget in their name."""
    found = [f'P-IEANet={own}'] + [f'released P-IEANet={released}'] * bool(released)
    if trained:
        budget = json.loads((trained / 'budget.json').read_text(encoding='utf-8'))
        for name, title in TITLES.items():
            file = trained / name / 'best.safetensors'
            if file.exists() and finished(trained / name, budget['networks'][name]['steps']):
                length = f'{budget["minutes"]:g} min' if budget['minutes'] else f'{budget["networks"][name]["steps"]} steps'
                found.append(f'{title}, {length}={file}')
    return found


def carried_over(old, new):
    """``new`` rows and, after them, the ``old`` rows of other methods, set by set, less their comparison with the first method."""
    known = {r['method'] for r in new}
    kept = [{k: '' if k.startswith(('delta_', 'p_')) else v for k, v in r.items()} for r in old if r['method'] not in known]
    sets = dict.fromkeys(r['set'] for r in new)
    return [r for s in sets for rows in (new, kept) for r in rows if r['set'] == s]


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--sets', type=Path, required=True, help=f'folder of {", ".join(SETS)}')
    p.add_argument('--only', nargs='+', choices=SETS, default=SETS, help='some of the sets; the README is left as it is')
    p.add_argument('--split', default='test', help='another one leaves the README as it is')
    p.add_argument('--checkpoint', type=Path, default=ROOT / 'checkpoints/p_ieanet.safetensors')
    p.add_argument('--released', type=Path, help="the authors' .pth")
    p.add_argument('--trained', type=Path, help='--out of benchmarks/train_baselines.py')
    p.add_argument('--keep', type=Path, help='see eval_benchmark.py')
    p.add_argument('--out', type=Path, help='default: benchmarks/results/benchmark.csv, and the README; with another file not the README')
    p.add_argument('--fresh', action='store_true', help='no rows of methods that are not measured this time')
    p.add_argument('--device', default='auto')
    p.add_argument('--batch-size', type=int, default=16)
    p.add_argument('--workers', type=int, default=2)
    args = p.parse_args(argv)
    readme = args.out is None and args.split == 'test' and set(args.only) == set(SETS)
    out = args.out or ROOT / 'benchmarks/results' / ('benchmark.csv' if readme else 'part.csv')
    try:
        found = checkpoints(args.checkpoint, args.released, args.trained)
    except (OSError, ValueError, KeyError) as error:
        print(f'main_table.py: {args.trained}: not what train_baselines.py writes ({error})', file=sys.stderr)
        return 2
    given = [v for name in args.only for v in ('--data', args.sets / name, '--csv', args.sets / name / f'{args.split}.csv')]
    given += ['--checkpoint', *found, '--baseline', 'all', '--device', args.device]
    given += ['--batch-size', args.batch_size, '--workers', args.workers]
    given += ['--keep', args.keep] if args.keep else []
    first_process = int(os.environ.get('RANK', 0)) == 0
    before = read_table(out, KEYS) if readme and first_process and not args.fresh and out.exists() else []
    code = eval_benchmark.main([str(v) for v in (*given, '--out', out)])
    if code < 2 and readme and first_process:
        atomic_write(out, csv_text(carried_over(before, read_table(out, KEYS))).encode())
        readme_table.main([])
    return code


if __name__ == '__main__':
    sys.exit(main())
