"""The paper's ablations (its Tables 3, 5 and 6) on one's own data, and our own choices beside them: every variant with one equal budget.

    python benchmarks/ablations.py --work runs/ablations --epochs 4 --photos photos/train --data sets/stacks \
        --train-csv sets/stacks/train.csv --val-csv sets/stacks/val.csv --device cpu --threads 1

What is not listed by --help goes to train_wavelet.py as it is: data folders, --mix, --val-limit, --device, --threads and so on. One run
follows the other, each in its folder below --work; an interrupted command goes on where it stopped when it is given again. The figures are
those of the last step on the validation sets (nothing is picked), written to benchmarks/results/ablations.csv and .md.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import train_wavelet  # noqa: E402
from benchmarks.readme_table import table  # noqa: E402
from metrics.environment import commit, processor  # noqa: E402
from metrics.report import csv_text  # noqa: E402
from metrics.training import last_row  # noqa: E402
from models.checkpoint import atomic_write  # noqa: E402

# The budget apart from its length: short runs at one resolution, the last weights themselves (an average would lag behind).
RECIPE = '--batch-size 16 --sizes 128 --late-sizes --warmup 40 --ema 0 --amp bf16 --workers 0'.split()
# name: (where it is compared, what it changes, the paper's MAE and SSIM)
VARIANTS = {
    'full': ('', [], '.03', '.75'),
    'without DWT': ('Table 3', ['--without', 'dwt'], '.08', '.43'),
    'without structure': ('Table 3', ['--without', 'structure'], '.05', '.54'),
    'without lightness': ('Table 3', ['--without', 'lightness'], '.08', '.42'),
    'db4': ('Table 5', ['--wavelet', 'db4'], '.07', '.49'),
    'sym4': ('Table 5', ['--wavelet', 'sym4'], '.08', '.41'),
    'L2': ('Table 6', ['--loss', 'l2'], '', '.62'),
    'smooth L1': ('Table 6', ['--loss', 'smooth_l1'], '', '.67'),
    'narrower': ('ours', ['--config', 'width=16'], '', ''),
}


class AblationError(RuntimeError):
    """The command cannot go on; the message is one line."""


def finished(folder, epochs):
    row = last_row(folder)
    return row is not None and int(row['epoch']) >= epochs


def train(folder, arguments, epochs):
    """One run, to its end; nothing to do when it is there already.

    Raises:
        AblationError: when it stops early, or the folder holds a run with other arguments.
    """
    note = folder / 'arguments.json'
    if note.exists() and json.loads(note.read_text()) != arguments:
        raise AblationError(f'{folder}: holds a run with other arguments; give another --work or delete it')
    if finished(folder, epochs):
        return
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(note, json.dumps(arguments).encode())
    code = subprocess.run([sys.executable, ROOT / 'train_wavelet.py', *arguments, '--out', folder, '--resume', 'auto']).returncode
    if code or not finished(folder, epochs):
        raise AblationError(f'{folder}: the run stopped early (exit code {code}); the same command goes on from there')


def result(name, seed, folder, arguments):
    """A finished run as a row of the CSV; ``mae`` and ``ssim`` are means over the validation sets."""
    row, args = last_row(folder), train_wavelet.get_args([*arguments, '--out', str(folder)])
    figures = {k: float(v) for k, v in row.items() if v and k.endswith(('_mae', '_ssim', '_psnr', '_level'))}
    return dict(variant=name, compared=VARIANTS[name][0], seed=seed, steps=row['step'], batch=args.batch_size,
                size=' '.join(map(str, args.sizes)), minutes=round(float(row['minutes']), 2),
                **{m: round(float(np.mean([v for k, v in figures.items() if k.endswith(f'_{m}')])), 4) for m in ('mae', 'ssim')},
                **{k: round(v, 4) for k, v in figures.items()},
                hardware=torch.cuda.get_device_name() if args.device != 'cpu' and torch.cuda.is_available() else processor(),
                commit=commit() or '', changed=' '.join(VARIANTS[name][1]))


def to_markdown(rows):
    """The table: mean over seeds, and how far each variant is from the full model beside how far the full model's seeds are apart."""
    sets = [k[:-4] for k in rows[0] if k.endswith('_mae')]
    full = [r['mae'] for r in rows if r['variant'] == 'full']
    spread = round(max(full, default=0) - min(full, default=0), 4)  # as shown, so that the verdicts fit the figures
    lines = []
    for name, (compared, _, paper_mae, paper_ssim) in VARIANTS.items():
        runs = [r for r in rows if r['variant'] == name]
        if not runs:
            continue
        mean = {k: float(np.mean([r[k] for r in runs])) for k in runs[0] if k in ('mae', 'ssim') or k.endswith('_mae')}
        difference, verdict = '', ''
        if full and name != 'full':
            d = round(mean['mae'] - float(np.mean(full)), 4)
            difference = f'{d:+.4f}'
            verdict = 'within the seeds' if abs(d) <= spread else 'worse' if d > 0 else 'better'
        lines.append([name, compared, str(len(runs)), f'{mean["mae"]:.4f}', difference, verdict, f'{mean["ssim"]:.3f}',
                      *(f'{mean[f"{s}_mae"]:.4f}' for s in sets), paper_mae, paper_ssim])
    first = rows[0]
    about = (f'{first["steps"]} steps of {first["batch"]} pictures at {first["size"]} px for every variant; MAE and SSIM on the validation '
             f'sets after the last step, means over the sets. ')
    if len(full) > 1:
        about += f'The full model\'s {len(full)} seeds are {spread:.4f} apart: a difference up to that says nothing. '
    about += 'The last two columns are the paper\'s own figures, on its set and after its full training.'
    header = ['variant', 'paper', 'runs', 'MAE', 'against full', 'that is', 'SSIM', *(f'MAE {s}' for s in sets), 'paper MAE', 'paper SSIM']
    return f'{about}\n\n{table(header, lines)}\n'


