"""Make a training or test set in the IEA40K layout out of what people have.

    python -m datasets.build simulate --photos DIR --out DIR                 nine exposures of each photograph, -4 .. +4 EV
    python -m datasets.build simulate --photos DIR --out DIR --variant plain    the same by bare multiplication, for old figures
    python -m datasets.build simulate --photos DIR --out DIR --variant mixed    exposure that differs over the picture
    python -m datasets.build stacks --stacks DIR --out DIR                   real exposure brackets, one folder a scene
    python -m datasets.build hdri --hdri DIR --out DIR --views 10            nine exposures of views of HDR panoramas

Photographs should be well exposed: each is taken as its own ideal. The score that is written is derived from the label,
10 (1 - mean |residual|); correlations with it say nothing about people. What a seed and a file name give is fixed to the byte.
"""
import argparse
import csv
import io
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from .iea40k import DatasetError, split_by_scene
from .images import ImageError, read_image, resize_rgb, to_tensor
from .panorama import random_view, read_hdr, render
from .photographs import list_images
from .simulation import (SimulationConfig, exposure_field, expose, quantise, random_curve, scene_light, uniform)

cv2.setNumThreads(1)  # its fusion differs in the last digit from call to call with more
EXPOSURES = (-4, -3, -2, -1, 0, 1, 2, 3, 4)
LONG_SIDE = 512  # photographs are exposed at this size and only then brought to the label's


def suffix(ev):
    """-4 -> 'N4', 0 -> 'P0', 3 -> 'P3'."""
    return f'N{-ev}' if ev < 0 else f'P{ev}'


def to_picture(x):
    """(3, H, W) on [0, 1] -> PIL picture."""
    return Image.fromarray((x * 255).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy())


def through_jpeg(picture, quality):
    """What is left of a picture after saving it as JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, 'JPEG', quality=quality)
    buffer.seek(0)
    return Image.open(buffer).convert('RGB')


def simulate_photograph(path, seed=0, variant='photos'):
    """Pictures of one photograph under other exposures.

    Args:
        path: the photograph, its own ideal.
        seed: with the file's stem it fixes everything random.
        variant: 'photos' (dither, inverse random curve with headroom, EV, curve, clip, 8 bit, JPEG), 'plain' (sRGB linear light
            times 2^EV, clip, 8 bit) or 'mixed' (as 'photos', with an exposure field of up to +-3 EV and an EV of -1 .. +1).

    Returns:
        ``(reference, [(suffix, picture), ...])``, PIL pictures of at most 512 pixels on the long side.
    """
    reference = read_image(path)
    scale = LONG_SIDE / max(reference.size)
    if scale < 1:
        reference = resize_rgb(reference, tuple(max(1, round(s * scale)) for s in reversed(reference.size)))
    x = to_tensor(reference)[None]
    if variant == 'plain':
        light = torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
        frames = []
        for ev in EXPOSURES:
            y = (light * 2.0 ** ev).clamp(0, 1)
            frames.append((suffix(ev), to_picture(torch.where(y <= 0.0031308, y * 12.92, 1.055 * y ** (1 / 2.4) - 0.055)[0])))
        return reference, frames
    generator = torch.Generator().manual_seed(zlib.crc32(f'{seed}/{Path(path).stem}'.encode()))
    config = SimulationConfig.protocol()
    curve = random_curve(1, config, generator)
    light = scene_light(x, curve, generator, uniform(1, config.headroom, generator))
    frames = []
    for k, ev in enumerate(EXPOSURES):
        stops, name = float(ev), suffix(ev)
        if variant == 'mixed':
            name = f'M{k}'
            stops = exposure_field(x, generator) * uniform(1, (1.0, 3.0), generator) + uniform(1, (-1, 1), generator)
        picture = to_picture(quantise(curve.to_display(light * torch.exp2(torch.as_tensor(stops))))[0])
        quality = int(torch.randint(80, 96, (1,), generator=generator))
        frames.append((name, through_jpeg(picture, quality)))
    return reference, frames


def write_pair(out, img_id, picture, ref_grey, size, valid=None):
    """Write one picture and its label; returns the derived score."""
    picture = resize_rgb(picture, size)
    residual = ref_grey - np.asarray(picture.convert('L')).astype(np.int16)
    picture.save(out / 'IEA_img' / img_id, compress_level=1)
    stem = Path(img_id).stem + '.npy'
    np.save(out / 'label' / 'exposure_condition' / stem, residual)
    if valid is not None:
        (out / 'label' / 'validity').mkdir(exist_ok=True)
        np.save(out / 'label' / 'validity' / stem, valid.astype(np.uint8))
    return 10 * (1 - float(np.abs(residual).mean()) / 255)


def write_scene(out, scene, reference, frames, size):
    """Write a scene's reference and frames ``[(suffix, picture)]``; returns its CSV rows."""
    reference = resize_rgb(reference, size)
    reference.save(out / 'label' / 'global_best' / f'{scene}.png', compress_level=1)
    ref_grey = np.asarray(reference.convert('L')).astype(np.int16)
    return [{'img_id': f'{scene}_{name}.png', 'ref_id': f'{scene}.png',
             'score': f'{write_pair(out, f"{scene}_{name}.png", picture, ref_grey, size):.4f}'} for name, picture in frames]


