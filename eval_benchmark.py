"""Evaluate models on test sets in the IEA40K layout: errors, holistic correlations, how sure, at what cost.

    python eval_benchmark.py --data DIR --csv DIR/test.csv            # the shipped weights, simple baselines
    python eval_benchmark.py --data DIR --csv DIR/test.csv --checkpoint mine=best.safetensors theirs.pth \\
        --baseline all --out table.md
    python eval_benchmark.py --data DIR --csv DIR/test.csv --maps someones_maps/ --published --plots figures/
    python eval_benchmark.py --data A --csv A/test.csv --data B --csv B/test.csv --out results.json
    python eval_benchmark.py ... --keep measured/    # stopped and given again, it goes on; a new method costs only itself
    torchrun --nproc_per_node=4 eval_benchmark.py --data DIR --csv DIR/test.csv  # the same figures, sooner

The first row is the one that the others are compared with: checkpoints come first, then maps, then baselines.
docs/add_a_method.md says what each figure is and how to add a method or a set. Exit code: 0; 1 when a method
failed on a picture (its row is marked); 2 for a bad argument or file, in one line. What cannot be written (--out,
--keep, --plots) is named so too, after the table is printed.
"""
import argparse
import os
import sys
import time
from pathlib import Path

import cv2
import torch
import torch.distributed as dist
from tqdm import tqdm

from cli import Parser, at_least
from datasets.iea40k import IEA40K
from datasets.spaq import ScoredPictures
from exposure.predictor import pick_device
from metrics import environment
from metrics.cost import cost
from metrics.evaluate import combine, evaluate
from metrics.holistic import THRESHOLD
from metrics.keep import Keep
from metrics.methods import distinct_names, from_baseline, from_checkpoint, from_maps, maps_of
from metrics.pixel import SIGMA, WINDOW
from metrics.report import FORMATS, read_published, render
from metrics.summary import summarise
from models.baselines.untrained import UNTRAINED
from models.checkpoint import atomic_write
from models.p_ieanet import IDEALS

SHIPPED = Path(__file__).resolve().parent / 'checkpoints' / 'p_ieanet.safetensors'
SUFFIXES = {'.md': 'markdown', '.tex': 'latex', '.json': 'json', '.txt': 'table'}


def arguments(argv):
    def threshold(text):
        value = float(text)
        if not 0 <= value < 1:  # also where it is not a number
            raise argparse.ArgumentTypeError(f'{value}: accepted are numbers >= 0 and below 1')
        return value
    p = Parser(description=__doc__.split('\n')[0])
    p.add_argument('--data', type=Path, action='append', required=True,
                   help='folder of a set; once for all --csv, or once for each')
    p.add_argument('--csv', type=Path, action='append', required=True,
                   help='split file of a set; give it again for further sets')
    p.add_argument('--checkpoint', nargs='+', default=[], metavar='[NAME=]F',
                   help="our .safetensors or the authors' .pth; default without --maps: the shipped weights")
    p.add_argument('--ideal', choices=IDEALS, default='auto', help="tell the checkpoints what the sets take for ideal, 'photograph' or 'fusion' of a "
                   'bracket (all need curves of kinds); default auto: they are told nothing')
    p.add_argument('--maps', nargs='+', default=[], metavar='[NAME=]DIR', help='folder of <picture>.npy maps')
    p.add_argument('--baseline', nargs='+', default=['zero', 'constant', 'auto-exposure'], metavar='NAME',
                   help=f'{", ".join(UNTRAINED)}; all; none')
    p.add_argument('--out', type=Path, help='write the report here; .csv .md .tex .json give the format')
    p.add_argument('--format', choices=FORMATS, help='of --out, or of what is printed when there is no --out')
    p.add_argument('--size', type=at_least(0), default=256, help='side that pictures and labels are brought to')
    p.add_argument('--batch-size', type=at_least(0), default=16)
    p.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:N')
    p.add_argument('--workers', type=at_least(0), default=2, help='threads that read pictures and compute figures')
    p.add_argument('--bootstrap', type=at_least(0), default=1000, help='resamples of the scenes; 0: no intervals')
    p.add_argument('--seed', type=at_least(0), default=0, help='of the resampling')
    p.add_argument('--acc-threshold', type=threshold, default=THRESHOLD,
                   help='on the mean residual, of under / fine / over')
    p.add_argument('--keep', type=Path, metavar='DIR',
                   help='keep per-picture numbers here, and take from here what is measured already')
    p.add_argument('--plots', type=Path, metavar='DIR',
                   help='write error by EV, accuracy against cost, worst and best cases')
    p.add_argument('--published', action='store_true', help="show the paper's tables beside ours")
    return p.parse_args(argv)


