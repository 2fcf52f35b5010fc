"""How much faster models/released.py is than the release's own way, with the outputs' difference in the same row; and how much faster P-IEANet is.

    python benchmarks/released_speed.py                               random weights: they cost the same time
    python benchmarks/released_speed.py --checkpoint wavelet_epoch_2_val_loss0.03022034629540784.pth
    python benchmarks/released_speed.py --threads 2 --batch 1 --repeats 15     one setting, more carefully

The literal version (tests/literal_released.py) runs in float32 as the release's heat-map script runs it: one
picture after the other, each paired with itself, but freed memory is kept, for all alike. It, ours in float32, ours in bfloat16 and two yardsticks
take turns in one process, so that other load on the machine meets all of them; times are medians over the
turns. Threads wait for each other often, so figures of several threads need as many idle cores: see
load_average in the table. cpu_ratio compares processor time instead; with one thread it stands any load.

The yardsticks, in float32 and on as many threads, are torch.mm of two 2048x2048 matrices and the network's
dominant layer alone (3x3, 64 -> 64 channels, channels_last, 256x256); the rate that our pass reaches is
given as a fraction of each. Rates count the graph's 78.7 GFLOP for a 256x256 picture, also where ours merges
layers. P-IEANet (checkpoints/p_ieanet.safetensors) takes its turns with the others; it is another network, so its rows have neither
difference nor rates. On a GPU, TF32 is off.
"""
import argparse
import copy
import csv
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]
from cli import keep_freed_memory                                               # noqa: E402
from literal_released import LiteralReleasedNet                                 # noqa: E402
from models.checkpoint import CheckpointError, load_model                       # noqa: E402
from models.released import UNUSED, ReleasedWaveletNet, load_released           # noqa: E402

SHIPPED = ROOT / 'checkpoints' / 'p_ieanet.safetensors'
GFLOP = 78.7            # of the released graph, for one 256x256 picture
PROTOCOL = ('alternating in one process, medians, uniform noise pictures; '
            'literal = float32, one picture at a time, paired with itself; freed memory is kept')


def networks(checkpoint, device):
    """The literal and the fast network with the same weights."""
    torch.manual_seed(0)
    literal = LiteralReleasedNet()
    if checkpoint:
        fast = load_released(checkpoint)
        literal.load_state_dict(fast.state_dict(), strict=False)    # what ours lacks, the graph does not use
    else:
        fast = ReleasedWaveletNet()
        fast.load_state_dict({k: v for k, v in literal.state_dict().items() if not k.startswith(UNUSED)})
    return literal.eval().to(device), fast.eval().to(device)


def in_half(network, x):
    with torch.autocast(x.device.type, torch.bfloat16):
        return network(x)


def seconds(function, device):
    """(time of one call, processor time of it, its result)"""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    start, cpu = time.perf_counter(), time.process_time()
    result = function()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, time.process_time() - cpu, result


