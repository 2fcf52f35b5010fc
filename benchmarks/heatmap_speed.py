"""Where the time of a heat map goes, and how near a folder of pictures comes to decode + encode alone.

    python benchmarks/heatmap_speed.py                              # pictures made here, 0.1, 1, 12 and 50 MP
    python benchmarks/heatmap_speed.py --photos DIR --count 200     # rates on a folder of photographs
    python benchmarks/heatmap_speed.py --out benchmarks/results/heatmap_speed.csv

The first table is one picture on one thread, in milliseconds (median), from file to file. `floor` is decoding
the picture and encoding the same heat map with the same libraries and nothing between. The second is the rate
of the whole program on a folder, with as many threads as processors: with the network; with a stand-in that
costs nothing but gives maps as detailed as a network's; with the zero map (all white, hardly anything to
encode). Beside each the rate of a bare loop, on as many threads, that decodes the pictures and encodes those
same maps. Program and loop take turns, and the best round counts: other work on the machine only slows.
"""
import argparse
import csv
import io
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import make_heatmap  # noqa: E402
from cli import keep_freed_memory  # noqa: E402
from datasets.images import read_image  # noqa: E402
from exposure import Predictor, heatmap, score_map  # noqa: E402
from exposure.predictor import DEFAULT_CHECKPOINT  # noqa: E402

STAGES = ('decode', 'resize', 'network', 'upsample', 'colour', 'encode')


class Zero(torch.nn.Module):
    """The zero map: nothing to compute, all white."""

    def forward(self, x):
        return torch.zeros_like(x[:, :1])


class Brighter(torch.nn.Module):
    """Half as bright again as the picture: nothing to compute, but a map with the picture's own detail."""

    def forward(self, x):
        return 0.5 * x[:, :1]