def build(args, scenes, make):
    """Write all scenes: ``make(item)`` -> (name, reference, frames). Two threads: decoding and PNG release the interpreter."""
    out = args.out
    for folder in ('IEA_img', 'label/exposure_condition', 'label/global_best'):
        (out / folder).mkdir(parents=True, exist_ok=True)

    def work(item):
        return write_scene(out, *make(item), args.size)
    with ThreadPoolExecutor(args.workers) as pool:
        results = tqdm(pool.map(work, scenes), total=len(scenes), disable=not sys.stderr.isatty(), unit='scene')
        rows = [row for scene_rows in results for row in scene_rows]
    names = ('train', 'val', 'test')
    parts = {args.name: rows}
    if args.split:
        parts = dict(zip(names, split_by_scene(rows, args.split, args.seed)))
    for name, part in parts.items():
        path = out / f'{name}.csv'
        with open(path, 'w', newline='') as f:
            writer = csv.DictWriter(f, ('img_id', 'ref_id', 'score'))
            writer.writeheader()
            writer.writerows(part)
        print(f'{path}: {len(part)} pictures of {len({r["ref_id"] for r in part})} scenes')


def unique_names(files, root):
    """Scene names of pictures: the stem, or the path with '-' where two share a stem."""
    stems = [f.stem for f in files]
    return {f: f.stem if stems.count(f.stem) == 1 else '-'.join(f.relative_to(root).with_suffix('').parts) for f in files}


def simulate(args):
    files = list_images(args.photos)[:args.limit]
    names = unique_names(files, args.photos)
    build(args, files, lambda f: (names[f], *simulate_photograph(f, args.seed, args.variant)))


def fuse(pictures):
    """Mertens exposure fusion (OpenCV) of 8-bit RGB arrays, as 8-bit RGB."""
    fused = cv2.createMergeMertens().process([np.ascontiguousarray(p[..., ::-1]) for p in pictures])
    return (fused[..., ::-1].clip(0, 1) * 255).round().astype(np.uint8)


def read_bracket(folder, reference='fused'):
    """Frames of a bracket from dark to bright, and its ideal.

    Args:
        folder: one scene's frames, all of one size.
        reference: 'fused' (Mertens fusion of all frames) or 'frame' (the frame with most mid-grey and least clipping).

    Returns:
        ``(reference, [('F00', picture), ...])``.
    """
    pictures = sorted((read_image(f) for f in list_images(folder)), key=lambda p: np.asarray(p.convert('L')).mean())
    if len({p.size for p in pictures}) > 1:
        raise DatasetError(f'{folder}: frames differ in size: {sorted({p.size for p in pictures})}')
    arrays = [np.asarray(p) for p in pictures]
    if reference == 'fused':
        ideal = Image.fromarray(fuse(arrays))
    else:
        def quality(a):
            g = np.asarray(Image.fromarray(a).convert('L'))
            return ((g > 64) & (g < 192)).mean() - ((g < 3) | (g > 252)).mean()
        ideal = pictures[int(np.argmax([quality(a) for a in arrays]))]
    return ideal, [(f'F{i:02d}', p) for i, p in enumerate(pictures)]