def measure(literal, fast, half, own, size, batch, repeats, device):
    """By name: median and least seconds, median processor seconds, largest difference from the literal."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(batch, 3, size, size, generator=generator).to(device)
    a, b = torch.rand(2, 2048, 2048, generator=generator).to(device)
    layer = torch.rand(1, 64, 256, 256, generator=generator).to(device, memory_format=torch.channels_last)
    weight = torch.rand(64, 64, 3, 3, generator=generator).to(device)
    turns = {'literal': lambda: literal.per_picture(x), 'float32': lambda: fast(x),
             'bfloat16': lambda: half(x), 'mm': lambda: torch.mm(a, b),
             'layer': lambda: F.conv2d(layer, weight, padding=1),
             'P-IEANet float32': lambda: own(x), 'P-IEANet bfloat16': lambda: in_half(own, x)}
    times, cpu, outputs = {name: [] for name in turns}, {name: [] for name in turns}, {}
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for name, function in turns.items():
                t, c, outputs[name] = seconds(function, device)
                if turn:        # the first one warms up
                    times[name].append(t)
                    cpu[name].append(c)
    median, cpu = ({k: statistics.median(v) for k, v in d.items()} for d in (times, cpu))
    least = {k: min(v) for k, v in times.items()}
    difference = {k: (outputs[k] - outputs['literal']).abs().max().item() for k in ('float32', 'bfloat16')}
    return median, least, cpu, difference


def hardware(device):
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    try:
        names = [line.split(':')[1].strip() for line in Path('/proc/cpuinfo').read_text().splitlines()
                 if line.startswith('model name')]
    except OSError:
        names = []
    name = f'{names[0]}, {len(names)} cores' if names else platform.processor() or platform.machine()
    return f'{name}, {torch.backends.cpu.get_cpu_capability()}'


def commit():
    try:
        return subprocess.run(['git', '-C', str(ROOT), 'describe', '--always', '--dirty'],
                              capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'


def compared(network, dtype, turn, threads, size, batch, median, least, cpu):
    return {'threads': threads, 'size': size, 'batch': batch, 'network': network, 'dtype': dtype,
            'literal_ms': round(1e3 * median['literal'], 2), 'ours_ms': round(1e3 * median[turn], 2),
            'times_faster': round(median['literal'] / median[turn], 2), 'cpu_ratio': round(cpu['literal'] / cpu[turn], 2),
            'literal_min_ms': round(1e3 * least['literal'], 2), 'ours_min_ms': round(1e3 * least[turn], 2)}


def row(dtype, threads, size, batch, median, least, cpu, difference):
    work = GFLOP * batch * (size / 256) ** 2
    mm, layer = 2 * 2048 ** 3 / median['mm'] / 1e9, 2 * 9 * 64 ** 2 * 256 ** 2 / median['layer'] / 1e9
    rate = work / median[dtype]
    return {**compared('released', dtype, dtype, threads, size, batch, median, least, cpu), 'max_difference': f'{difference[dtype]:.1e}',
            'gflops': round(rate, 1), 'mm_gflops': round(mm, 1), 'fraction_of_mm': round(rate / mm, 2),
            'layer_gflops': round(layer, 1), 'fraction_of_layer': round(rate / layer, 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--checkpoint', help="the authors' .pth (default: random weights)")
    parser.add_argument('--threads', type=int, nargs='+', default=[1, 2], help='on the CPU')
    parser.add_argument('--batch', type=int, nargs='+', default=[1, 8])
    parser.add_argument('--size', type=int, nargs='+', default=[256])
    parser.add_argument('--repeats', type=int, default=9, help='turns; a third of it for larger batches')
    parser.add_argument('--device', nargs='+', help='default: cpu, and cuda when there is one')
    parser.add_argument('--out', type=Path, default=ROOT / 'benchmarks' / 'results' / 'released_speed.csv')
    args = parser.parse_args()
    if min(args.threads + args.batch + [args.repeats]) < 1:
        parser.error('--threads, --batch and --repeats must be at least 1')
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    keep_freed_memory()  # for all alike, as make_heatmap.py does: else each turn is mostly the pages that the one before gave back

    rows = []
    for device in args.device or ['cpu'] + ['cuda'] * torch.cuda.is_available():
        try:
            device = torch.device(device)
            literal, fast = networks(args.checkpoint, device)
        except (CheckpointError, RuntimeError) as e:
            parser.error(str(e).splitlines()[0])
        half = copy.deepcopy(fast).bfloat16()
        own = load_model(SHIPPED, device).to(memory_format=torch.channels_last)
        for threads in args.threads if device.type == 'cpu' else ['']:
            if threads:
                torch.set_num_threads(threads)
            for size in args.size:
                for batch in args.batch:
                    repeats = args.repeats if batch == 1 else max(min(args.repeats, 3), args.repeats // 3)
                    figures = measure(literal, fast, half, own, size, batch, repeats, device)
                    found = [row(dtype, threads, size, batch, *figures) for dtype in ('float32', 'bfloat16')]
                    found += [compared('P-IEANet', dtype, f'P-IEANet {dtype}', threads, size, batch, *figures[:3]) for dtype in ('float32', 'bfloat16')]
                    for result in found:
                        result = {'device': device.type, **result}
                        print('  '.join(f'{k} {v}' for k, v in result.items()), flush=True)
                        rows.append({**result, 'repeats': repeats,
                                     'load_average': round(os.getloadavg()[0], 1),
                                     'weights': Path(args.checkpoint).name if args.checkpoint else 'random',
                                     'hardware': hardware(device), 'torch': torch.__version__,
                                     'commit': commit(), 'protocol': PROTOCOL})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.out.with_name(f'.{args.out.name}.tmp')
    with open(temporary, 'w', newline='') as f:
        writer = csv.DictWriter(f, rows[0], restval='')
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, args.out)


if __name__ == '__main__':
    main()