def get_args(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False,
                                epilog='All other arguments are those of train_wavelet.py.')
    p.add_argument('--work', type=Path, required=True, metavar='DIR', help='the runs\' folders')
    p.add_argument('--epochs', type=int, required=True, help='the budget of every run; an epoch passes each photograph (or else pair) once')
    p.add_argument('--seeds', type=int, default=3, help='runs of the full model (default 3); the others have one')
    p.add_argument('--only', nargs='+', choices=VARIANTS, default=list(VARIANTS), metavar='VARIANT', help=', '.join(VARIANTS))
    p.add_argument('--results', type=Path, default=ROOT / 'benchmarks' / 'results' / 'ablations.csv', metavar='F.csv')
    args, rest = p.parse_known_args(argv)
    if args.seeds < 1:
        p.error(f'argument --seeds: is {args.seeds}, accepted: 1 or more')
    args.common = [*RECIPE, *rest, '--epochs', str(args.epochs), '--val-every', str(args.epochs)]
    checked = train_wavelet.get_args([*args.common, '--out', str(args.work)])  # ends here when they are not the trainer's
    if not checked.val_csv:
        p.error('nothing to compare on: give --val-csv')
    return args


def main(argv=None):
    args = get_args(argv)
    runs = [(name, seed) for name in args.only for seed in range(args.seeds if name == 'full' else 1)]
    rows = []
    try:
        for i, (name, seed) in enumerate(runs):
            folder = args.work / f'{name.replace(" ", "-")}-{seed}'
            arguments = [*args.common, '--seed', str(seed), *VARIANTS[name][1]]
            print(f'{i + 1} of {len(runs)}: {name}, seed {seed}', flush=True)
            train(folder, arguments, args.epochs)
            rows.append(result(name, seed, folder, arguments))
            args.results.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(args.results, csv_text(rows).encode())
            atomic_write(args.results.with_suffix('.md'), to_markdown(rows).encode())
    except (AblationError, OSError, ValueError) as e:
        print(f'ablations.py: {e}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('ablations.py: stopped; the same command goes on from here', file=sys.stderr)
        return 130
    print(to_markdown(rows), end='')
    return 0


if __name__ == '__main__':
    sys.exit(main())