def stacks(args):
    if not args.stacks.is_dir():
        raise DatasetError(f'{args.stacks}: no such folder')
    folders = sorted(f for f in args.stacks.iterdir() if f.is_dir())[:args.limit]
    if not folders:
        raise DatasetError(f'{args.stacks}: holds no folders, expected one a scene')
    build(args, folders, lambda f: (f.name, *read_bracket(f, args.reference)))


def simulate_view(path, view, seed=0):
    """View number ``view`` of a panorama: ``(ideal, [(suffix, picture), ...])``, true clipping, through JPEG."""
    generator = torch.Generator().manual_seed(zlib.crc32(f'{seed}/{Path(path).stem}/{view}'.encode()))
    ideal, pictures = render(random_view(read_hdr(path), generator), EXPOSURES, generator)
    qualities = torch.randint(80, 96, (len(EXPOSURES),), generator=generator).tolist()
    return to_picture(ideal), [(suffix(ev), through_jpeg(to_picture(p), q)) for ev, p, q in zip(EXPOSURES, pictures, qualities)]


def hdri(args):
    if not args.hdri.is_dir():
        raise DatasetError(f'{args.hdri}: no such folder')
    files = sorted(args.hdri.glob('*.hdr'))
    if args.list:
        try:
            with open(args.list, newline='') as f:
                wanted = {r['file'] for r in csv.DictReader(f) if r['split'] == args.part}
        except KeyError as e:
            raise DatasetError(f'{args.list}: no column {e}') from e
        files = [f for f in files if f.name in wanted]
    if not files:
        raise DatasetError(f'{args.hdri}: holds no panoramas (.hdr)')
    build(args, [(f, v) for f in files[:args.limit] for v in range(args.views)],
          lambda item: (f'{item[0].stem}-{item[1]:03d}', *simulate_view(*item, args.seed)))


def parser():
    p = argparse.ArgumentParser(prog='python -m datasets.build', description='Make a set in the IEA40K layout.')
    sub = p.add_subparsers(dest='command', required=True)
    a = sub.add_parser('simulate', help='out of well-exposed photographs')
    a.add_argument('--photos', type=Path, required=True, help='folder of photographs')
    a.add_argument('--variant', choices=('photos', 'plain', 'mixed'), default='photos')
    a.set_defaults(run=simulate)
    b = sub.add_parser('stacks', help='out of exposure brackets')
    b.add_argument('--stacks', type=Path, required=True, help='folder with one folder a scene')
    b.add_argument('--reference', choices=('fused', 'frame'), default='fused')
    b.set_defaults(run=stacks)
    c = sub.add_parser('hdri', help='out of equirectangular HDR panoramas (.hdr)')
    c.add_argument('--hdri', type=Path, required=True, help='folder of panoramas')
    c.add_argument('--list', type=Path, help='CSV with the columns file and split (docs/lists/hdri.csv), to take one part only')
    c.add_argument('--part', choices=('train', 'val', 'test'), default='train', help='the part to take with --list')
    c.add_argument('--views', type=int, default=10, help='views of each panorama')
    c.set_defaults(run=hdri)
    for s in (a, b, c):
        s.add_argument('--out', type=Path, required=True)
        s.add_argument('--name', default='all', help='name of the CSV (default: all)')
        s.add_argument('--split', type=float, nargs=3, metavar='SHARE',
                       help='write train.csv, val.csv and test.csv by scene with these shares instead')
        s.add_argument('--size', type=int, default=256)
        s.add_argument('--seed', type=int, default=0)
        s.add_argument('--limit', type=int, help='only the first N scenes')
        s.add_argument('--workers', type=int, default=2)
    return p


def main(argv=None):
    args = parser().parse_args(argv)
    try:
        args.run(args)
    except (DatasetError, ImageError, OSError) as e:
        print(f'{parser().prog}: {e}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