def join():
    """(rank, world) under torchrun, (0, 1) otherwise. Only numbers travel, so gloo serves GPUs as well."""
    if int(os.environ.get('WORLD_SIZE', 1)) == 1:
        return 0, 1
    dist.init_process_group('gloo')
    return dist.get_rank(), dist.get_world_size()


def share(value, world):
    """Every process's value, in order of rank."""
    if world == 1:
        return [value]
    values = [None] * world
    dist.all_gather_object(values, value)
    return values


def choose_device(name):
    """As :func:`exposure.predictor.pick_device`; without a number, each process of torchrun takes a GPU of its own."""
    device = pick_device(name)
    if device.type == 'cuda' and device.index is None:
        device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count())
    return device


def load_sets(args):
    """[(name, dataset)], every file checked for being there."""
    if len(args.data) not in (1, len(args.csv)):
        raise ValueError(f'{len(args.data)} --data for {len(args.csv)} --csv, accepted: one, or one for each')
    if args.size < 32 or args.batch_size < 1:
        raise ValueError(f'--size {args.size} --batch-size {args.batch_size}, accepted: at least 32 and 1')
    folders = args.data * len(args.csv) if len(args.data) == 1 else args.data
    sets = {}
    for folder, csv in zip(folders, args.csv):
        name = f'{folder.resolve().name}/{csv.stem}'
        if name in sets:
            raise ValueError(f'{csv}: a second set with the name {name}')
        scored = (folder / 'IEA_img').is_dir() and not (folder / 'label').exists()  # SPAQ, say
        sets[name] = (ScoredPictures if scored else IEA40K)(folder, csv, size=args.size)
    return list(sets.items())


def load_methods(args, device):
    names = [n for b in args.baseline for n in (UNTRAINED if b == 'all' else [] if b == 'none' else [b])]
    checkpoints = args.checkpoint or ([] if args.maps or not SHIPPED.exists() else [SHIPPED])
    methods = [from_checkpoint(c, device, args.ideal) for c in checkpoints] + [from_maps(m) for m in args.maps]
    methods += [from_baseline(n) for n in dict.fromkeys(names)]
    if not methods:
        raise ValueError('nothing to evaluate: give --checkpoint, --maps or --baseline')
    return distinct_names(methods)


def measure(sets, methods, args, rank, world, unwritten):
    """(list of Measured, None), or (_, the first process's complaint about a sample).

    What --keep could not write is appended to ``unwritten``: the numbers themselves are here, so the work goes on.
    """
    measured = []
    for name, dataset in sets:
        part = error = keep = None
        kept = {}
        if args.keep and rank == 0:
            try:
                keep = Keep(args.keep, dataset, name)
                kept = {m.name: found for m in methods if (found := keep.read(m)) is not None}
            except (ValueError, OSError) as e:
                error = f'{name}: {e}'
        error, done = share((error, list(kept)), world)[0]
        if error:
            return measured, error
        left = [m for m in methods if m.name not in done]
        with tqdm(total=len(dataset), desc=name, disable=rank > 0 or None, unit=' pictures') as bar:
            try:
                part = evaluate(dataset, left, name, args.batch_size, args.workers, rank, world,
                                lambda n: bar.update(min(n * world, bar.total - bar.n)))
            except (ValueError, OSError) as e:
                error = f'{name}: {e}'
        shares = share((part, error), world)
        if error := next((e for _, e in shares if e), None):
            return measured, error
        measured.append(combine([p for p, _ in shares]))
        if keep:
            try:
                for method in left:
                    keep.write(method, measured[-1])
            except OSError as e:
                unwritten.append(f'--keep {args.keep}: cannot be written ({e.strerror or e})')
            measured[-1].maps.update(kept)
    return measured, None


