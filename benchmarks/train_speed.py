"""How fast training goes: pictures per second, share of the step spent waiting for data, memory.

    python benchmarks/train_speed.py                                  photographs of img_to_pred/, simulated on the fly
    python benchmarks/train_speed.py --photos DIR --batch 16 36 --amp off bf16 --compile
    python benchmarks/train_speed.py --data SET --csv SET/train.csv --size 256         pairs, from the one-file cache

Prints a table and writes benchmarks/results/train_speed_<device>.csv. Every row is its own warmed-up model; medians over the steps. Memory is the
GPU's peak, or the process's peak so far on the CPU.
"""
import argparse
import contextlib
import csv
import resource
import statistics
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from metrics.environment import hardware  # noqa: E402
from models import PIEANet  # noqa: E402
from train_wavelet import expose_batch, get_args, loss_of, training_loader  # noqa: E402


def matrix_rate(device, dtype, n=4096, repeats=5):
    """Measured rate of a square matrix product, FLOP/s: what the steps' share is taken of."""
    n = n if device.type == 'cuda' else 1536
    a = torch.randn(n, n, device=device, dtype=dtype)
    times = []
    for _ in range(repeats + 2):
        start = now(device)
        a @ a
        times.append(now(device) - start)
    return 2 * n ** 3 / statistics.median(times[2:])


def now(device):
    if device.type == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(source, device, batch, size, amp, compiled, workers, steps):
    args = get_args([*map(str, source), '--out', 'unused', '--batch-size', str(batch), '--sizes', str(size), '--workers', str(workers)])
    loader, _, _ = training_loader(args, 0, steps + 3, 0, 1, device)
    network = PIEANet().to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    model = torch.compile(network) if compiled else network
    autocast = (lambda: torch.autocast(device.type, torch.bfloat16)) if amp == 'bf16' else contextlib.nullcontext
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    waits, simulations, totals, batches = [], [], [], iter(loader)
    for step in range(steps + 3):
        start = now(device)
        raw = next(batches)
        loaded = now(device)
        image, residual, mask = expose_batch(raw, device, step, args.jitter)
        simulated = now(device)
        with autocast():
            pred = model(image.to(memory_format=torch.channels_last))
        loss_of(pred.float(), residual, mask, args).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        end = now(device)
        if step >= 3:
            waits.append(loaded - start)
            simulations.append(simulated - loaded)
            totals.append(end - start)
    total = statistics.median(totals)
    flop = flop_of_step(device, batch, size)
    rate = matrix_rate(device, torch.bfloat16 if amp == 'bf16' else torch.float32)
    memory = torch.cuda.max_memory_allocated() / 2 ** 20 if device.type == 'cuda' else \
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 10
    return dict(device=device.type, source=source[0].lstrip('-'), amp=amp, compile=int(compiled), batch=batch, size=size, workers=workers,
                pictures_per_second=round(batch / total, 1), waiting_share=round(statistics.median(waits) / total, 4),
                simulation_share=round(statistics.median(simulations) / total, 4),
                matrix_rate_share=round(flop / total / rate, 4), peak_mib=round(memory))


def flop_of_step(device, batch, size):
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as counter:
        PIEANet().to(device)(torch.rand(1, 3, size, size, device=device)).mean().backward()
    return counter.get_total_flops() * batch


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--photos', type=Path, default=ROOT / 'img_to_pred')
    p.add_argument('--data', type=Path, help='a set in the IEA40K layout instead, from its cache')
    p.add_argument('--csv', type=Path, help='its training split')
    p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    p.add_argument('--batch', type=int, nargs='+', default=[16])
    p.add_argument('--size', type=int, nargs='+', default=[128, 256])
    p.add_argument('--amp', choices=('off', 'bf16'), nargs='+', default=['off', 'bf16'])
    p.add_argument('--compile', action='store_true', help='compiled rows as well')
    p.add_argument('--workers', type=int, nargs='+', default=[0])
    p.add_argument('--steps', type=int, default=10)
    args = p.parse_args()
    device, rows = torch.device(args.device), []
    source = ['--data', args.data, '--train-csv', args.csv, '--cache'] if args.data else ['--photos', args.photos]
    for batch in args.batch:
        for size in args.size:
            for amp in args.amp:
                for compiled in (False, True) if args.compile else (False,):
                    for workers in args.workers:
                        rows.append(measure(source, device, batch, size, amp, compiled, workers, args.steps))
                        print('  '.join(f'{k} {v}' for k, v in rows[-1].items()), flush=True)
    out = ROOT / 'benchmarks' / 'results' / f'train_speed_{device.type}.csv'
    about = hardware(device)
    with open(out, 'w', newline='') as f:
        writer = csv.DictWriter(f, [*rows[0], 'hardware', 'torch'])
        writer.writeheader()
        writer.writerows({**r, 'hardware': about['device'], 'torch': torch.__version__} for r in rows)
    print(f'written: {out}')


if __name__ == '__main__':
    main()
