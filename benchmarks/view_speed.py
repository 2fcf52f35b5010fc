"""How fast pictures are made for training, beside how fast the network can take them.

    python benchmarks/view_speed.py                                         photographs of img_to_pred/, exposed on the fly
    python benchmarks/view_speed.py --photos DIR --data DIR --csv F         also a set in the IEA40K layout, from its files and from a cache

Pictures per second, the best of some rounds: crop and mirror of a photograph in memory; its exposure (datasets/simulation.py) on the
device; both, in turn; the training step alone. On a CPU, one thread and its processor time, which other work on the machine hardly
changes: what a core does; data workers and steps share the cores. Written to benchmarks/results/view_speed_<device>.csv.
"""
import argparse
import csv
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from datasets.cache import CachedIEA40K  # noqa: E402
from datasets.iea40k import IEA40K  # noqa: E402
from datasets.photographs import Photographs  # noqa: E402
from datasets.simulation import simulate  # noqa: E402
from metrics.environment import commit, hardware  # noqa: E402
from models import PIEANet  # noqa: E402
from models.grey import luma  # noqa: E402


def now(device):
    if device.type == 'cpu':
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def rate(work, pictures, device, rounds):
    """Pictures per second of ``work(round)``, which handles ``pictures`` of them: the best round after one to warm up."""
    times = []
    for n in range(rounds + 1):
        start = now(device)
        work(n)
        times.append(now(device) - start)
    return pictures / min(times[1:])


def measure(args, device, size, amp):
    photographs, batch = Photographs([args.photos]), args.batch

    def load(n):
        keys = [((n * batch + i) % len(photographs), n * batch + i, size) for i in range(batch)]
        return torch.stack([photographs[k]['image'] for k in keys])

    def expose(x, n):
        image, _ = simulate(x, torch.Generator().manual_seed(n))
        return image, luma(x) - luma(image)
    pictures = load(0).to(device)
    image, residual = expose(pictures, 0)
    model = PIEANet().to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(_):
        with torch.autocast(device.type, torch.bfloat16, enabled=amp == 'bf16'):
            prediction = model(image.to(memory_format=torch.channels_last))
        (prediction.float() - residual).abs().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    rates = {'crop': rate(load, batch, device, args.rounds),
             'expose': rate(lambda n: expose(pictures, n), batch, device, args.rounds),
             'view': rate(lambda n: expose(load(n).to(device), n), batch, device, args.rounds),
             'step': rate(step, batch, device, args.rounds)}
    if args.csv and size == 256:
        with tempfile.TemporaryDirectory() as folder:
            files, cache = IEA40K(args.data, args.csv), CachedIEA40K(args.data, args.csv, Path(folder) / 'cache')
            for name, data in (('files', files), ('cache', cache)):
                rates[name] = rate(lambda n: [data[(n * batch + i) % len(data)] for i in range(batch)], batch, device, args.rounds)
    return rates


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--photos', type=Path, default=ROOT / 'img_to_pred')
    p.add_argument('--data', type=Path, help='folder of a set in the IEA40K layout')
    p.add_argument('--csv', type=Path, help='its split')
    p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    p.add_argument('--batch', type=int, default=8)
    p.add_argument('--sizes', type=int, nargs='+', default=[128, 256])
    p.add_argument('--amp', choices=('off', 'bf16'), nargs='+', default=['off', 'bf16'])
    p.add_argument('--rounds', type=int, default=10)
    p.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results')
    args = p.parse_args()
    if (args.data is None) != (args.csv is None):
        p.error('--data and --csv go together')
    torch.set_num_threads(1)
    device, rows = torch.device(args.device), []
    for size in args.sizes:
        for amp in args.amp:
            rates = measure(args, device, size, amp)
            rows.append({'size': size, 'batch': args.batch, 'amp': amp, **{f'{k}_per_s': round(rates[k], 1) if k in rates else '' for k in
                         ('crop', 'expose', 'view', 'step', 'files', 'cache')}, 'view_of_step': round(rates['view'] / rates['step'], 2),
                         'load_average': round(os.getloadavg()[0], 1), 'hardware': hardware(device)['device'],
                         'torch': torch.__version__, 'commit': commit()})
            print('  '.join(f'{k} {v}' for k, v in rows[-1].items()), flush=True)
    path = args.out / f'view_speed_{device.type}.csv'
    with open(path, 'w', newline='') as f:
        writer = csv.DictWriter(f, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f'written: {path}')


if __name__ == '__main__':
    main()
