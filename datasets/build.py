"""Make a training or test set in the IEA40K layout out of what people have.

    python -m datasets.build simulate --photos DIR --out DIR                 nine exposures of each photograph, -4 .. +4 EV
    python -m datasets.build simulate --photos DIR --out DIR --variant plain    the same by bare multiplication, for old figures
    python -m datasets.build simulate --photos DIR --out DIR --variant mixed    exposure that differs over the picture
    python -m datasets.build stacks --stacks DIR --out DIR                   real exposure brackets, one folder a scene, aligned and fused
    python -m datasets.build stacks --stacks DIR --out DIR --reference frame    against the best frame (--list: the frames that it names)
    python -m datasets.build hdri --hdri DIR --out DIR --views 10            nine exposures of views of HDR panoramas
    python -m datasets.build hdri --hdri DIR --out DIR --reference fused     brackets of such views, fused

Photographs should be well exposed: each is taken as its own ideal. The score that is written is derived from the label,
10 (1 - mean |residual|); correlations with it say nothing about people. What a seed and a file name give is fixed to the byte.
"""
import csv
import io
import math
import os
import sys
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from cli import Parser, at_least

from .brackets import fuse, judge, read_bracket, reference_picture
from .iea40k import DatasetError, read_table, split_by_scene
from .images import ImageError, read_image, resize_rgb, to_tensor
from .panorama import contrasty_view, random_view, read_hdr, render, render_bracket
from .photographs import list_images
from .simulation import (SimulationConfig, exposure_field, quantise, random_curve, scene_light, uniform)

EXPOSURES = (-4, -3, -2, -1, 0, 1, 2, 3, 4)
LONG_SIDE = 512  # photographs are exposed at this size and only then brought to the label's
MIN_VALID = 0.25  # share of a label that must mean something, or the frame is left out


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


def fused_bracket(frames, generator):
    """A bracket's frames (3, H, W), through JPEG: ``(their Mertens fusion, [(suffix, picture), ...])``, in their order."""
    quality = int(torch.randint(80, 96, (1,), generator=generator))
    pictures = [through_jpeg(to_picture(f), quality) for f in frames]
    return Image.fromarray(fuse([np.asarray(p) for p in pictures])), [(f'F{i:02d}', p) for i, p in enumerate(pictures)]


