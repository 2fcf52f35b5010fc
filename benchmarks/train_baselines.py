"""Train every network of the benchmark, P-IEANet among them, each for the same time, and make the table.

    python benchmarks/train_baselines.py --minutes 10 --out runs/baselines -- --photos photos/train \\
        --data sets/photos --val-csv sets/photos/val.csv --amp bf16 --threads 1 --workers 0
    python benchmarks/train_baselines.py ... --sets sets --released F.pth -- ...       then evaluate all of them (benchmarks/main_table.py)

What follows ``--`` goes to train_wavelet.py, the same for every network. The budget is one number, --minutes (or --steps): a few steps of
each network are timed first (CPU: processor time, so that a busy machine changes little; GPU: the clock), and its run gets as many steps as
fit, with a learning rate that falls to the end of them. The plan is kept in OUT/budget.json: given again, the command goes on
where it stopped.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import train_wavelet  # noqa: E402
from metrics.environment import hardware  # noqa: E402
from metrics.report import csv_text  # noqa: E402
from metrics.training import last_row  # noqa: E402
from models.baselines import NETWORKS  # noqa: E402
from models.checkpoint import atomic_write, build_model, read_header  # noqa: E402


def clock(device):
    if device.type == 'cuda':
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def draw_batches(args, size, count):
    """Batches of the training set at one size, and what it costs to read one."""
    device, times, batches = torch.device('cpu'), [], []
    args.sizes, args.late_sizes = [size], []
    loader, _, _ = train_wavelet.training_loader(args, 0, count, 0, 1)
    iterator = iter(loader)
    for _ in range(count):
        start = clock(device)
        batches.append(next(iterator))
        times.append(clock(device) - start)
    return batches, statistics.median(times) if not args.workers else 0.0


def seconds_a_step(name, args, batches, device, warm=2):
    """Median time of a training step on ``batches``, as the trainer does it, data already read."""
    network = build_model(name, {}).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    model = torch.compile(network) if args.compile else network
    times = []
    for n, batch in enumerate(batches):
        start = clock(device)
        image, residual, mask = train_wavelet.expose_batch(batch, device, n, args.jitter)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.amp == 'bf16'):
            pred = model(image.to(memory_format=torch.channels_last))
        train_wavelet.loss_of(pred.float(), residual, mask, args).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update_parameters(network)
        if n >= warm:
            times.append(clock(device) - start)
    return statistics.median(times)


def plan(names, minutes, steps, passed, count):
    """What OUT/budget.json holds: the steps of every network, and what they were reckoned from."""
    args = train_wavelet.get_args([*passed, '--out', 'unused'])
    device, _, _ = train_wavelet.setup_processes(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    early, late = args.sizes, args.late_sizes or args.sizes  # the last fifth of a run may have other sizes
    data = {size: draw_batches(args, size, count) for size in sorted({*early, *late})}
    found = {}
    for name in names:
        by_size = {size: seconds_a_step(name, args, batches, device) + reading for size, (batches, reading) in data.items()}
        mean = round(0.8 * statistics.mean(by_size[s] for s in early) + 0.2 * statistics.mean(by_size[s] for s in late), 4)
        found[name] = {'steps': steps or max(1, int(60 * minutes / mean)), 'seconds_per_step': mean,
                       'by_size': {s: round(t, 4) for s, t in by_size.items()},
                       'parameters': sum(p.numel() for p in build_model(name, {}).parameters())}
        print(f'{name}: {mean:.4f} s a step {found[name]["by_size"]}, {found[name]["steps"]} steps', flush=True)
    return {'minutes': None if steps else minutes, 'steps': steps, 'arguments': passed, 'device': hardware(device)['device'],
            'networks': found}


def command(name, steps, out, passed):
    """The training of one network. Warm-up and averaging follow the length of the run, or the first weights would weigh in a short one."""
    return [sys.executable, str(ROOT / 'train_wavelet.py'), '--warmup', str(max(1, min(200, steps // 10))), '--ema',
            f'{max(0.0, min(0.998, 1 - 10 / steps)):.4f}', *passed, '--model', name, '--steps', str(steps), '--val-every', str(10 ** 9),
            '--out', str(out / name), '--resume', 'auto']


def finished(folder, steps):
    row = last_row(folder)
    return row is not None and int(row['step']) >= steps and (folder / 'best.safetensors').exists()


def figures(out, budget):
    """Rows of what was trained: steps, minutes, validation."""
    rows = []
    for name, b in budget['networks'].items():
        if finished(out / name, b['steps']):
            validation = read_header(out / name / 'best.safetensors')[2].get('validation', {})
            rows.append({'network': name, 'parameters': b['parameters'], 'steps': b['steps'], 'seconds_per_step': b['seconds_per_step'],
                         'wall_minutes': last_row(out / name)['minutes'], 'device': budget['device'],
                         **{f'{s}_{k}': f'{v:.5g}' for s, f in validation.items() for k, v in f.items()}})
    return rows


def main(argv=None):
    argv = list(sys.argv[1:] if argv is None else argv)
    own, passed = (argv[:argv.index('--')], argv[argv.index('--') + 1:]) if '--' in argv else (argv, [])
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog='After -- : arguments of train_wavelet.py')
    p.add_argument('--minutes', type=float, default=10, help='of each network')
    p.add_argument('--steps', type=int, help='instead: the same number of steps for each')
    p.add_argument('--networks', nargs='+', default=['p_ieanet', *NETWORKS], choices=('p_ieanet', *NETWORKS))
    p.add_argument('--out', type=Path, default=Path('runs/baselines'))
    p.add_argument('--timed-steps', type=int, default=6, help='of each network and size, for the plan; the first two do not count')
    p.add_argument('--plan-only', action='store_true', help='time the steps and stop')
    p.add_argument('--sets', type=Path, help='folder of the test sets: evaluate in the end')
    p.add_argument('--released', type=Path, help="the authors' .pth, for that table")
    args = p.parse_args(own)
    args.out.mkdir(parents=True, exist_ok=True)
    names, kept = list(args.networks), args.out / 'budget.json'
    try:
        build_model('unet', {})
    except ValueError as error:
        if 'unet' in names:
            print(f'left out: {error}', file=sys.stderr)
            names.remove('unet')
    try:
        budget = json.loads(kept.read_text()) if kept.exists() else None
        if budget and (budget['arguments'] != passed or set(names) - set(budget['networks'])
                       or (budget['minutes'], budget['steps']) != (None if args.steps else args.minutes, args.steps)):
            raise ValueError(f'{kept}: was made for another budget, other networks or other arguments; give another --out, or remove it')
        if not budget:
            budget = plan(names, args.minutes, args.steps, passed, max(3, args.timed_steps))
            atomic_write(kept, json.dumps(budget, indent=1).encode())
    except (ValueError, OSError) as error:
        print(f'train_baselines.py: {error}', file=sys.stderr)
        return 2
    if args.plan_only:
        return 0
    for name in names:
        steps = budget['networks'][name]['steps']
        if not finished(args.out / name, steps) and (code := subprocess.run(command(name, steps, args.out, passed)).returncode):
            print(f'train_baselines.py: {name} ended with exit code {code}', file=sys.stderr)
            return code
        if not finished(args.out / name, steps):
            print(f'train_baselines.py: {name} was stopped early; the same command goes on', file=sys.stderr)
            return 1
    rows = figures(args.out, budget)
    text = csv_text(rows)
    atomic_write(args.out / 'baselines.csv', text.encode())
    print(text, end='')
    if args.sets:
        table = [sys.executable, str(ROOT / 'benchmarks/main_table.py'), '--sets', str(args.sets), '--trained', str(args.out)]
        table += ['--keep', str(args.out / 'measured')] + (['--released', str(args.released)] if args.released else [])
        return subprocess.run(table).returncode
    return 0


if __name__ == '__main__':
    sys.exit(main())
