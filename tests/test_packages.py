"""Pictures out of package archives, and the two kinds of panoramas in them."""
import csv
import hashlib
import io
import struct
import tarfile
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets import packages
from datasets.iea40k import DatasetError
from datasets.packages import COLUMNS, equirectangular, main, members, read_ktx, small_floats


def jpeg(size=(640, 400)):
    buffer = io.BytesIO()
    Image.new('RGB', size, (120, 90, 60)).save(buffer, 'JPEG')
    return buffer.getvalue()


def tar_of(name, data, mode='w:gz'):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_of(name, data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as z:
        z.writestr(name, data)
    return buffer.getvalue()


def deb_of(name, data):
    parts = [('debian-binary', b'2.0\n'), ('control.tar.xz', b'odd'), ('data.tar.xz', tar_of('./' + name, data, 'w:xz'))]
    return b'!<arch>\n' + b''.join(f'{n:<16}{0:<12}{0:<6}{0:<6}{"100644":<8}{len(b):<10}`\n'.encode() + b + b'\n' * (len(b) % 2)
                                   for n, b in parts)


def ktx_of(faces):
    """R11F_G11F_B10F of small floats that need no rounding: powers of two."""
    exponent = (np.log2(faces).astype(int) + 15).astype('<u4')
    bits = exponent[..., 0] << 6 | exponent[..., 1] << 17 | exponent[..., 2] << 27
    side = faces.shape[1]
    header = struct.pack('<13I', 0x04030201, 0x8C3B, 4, 0x1907, 0x8C3A, 0x1907, side, side, 0, 0, 6, 1, 0)
    return b'\xabKTX 11\xbb\r\n\x1a\n' + header + struct.pack('<I', side * side * 4) + bits.astype('<u4').tobytes()


@pytest.mark.parametrize('make, end', [(tar_of, '.tgz'), (zip_of, '.whl'), (deb_of, '.deb')])
def test_members_of_every_archive(make, end):
    assert members(make('a/b.jpg', b'picture'), f'https://x/y{end}', {'a/b.jpg', 'a/c.jpg'}) == {'a/b.jpg': b'picture'}


def test_small_floats():
    assert small_floats(np.array([15 << 6, 16 << 6 | 32, 0, 1]), 6).tolist() == [1.0, 3.0, 0.0, 2.0 ** -20]


def test_cube_map_becomes_a_panorama():
    colours = np.array([[1, 2, 4], [2, 1, 1], [4, 4, 1], [1, 1, 8], [8, 1, 2], [1, 4, 2]], np.float32)  # +x -x +y -y +z -z
    faces = read_ktx(ktx_of(np.broadcast_to(colours[:, None, None], (6, 8, 8, 3))))
    assert np.array_equal(faces[:, 3, 5], colours)
    panorama = equirectangular(faces, (64, 128))
    seen = [panorama[row, column] for row, column in ((32, 96), (32, 32), (0, 64), (63, 64), (32, 0), (32, 64))]
    assert np.allclose(seen, colours)
    with pytest.raises(DatasetError, match='not a KTX cube map'):
        read_ktx(b'something else')


def test_faces_meet():
    """Brightness by direction is continuous over the edges of the faces."""
    side = 32
    c = (np.arange(side) + 0.5) / side * 2 - 1
    s, t = np.meshgrid(c, c)
    one = np.ones_like(s)
    directions = np.stack([np.stack(d, -1) for d in ((one, -t, -s), (-one, -t, s), (s, one, t), (s, -one, -t), (s, -t, one), (-s, -t, -one))])
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    panorama = equirectangular((directions + 1).astype(np.float32), (64, 128)) - 1
    assert np.abs(np.linalg.norm(panorama, axis=-1) - 1).max() < 0.02
    assert np.abs(np.diff(panorama, axis=1)).max() < 0.12 and np.abs(np.diff(panorama, axis=0)).max() < 0.12


def test_fetch(tmp_path, monkeypatch, capsys):
    data, sky = jpeg(), ktx_of(np.full((6, 4, 4, 3), 2.0))
    archives = {'https://r/a.tgz': tar_of('package/a.jpg', data), 'https://r/cut.tgz': tar_of('f.jpg', data)[:200], 'https://r/b.whl': zip_of('b/sky.ktx', sky)}

    def download(url):
        if url not in archives:
            raise OSError('404')
        return archives[url]
    monkeypatch.setattr(packages, 'download', download)
    rows = [('a.jpg', 'https://r/a.tgz', 'package/a.jpg', data, 'MIT'), ('sky.hdr', 'https://r/b.whl', 'b/sky.ktx', sky, 'CC0'),
            ('c.jpg', 'https://r/a.tgz', 'package/c.jpg', data, 'MIT'), ('d.jpg', 'https://r/a.tgz', 'package/a.jpg', b'other', 'MIT'),
            ('e.jpg', 'https://r/gone.tgz', 'e.jpg', data, 'MIT'), ('f.jpg', 'https://r/cut.tgz', 'f.jpg', data, 'MIT')]
    with open(tmp_path / 'list.csv', 'w', newline='') as f:
        csv.writer(f).writerows([COLUMNS] + [(n, u, p, hashlib.sha1(d).hexdigest(), licence) for n, u, p, d, licence in rows])
    assert main(['--list', str(tmp_path / 'list.csv'), '--out', str(tmp_path / 'out')]) == 1
    out, err = capsys.readouterr()
    assert '2 of 6 files' in out and 'not in the archive' in err and 'not the listed version' in err and 'gone.tgz: OSError: 404' in err and 'cut.tgz: EOFError' in err
    assert Image.open(tmp_path / 'out/a.jpg').size == (512, 320)
    hdr = cv2.imread(str(tmp_path / 'out/sky.hdr'), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    assert hdr.shape == (512, 1024, 3) and np.allclose(hdr, 2)
    assert main(['--list', str(tmp_path / 'list.csv'), '--out', str(tmp_path / 'cc0'), '--licence', 'cc0']) == 0
    assert [p.name for p in (tmp_path / 'cc0').iterdir()] == ['sky.hdr']