def make_photo(megapixels, seed=0):
    """JPEG bytes of a 4:3 picture with detail at every scale and noise, which decodes like a photograph."""
    rng = np.random.default_rng(seed)
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(height * 4 / 3)
    pixels = np.full((height, width, 3), 110, np.float32)
    cells = 3
    while cells < width / 2:
        grid = rng.normal(0, 60 * cells ** -0.35, (max(2, cells * 3 // 4), cells, 3)).astype(np.float32)
        pixels += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        cells *= 2
    for top in range(0, height, 256):
        pixels[top:top + 256] += rng.normal(0, 3, pixels[top:top + 256].shape)
    data = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(data, 'JPEG', quality=90)
    return data.getvalue()


def stage_times(path, predictor, folder, repeats):
    """Median milliseconds of each stage of one picture, their sum, and the floor."""
    times = {name: [] for name in (*STAGES, 'total', 'floor')}
    for _ in range(repeats + 1):
        clock = [time.perf_counter()]

        def lap():
            clock.append(time.perf_counter())

        picture = read_image(path)
        lap()
        item = predictor.prepare(picture)
        lap()
        field = predictor.fields([item.small])[0]
        lap()
        residual = predictor.finish(item, field)
        lap()
        score_map(residual)
        index = heatmap.to_index(residual)
        lap()
        make_heatmap.atomic_write(folder / 'map.png', heatmap.encode_png(index, heatmap.color_table()))
        lap()
        for name, start, end in zip(STAGES, clock, clock[1:]):
            times[name].append(end - start)
        times['total'].append(clock[-1] - clock[0])
        start = time.perf_counter()
        with Image.open(path) as bare:
            bare.load()
        make_heatmap.atomic_write(folder / 'floor.png', heatmap.encode_png(index, heatmap.color_table()))
        times['floor'].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(values[1:])) for name, values in times.items()}  # the first warms up


def program_rate(paths, predictor, folder, workers, batch_size):
    """Pictures per second of make_heatmap.py's own loop, and the maps that it wrote."""
    jobs = [make_heatmap.Job(str(path), str(folder / f'{place:05}')) for place, path in enumerate(paths)]
    options = make_heatmap.Options({}, heatmap.DEFAULT_RANGE, heatmap.color_table(), None, False, False)
    start = time.perf_counter()
    rows, reasons = make_heatmap.run(jobs, predictor, options, workers, batch_size, quiet=True)
    seconds = time.perf_counter() - start
    if any(reasons):
        failures = [why for why in reasons if why]
        raise SystemExit(f'{len(failures)} failed, the first: {failures[0]}')
    maps = [np.asarray(Image.open(job.target + '_exposure.png')) for job in jobs]
    return len(paths) / seconds, maps


def floor_rate(paths, maps, folder, workers):
    """Pictures per second of a bare loop: decode each picture, encode a map that is already there."""
    todo, lock, table = iter(range(len(paths))), threading.Lock(), heatmap.color_table()

    def work():
        while True:
            with lock:
                place = next(todo, None)
            if place is None:
                return
            with Image.open(paths[place]) as picture:
                picture.load()
            (folder / f'{place:05}_floor.png').write_bytes(heatmap.encode_png(maps[place], table))

    threads = [threading.Thread(target=work) for _ in range(workers)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(paths) / (time.perf_counter() - start)


def hardware():
    name = platform.processor() or platform.machine()
    if Path('/proc/cpuinfo').exists():
        text = Path('/proc/cpuinfo').read_text()
        name = text.partition('model name')[2].partition(':')[2].partition('\n')[0].strip() or name
    return f'{os.cpu_count()} x {name}'


def commit():
    command = ['git', 'rev-parse', '--short', 'HEAD']
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
    return found.stdout.strip()


def main():
    parser = argparse.ArgumentParser(description='Speed of make_heatmap.py, stage by stage and as a whole.')
    parser.add_argument('--checkpoint', type=Path, default=DEFAULT_CHECKPOINT)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--amp', default='off', choices=('off', 'bf16', 'fp16'))
    parser.add_argument('--megapixels', type=float, nargs='*', default=[0.1, 1, 12, 50])
    parser.add_argument('--photos', type=Path, help='folder for the rates; default: 0.2 MP, made here')
    parser.add_argument('--count', type=int, default=200, help='how many of them')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--workers', type=int, default=make_heatmap.processors())
    parser.add_argument('--batch-size', type=int)
    parser.add_argument('--out', type=Path, help='also write the figures as CSV')
    args = parser.parse_args()

    batch_size = args.batch_size or (1 if args.device == 'cpu' else 16)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    predictor = Predictor(args.checkpoint, args.device, precision=args.amp)
    about = {'commit': commit(), 'hardware': hardware() if predictor.device.type == 'cpu' else
             torch.cuda.get_device_name(predictor.device), 'torch': torch.__version__, 'amp': args.amp}
    rows = []
    print('milliseconds  ' + ''.join(f'{name:>10}' for name in (*STAGES, 'total', 'floor')) + '   of floor')
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for megapixels in args.megapixels:
            path = folder / 'photo.jpg'
            path.write_bytes(make_photo(megapixels))
            times = stage_times(path, predictor, folder, args.repeats)
            share = times['floor'] / times['total']
            cells = ''.join(f'{value:10.1f}' for value in times.values())
            print(f'{megapixels:>9g} MP  {cells}{share:10.0%}')
            for name, value in times.items():
                rows.append((f'{megapixels:g} MP', f'{name}, 1 thread', 'ms', value))

        if args.photos is not None:
            paths = list(make_heatmap.walk(args.photos, recursive=True))[:args.count]
            source = f'{len(paths)} photographs'
        else:
            paths, source = [], f'{args.count} pictures of 0.2 MP'
            for place in range(args.count):
                paths.append(folder / f'photo{place:05}.jpg')
                paths[-1].write_bytes(make_photo(0.2, place))
        if not paths:
            raise SystemExit(f'{args.photos}: no pictures')
        print(f'\n{source}, {args.workers} threads: pictures per second, of decode + encode alone')
        candidates = {
            'network': predictor,
            'no network, detailed map': Predictor(model=Brighter(), device='cpu'),
            'no network, zero map': Predictor(model=Zero(), device='cpu'),
        }
        for name, candidate in candidates.items():
            batch = batch_size if candidate is predictor else 1
            rates, floors = [], []
            for _ in range(args.rounds):
                rate, maps = program_rate(paths, candidate, folder, args.workers, batch)
                rates.append(rate)
                floors.append(floor_rate(paths, maps, folder, args.workers))
            rate, floor = max(rates), max(floors)
            print(f'{name:>26} {rate:9.1f} of {floor:9.1f}  {rate / floor:6.0%}')
            rows.append((source, f'{name}, {args.workers} threads', 'pictures/s', rate))
            what = f'decode + encode, maps of {name}, {args.workers} threads'
            rows.append((source, what, 'pictures/s', floor))
    if args.out is not None:
        with args.out.open('w', newline='') as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow(['picture', 'what', 'unit', 'value', *about])
            writer.writerows([*row[:3], f'{row[3]:.2f}', *about.values()] for row in rows)


if __name__ == '__main__':
    main()