def make_report(args, device, sets, methods, measured, world, started):
    """Everything that --format json writes; the other formats show parts of it."""
    report = {
        'protocol': {'size': args.size, 'batch_size': args.batch_size, 'psnr_peak': 1, 'seed': args.seed,
                     'acc_threshold': args.acc_threshold, 'bootstrap': args.bootstrap, 'processes': world,
                     'ssim': f'{WINDOW}x{WINDOW} Gaussian window, sigma {SIGMA}, data_range 1, no padding',
                     'precision': 'networks fp32 without TF32, figures float64'},
        'commit': environment.commit(), 'date': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(started)),
        'versions': environment.versions(), 'hardware': environment.hardware(device), 'sets': [], 'rows': [],
        'methods': [], 'failures': []}
    for m in methods:
        digest = environment.sha256(m.source) if m.kind == 'checkpoint' else None
        source = m.source and m.source.name
        report['methods'].append({'name': m.name, 'kind': m.kind, 'source': source, 'sha256': digest})
    names = [m.name for m in methods]
    for csv, numbers in zip(args.csv, measured):
        report['failures'] += [{'set': numbers.name, 'method': method, 'img_id': img_id, 'reason': reason}
                               for method, img_id, reason in numbers.failures]
        about, rows = summarise(numbers, names, args.bootstrap, args.seed, args.acc_threshold)
        report['sets'].append({**about, 'csv': csv.name, 'csv_sha256': environment.sha256(csv)})
        report['rows'] += rows
    sample = sets[0][1][0]['image'][None]
    report['cost'] = {m.name: cost(m, sample, device) for m in methods}
    if args.published:
        report['published'] = read_published()
    report['seconds'] = round(time.time() - started, 1)
    return report


def draw(report, sets, measured, first, folder, cases=3):
    """Every figure of --plots; the cases are those of the first row's method."""
    from metrics import plots  # matplotlib is slow to import and only needed here
    plots.plot_by_ev(report, folder)
    plots.plot_cost(report, folder)
    for (name, dataset), numbers in zip(sets, measured):
        errors = numbers.of_map(first.name, 'mae')
        order = sorted((e, k) for k, e in enumerate(errors) if e == e)
        for what, chosen in (('worst', order[::-1][:cases]), ('best', order[:cases])):
            shown = []
            for error, k in chosen:
                s = dataset[numbers.rows[k]]
                found, = maps_of(first, s['image'][None], [s['img_id']], name)
                if not isinstance(found, str):
                    caption = f'{s["img_id"]}, MAE {error:.3f}'
                    shown.append((caption, s['image'], s['residual'][0].numpy(), found))
            if shown:
                plots.plot_cases(f'{first.name}: {what} of {name}', shown, folder, f'{what}_{name}.png')


def run(argv=None):
    args, started = arguments(argv), time.time()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    cv2.setNumThreads(1)  # --workers threads use it at the same time
    rank, world, error, unwritten = 0, 1, None, []
    try:
        rank, world = join()
        device = choose_device(args.device)
        sets, methods = load_sets(args), load_methods(args, device)
        if args.out and args.out.is_dir():
            raise ValueError(f'--out {args.out}: is a folder, accepted: a file')
        for folder in filter(None, (args.out and args.out.parent, args.plots)):  # fail now, not in the end
            folder.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as e:
        error = str(e)
    error = next(filter(None, share(error, world)), None)
    if error is None:
        measured, error = measure(sets, methods, args, rank, world, unwritten)
    if error:
        if rank == 0:
            print(f'eval_benchmark.py: {" ".join(error.split())}', file=sys.stderr)
        return 2
    failed = any(m.failures for m in measured)
    if rank:
        return int(failed)
    report = make_report(args, device, sets, methods, measured, world, started)
    kind = args.format or (SUFFIXES.get(args.out.suffix, 'csv') if args.out else 'table')
    print(render(report, 'table' if args.out else kind), end='')
    for f in report['failures'][:20]:
        print(f'failed: {f["method"]} on {f["img_id"]} of {f["set"]}: {f["reason"]}', file=sys.stderr)
    if len(report['failures']) > 20:
        print(f'failed: {len(report["failures"]) - 20} more, all of them in --format json', file=sys.stderr)
    if args.out:
        try:
            atomic_write(args.out, render(report, kind).encode())
        except OSError as e:
            unwritten.append(f'--out {args.out}: cannot be written ({e.strerror or e})')
    if args.plots:
        try:
            draw(report, sets, measured, methods[0], args.plots)
        except OSError as e:
            unwritten.append(f'--plots {args.plots}: cannot be written ({e.strerror or e})')
    for line in dict.fromkeys(unwritten):  # of --keep once, not for each set
        print(f'eval_benchmark.py: {line}', file=sys.stderr)
    return 2 if unwritten else int(failed)


def main(argv=None):
    try:
        return run(argv)
    finally:
        if dist.is_initialized():  # or gloo's threads may end the process by an abort
            dist.destroy_process_group()


if __name__ == '__main__':
    sys.exit(main())
