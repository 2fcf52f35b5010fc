"""Rebuild the source pictures of our sets from the public repositories that hold them (docs/data.md).

    git clone https://github.com/BIDS/BSDS500 clones/BSDS500          and so on, once for each repository in the list
    python -m datasets.collect --list docs/lists/photos.csv --clones clones --out photos
    python -m datasets.collect --list docs/lists/stacks.csv --clones clones --out stacks
    python -m datasets.collect --list docs/lists/hdri.csv --clones clones --out hdri

A file is checked against its git blob id where the list has one (hdri.csv has none). Pictures are turned upright, brought to RGB and to at
most 512 pixels on the long side (box filter below half size, else Lanczos), and stored as JPEG: quality 85, brackets 95 without colour
subsampling. HDR files are copied.
"""
import argparse
import hashlib
import shutil
import sys
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from .iea40k import DatasetError, read_table
from .images import ImageError, read_image

LONG_SIDE = 512


def git_blob(data):
    """The id that git gives to a file's content."""
    return hashlib.sha1(b'blob %d\0' % len(data) + data).hexdigest()


def reduce(picture, long_side=LONG_SIDE):
    """At most ``long_side`` pixels on the long side."""
    scale = long_side / max(picture.size)
    if scale >= 1:
        return picture
    size = [max(1, round(s * scale)) for s in picture.size]
    return picture.resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.LANCZOS)


def store_reduced(source, target, quality=85, subsampling=-1):
    """The picture ``source`` as a JPEG of at most LONG_SIDE pixels; ``subsampling``: -1 is Pillow's own choice.

    Raises:
        ImageError: the picture cannot be read.
    """
    reduce(read_image(source)).save(target, 'JPEG', quality=quality, subsampling=subsampling)


def report(rows, failed, out):
    """Say what was stored and what failed; returns the exit code."""
    print(f'{len(rows) - len(failed)} of {len(rows)} files stored in {out}')
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


def collect(rows, clones, out):
    """Store every listed picture below ``out``; returns the list of what failed, one line each."""
    failed = []
    for row in tqdm(rows, unit='picture', disable=not sys.stderr.isatty()):
        if row['repository'].count('/') != 1:
            failed.append(f'{row["file"]}: its repository is {row["repository"]!r}, expected owner/name')
            continue
        source = clones / row['repository'].split('/')[1] / row['path']
        target = out / row['file']
        try:
            data = source.read_bytes()
            if row.get('git_blob') and git_blob(data) != row['git_blob']:
                raise DatasetError(f'{source}: not the listed version (git blob {git_blob(data)}, expected {row["git_blob"]})')
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix == '.hdr':
                shutil.copyfile(source, target)
            elif 'scene' in row:
                store_reduced(source, target, 95, 0)
            else:
                store_reduced(source, target)
        except FileNotFoundError:
            failed.append(f'{source}: no such file; clone https://github.com/{row["repository"]} into {clones}')
        except (DatasetError, ImageError, OSError) as e:
            failed.append(str(e))
    return failed


def main(argv=None):
    p = argparse.ArgumentParser(prog='python -m datasets.collect', description='Rebuild our source pictures from clones.')
    p.add_argument('--list', type=Path, required=True, help='one of docs/lists/*.csv')
    p.add_argument('--clones', type=Path, required=True, help='folder with one clone a repository, under the repository\'s name')
    p.add_argument('--out', type=Path, required=True)
    p.add_argument('--split', choices=('train', 'val', 'test'), help='only this split')
    args = p.parse_args(argv)
    try:
        rows = read_table(args.list, ('file', 'repository', 'path', *(['split'] if args.split else [])))
    except DatasetError as e:
        print(f'{p.prog}: {e}', file=sys.stderr)
        return 2
    rows = [r for r in rows if not args.split or r['split'] == args.split]
    failed = collect(rows, args.clones, args.out)
    return report(rows, failed, args.out)


if __name__ == '__main__':
    sys.exit(main())