def simulate_photograph(path, seed=0, variant='photos'):
    """Pictures of one photograph under other exposures.

    Args:
        path: the photograph, its own ideal but for 'bracket'.
        seed: with the file's stem it fixes everything random.
        variant: 'photos' (dither, inverse random curve with headroom, EV, curve, clip, 8 bit, JPEG), 'plain' (sRGB linear light
            times 2^EV, clip, 8 bit), 'mixed' (as 'photos', with an exposure field of up to +-3 EV and an EV of -1 .. +1) or 'bracket'
            (the same scene light as another random camera brackets it; the ideal is the frames' Mertens fusion).

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
    headroom = (0.0, 4.0) if variant == 'bracket' else config.headroom
    light = scene_light(x, curve, generator, uniform(1, headroom, generator))
    if variant == 'bracket':  # wider and darker than of panoramas, so that frames and fusion come as near to the training brackets'
        return fused_bracket(render_bracket(light, generator, span=(3.5, 11.0), middle=(-1.6, 1.2)), generator)
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


def write_scene(out, scene, reference, frames, size, own=None, judged=False, leave_out=False):
    """Write a scene: its reference, and a picture and a label a frame.

    Args:
        out: root of the set. reference: PIL picture. frames: ``[(suffix, PIL picture)]``. size: of the squares.
        own: index of the frame that is the reference, when one is. leave_out: it is no input.
        judged: correct outliers and write validity masks (:func:`datasets.brackets.judge`).

    Returns:
        ``(rows of the CSV, {suffix: share of its label that is valid})``; a frame of which less than MIN_VALID is valid is not written.
    """
    reference = resize_rgb(reference, size)
    reference.save(out / 'label' / 'global_best' / f'{scene}.png', compress_level=1)
    ideal = np.asarray(reference.convert('L')).astype(np.int16)
    pictures = [resize_rgb(picture, size) for _, picture in frames]
    greys = [np.asarray(p.convert('L')) for p in pictures]
    labels, masks = judge(ideal, greys, own) if judged else ([ideal - g for g in greys], [None] * len(greys))
    rows, shares = [], {}
    for i, ((suffix_, _), picture, label, mask) in enumerate(zip(frames, pictures, labels, masks)):
        shares[suffix_] = 1.0 if mask is None else float(mask.mean())
        if shares[suffix_] < MIN_VALID or (leave_out and i == own):
            continue
        stem = f'{scene}_{suffix_}'
        picture.save(out / 'IEA_img' / f'{stem}.png', compress_level=1)
        np.save(out / 'label' / 'exposure_condition' / f'{stem}.npy', label)
        validity = out / 'label' / 'validity' / f'{stem}.npy'
        if mask is None:
            validity.unlink(missing_ok=True)  # of an earlier build
        else:
            np.save(validity, mask.astype(np.uint8))
        error = np.abs(label[mask] if mask is not None else label).mean()
        rows.append({'img_id': f'{stem}.png', 'ref_id': f'{scene}.png', 'score': f'{10 * (1 - float(error) / 255):.4f}'})
    return rows, shares


def part_names(args):
    """Names of the split files that this call writes."""
    return ('train', 'val', 'test') if args.split else (args.name,)


def check_owners(args, scenes):
    """Refuse scene names that a split file of another call owns, in any case: their pictures and labels would be written over.

    Raises:
        DatasetError: such a scene, one whose name is not UTF-8, or a CSV file in ``args.out`` that cannot be read.
    """
    for scene in scenes:
        try:
            scene.encode()
        except UnicodeEncodeError as e:
            raise DatasetError(f'{scene!r}: a name that is not UTF-8, which a CSV cannot hold; rename it') from e
    wanted = {f'{scene}.png'.casefold(): scene for scene in scenes}
    for path in sorted(args.out.glob('[!.]*.csv')):
        if path.stem in part_names(args):
            continue
        with open(path, newline='', encoding='utf-8-sig', errors='replace') as f:
            try:
                reader = csv.DictReader(f)
                if not {'img_id', 'ref_id'} <= set(reader.fieldnames or ()):  # no split file, e.g. train_frames.csv
                    continue
                owned = ((r['ref_id'] or '').casefold() for r in reader)
                taken = [ref_id for ref_id in owned if ref_id in wanted]
            except csv.Error as e:
                raise DatasetError(f'{path}: not a readable CSV file ({e})') from e
        if taken:
            raise DatasetError(f'{path}: holds a scene {wanted[taken[0]]} already, which would be overwritten: '
                               'choose another --out, rename the source, or remove that file if its set is not needed')


def build(args, scenes, make):
    """Write all scenes: ``make(item)`` -> the rows of its CSV. Two threads: decoding and PNG release the interpreter."""
    with ThreadPoolExecutor(args.workers) as pool:
        results = tqdm(pool.map(make, scenes), total=len(scenes), disable=not sys.stderr.isatty(), unit='scene')
        rows = [row for scene_rows in results for row in scene_rows]
    parts = dict(zip(part_names(args), split_by_scene(rows, args.split, args.seed) if args.split else (rows,)))
    for name, part in parts.items():
        path = args.out / f'{name}.csv'
        write_csv(path, ('img_id', 'ref_id', 'score'), part)
        print(f'{path}: {len(part)} pictures of {len({r["ref_id"] for r in part})} scenes')


def write_csv(path, columns, rows):
    """All or nothing: under a temporary name first."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with open(temporary, 'w', newline='', encoding='utf-8') as f:
            writer = csv.DictWriter(f, columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def unique_names(files, root):
    """Scene names of pictures: the stem; the path with '-' where two share a stem; with its extension where two share that.

    Compared without case, for file systems that do not tell a.png from A.png.

    Raises:
        DatasetError: two pictures still share a name.
    """
    names = {f: f.stem for f in files}
    for longer in (lambda path: path.with_suffix(''), lambda path: path):
        counts = Counter(name.casefold() for name in names.values())
        names = {f: name if counts[name.casefold()] == 1 else '-'.join(longer(f.relative_to(root)).parts) for f, name in names.items()}
    owners = {}
    for f, name in names.items():
        if owners.setdefault(name.casefold(), f) is not f:
            raise DatasetError(f'{f}: would be scene {name}, as {owners[name.casefold()]}: rename one of them')
    return names


def simulate(args):
    files = list_images(args.photos)[:args.limit]
    names = unique_names(files, args.photos)
    check_owners(args, names.values())
    build(args, files, lambda f: write_scene(args.out, names[f], *simulate_photograph(f, args.seed, args.variant), args.size)[0])


def listed_references(path):
    """Scene -> file name of its reference frame, out of a CSV with the columns file, scene and is_reference (docs/lists/stacks.csv)."""
    return {r['scene']: Path(r['file']).name for r in read_table(path, ('file', 'scene', 'is_reference')) if r['is_reference'] == '1'}


def stacks(args):
    if not args.stacks.is_dir():
        raise DatasetError(f'{args.stacks}: no such folder')
    folders = sorted(f for f in args.stacks.iterdir() if f.is_dir() and not f.name.startswith('.'))[:args.limit]
    if not folders:
        raise DatasetError(f'{args.stacks}: holds no folders, expected one a scene')
    listed = None
    if args.list:
        if args.reference != 'frame':
            raise DatasetError(f'--list names reference frames, it goes with --reference frame, not {args.reference}')
        listed = listed_references(args.list)
        if missing := [f.name for f in folders if f.name not in listed]:
            raise DatasetError(f'{args.list}: names no reference for {missing[0]}' + f' and {len(missing) - 1} more' * (missing[1:] != []))
    check_owners(args, [f.name for f in folders])
    if not args.no_masks:
        (args.out / 'label' / 'validity').mkdir(parents=True, exist_ok=True)
    report = []

    def make(folder):
        try:
            bracket = read_bracket(folder, listed and listed[folder.name])
        except (DatasetError, ImageError) as e:  # no pictures, of several sizes, not readable, not of one scene: go on without it
            report.append({'scene': folder.name, 'reason': str(e)})
            return []
        reference, own = reference_picture(bracket, args.reference, listed and listed[folder.name])
        frames = [(f.name, Image.fromarray(f.pixels)) for f in bracket.frames]
        rows, shares = write_scene(args.out, folder.name, reference, frames, args.size, own, not args.no_masks, listed is not None)
        for f in bracket.frames + bracket.dropped:
            if f.name in shares and shares[f.name] < MIN_VALID:
                f.reason = f'only {shares[f.name]:.0%} of its label means anything, accepted: {MIN_VALID:.0%} or more'
            report.append({'scene': folder.name, 'frame': f.name, 'file': f.path.name, 'similarity': f'{f.similarity:.3f}',
                           'moved': f'{f.moved:.1f}', 'valid': f'{shares.get(f.name, 0):.3f}', 'reason': f.reason})
        return rows
    build(args, folders, make)
    report.sort(key=lambda r: (r['scene'], r.get('frame', '')))
    write_csv(args.out / f'{args.name}_frames.csv', ('scene', 'frame', 'file', 'similarity', 'moved', 'valid', 'reason'), report)
    lost = [r for r in report if r['reason']]
    for r in lost:
        print(f'dropped: {r["scene"]}/{r["file"]}: {r["reason"]}' if 'file' in r else f'dropped, the whole scene: {r["reason"]}')
    kept = [r for r in report if 'file' in r and not r['reason']]
    print(f'{sum("file" in r for r in report)} frames of {len(folders)} scenes: {len(kept)} kept, {sum(float(r["moved"]) > 0 for r in kept)} of them '
          f'moved into place, {len(lost)} dropped; all are listed in {args.out / f"{args.name}_frames.csv"}')
    if len(lost) == len(report):
        raise DatasetError(f'{args.stacks}: no scene is left')


read_panorama = lru_cache(maxsize=2)(read_hdr)  # a panorama's views follow one another, and decoding it takes as long as drawing one


def simulate_view(path, view, seed=0):
    """View number ``view`` of a panorama: ``(ideal, [(suffix, picture), ...])``, true clipping, through JPEG."""
    generator = torch.Generator().manual_seed(zlib.crc32(f'{seed}/{Path(path).stem}/{view}'.encode()))
    ideal, pictures = render(random_view(read_panorama(path), generator), EXPOSURES, generator)
    qualities = torch.randint(80, 96, (len(EXPOSURES),), generator=generator).tolist()
    return to_picture(ideal), [(suffix(ev), through_jpeg(to_picture(p), q)) for ev, p, q in zip(EXPOSURES, pictures, qualities)]


def simulate_bracket(path, view, seed=0):
    """Bracket number ``view`` of a panorama: ``(its Mertens fusion, [(suffix, picture), ...])``, from dark to bright."""
    generator = torch.Generator().manual_seed(zlib.crc32(f'{seed}/{Path(path).stem}/{view}/bracket'.encode()))
    return fused_bracket(render_bracket(contrasty_view(read_panorama(path), generator), generator), generator)


def hdri(args):
    if not args.hdri.is_dir():
        raise DatasetError(f'{args.hdri}: no such folder')
    files = sorted(f for f in args.hdri.iterdir() if f.suffix.lower() == '.hdr' and not f.name.startswith('.'))
    if args.part and not args.list:
        raise DatasetError(f'--part {args.part}: names a part of --list, which is not given')
    if args.list:
        wanted = {r['file'] for r in read_table(args.list, ('file', 'split')) if r['split'] == (args.part or 'train')}
        files = [f for f in files if f.name in wanted]
    if not files:
        raise DatasetError(f'{args.hdri}: holds no panoramas (.hdr)')
    names = {(f, v): f'{f.stem}-{v:03d}' for f in files[:args.limit] for v in range(args.views)}
    check_owners(args, names.values())
    make = simulate_bracket if args.reference == 'fused' else simulate_view
    build(args, list(names), lambda item: write_scene(args.out, names[item], *make(*item, args.seed), args.size)[0])


def parser():
    p = Parser(prog='python -m datasets.build', description='Make a set in the IEA40K layout.')
    sub = p.add_subparsers(dest='command', required=True)
    a = sub.add_parser('simulate', help='out of well-exposed photographs')
    a.add_argument('--photos', type=Path, required=True, help='folder of photographs')
    a.add_argument('--variant', choices=('photos', 'plain', 'mixed', 'bracket'), default='photos',
                   help='nine exposures, by random cameras or plainly; nine mixed exposures; or a bracket, whose fusion is the ideal (default: photos)')
    a.set_defaults(run=simulate)
    b = sub.add_parser('stacks', help='out of exposure brackets')
    b.add_argument('--stacks', type=Path, required=True, help='folder with one folder a scene')
    b.add_argument('--reference', choices=('fused', 'frame', 'zones'), default='fused', help='the ideal: Mertens fusion of all frames, '
                   'the best exposed frame, or the fusion corrected block by block towards Adams\' zones (default: fused)')
    b.add_argument('--list', type=Path, help='CSV with the columns file, scene and is_reference (docs/lists/stacks.csv): the frames '
                   'to take for --reference frame; they are then no inputs')
    b.add_argument('--no-masks', action='store_true',
                   help='labels are exactly ideal - frame everywhere: no correction of outliers, no validity masks')
    b.set_defaults(run=stacks)
    c = sub.add_parser('hdri', help='out of equirectangular HDR panoramas (.hdr)')
    c.add_argument('--hdri', type=Path, required=True, help='folder of panoramas')
    c.add_argument('--list', type=Path, help='CSV with the columns file and split (docs/lists/hdri.csv), to take one part only')
    c.add_argument('--part', choices=('train', 'val', 'test'), help='the part to take with --list (default: train)')
    c.add_argument('--reference', choices=('auto', 'fused'), default='auto', help='the ideal: the view auto-exposed after Reinhard, with nine '
                   'exposures of it as inputs, or the Mertens fusion of a bracket of it, with its frames (default: auto)')
    c.add_argument('--views', type=at_least(1), default=10, help='views of each panorama')
    c.set_defaults(run=hdri)
    for s in (a, b, c):
        s.add_argument('--out', type=Path, required=True, help='root of the set; it may hold other splits, with other scene names')
        s.add_argument('--name', default='all', help='name of the CSV (default: all)')
        s.add_argument('--split', type=float, nargs=3, metavar='SHARE',
                       help='write train.csv, val.csv and test.csv by scene with these shares instead')
        s.add_argument('--size', type=at_least(1), default=256, help='side of what is written; training and evaluation here take 256 (default: 256)')
        s.add_argument('--seed', type=int, default=0)
        s.add_argument('--limit', type=at_least(1), help='only the first N scenes')
        s.add_argument('--workers', type=at_least(1), default=2)
    return p


def main(argv=None):
    p = parser()
    args = p.parse_args(argv)
    if args.split and not (min(args.split) >= 0 and 0 < sum(args.split) < math.inf):  # NaN fails as well
        p.error(f'argument --split: shares are {args.split}, accepted: numbers >= 0 with a sum above 0')
    try:
        for folder in ('IEA_img', 'label/exposure_condition', 'label/global_best'):
            (args.out / folder).mkdir(parents=True, exist_ok=True)
        args.run(args)
    except (DatasetError, ImageError, OSError) as e:
        print(f'{p.prog}: {e}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
