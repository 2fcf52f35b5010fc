"""Every mode and fault of picture files: the pixels of the plain RGB version, or one clear line."""

import io
import os
import struct
import threading
import warnings
import zlib

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageCms, features

from datasets import images
from datasets.images import ImageError, convert_image, grey, read_image, resize_pixels, resize_rgb, to_pixels, to_tensor

HEIGHT, WIDTH = 40, 64


def ramp(height=HEIGHT, width=WIDTH):
    """A smooth colour picture (uint8, no two sides alike), kind to lossy formats."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red, green = 250 * x / width, 250 * y / height
    return np.stack([red, green, 125 + (red - green) / 4], axis=-1).round().astype(np.uint8)


def grey_ramp():
    return np.linspace(0, 255, HEIGHT * WIDTH).round().astype(np.uint8).reshape(HEIGHT, WIDTH)


def difference(picture, expected):
    return np.abs(np.asarray(picture).astype(int) - np.asarray(expected).astype(int)).max()


def png(chunks):
    """A PNG from raw chunks, to claim things that no encoder would write."""
    out = b'\x89PNG\r\n\x1a\n'
    for kind, data in chunks:
        out += struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return out


def bomb(width, height):
    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    return png([(b'IHDR', header), (b'IDAT', zlib.compress(b'\0' * 1000)), (b'IEND', b'')])


@pytest.mark.parametrize(
    'name, options, tolerance',
    [
        ('a.png', {}, 0),
        ('a.bmp', {}, 0),
        ('a.tif', {}, 0),
        ('a.tiff', {'compression': 'tiff_lzw'}, 0),
        ('a.webp', {'lossless': True}, 0),
        ('a.jpg', {'quality': 98, 'subsampling': 0}, 5),
        ('progressive.jpeg', {'quality': 98, 'subsampling': 0, 'progressive': True}, 5),
        ('a.avif', {'quality': 95}, 8),
    ],
)
def test_formats(tmp_path, name, options, tolerance):
    if name.endswith(('webp', 'avif')) and not features.check(name.rpartition('.')[2]):
        pytest.skip(f"this Pillow has no {name.rpartition('.')[2]}")
    Image.fromarray(ramp()).save(tmp_path / name, **options)
    picture = read_image(tmp_path / name)
    assert picture.mode == 'RGB'
    assert difference(picture, ramp()) <= tolerance


def test_heif(tmp_path):
    heif = pytest.importorskip('pillow_heif')
    heif.register_heif_opener()
    Image.fromarray(ramp()).save(tmp_path / 'a.heic', quality=95)
    assert difference(read_image(tmp_path / 'a.heic'), ramp()) <= 10


def test_heif_without_the_package_is_named(tmp_path):
    if 'HEIF' in images._formats():
        pytest.skip('pillow-heif is installed')
    (tmp_path / 'a.heic').write_bytes(b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(40))
    with pytest.raises(ImageError, match='pillow-heif'):
        read_image(tmp_path / 'a.heic')


@pytest.mark.parametrize('mode', ['L', 'LA', '1', 'P', 'RGBA', 'CMYK', 'YCbCr', 'LAB'])
def test_modes_equal_plain_rgb(tmp_path, mode):
    """Each mode, written to a file that can hold it, reads as the RGB picture that it stands for."""
    plain = Image.fromarray(ramp() // 2 + 60)  # not at the edges, where LAB and CMYK clip
    tolerance = {'CMYK': 2, 'YCbCr': 4, 'LAB': 12}.get(mode, 0)  # 8-bit LAB is coarse
    if mode == 'LAB':
        profiles = ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB')
        picture = ImageCms.applyTransform(plain, ImageCms.buildTransform(*profiles, 'RGB', 'LAB'))
    else:
        picture = plain.quantize(64) if mode == 'P' else plain.convert(mode)
    if mode in ('L', 'LA'):
        plain = plain.convert('L').convert('RGB')
    elif mode in ('1', 'P'):
        plain = picture.convert('RGB')
    path = tmp_path / ('a.tif' if tolerance else 'a.png')
    picture.save(path)
    if mode == 'YCbCr' and Image.open(path).mode == 'RGB':
        pytest.skip('Pillow before 13 cannot read uncompressed YCbCr TIFFs')
    assert Image.open(path).mode == mode
    assert difference(read_image(path), plain) <= tolerance


def test_cmyk_jpeg(tmp_path):
    Image.fromarray(ramp()).convert('CMYK').save(tmp_path / 'a.jpg', quality=98, subsampling=0)
    assert difference(read_image(tmp_path / 'a.jpg'), ramp()) <= 6


def test_16_bit_grey_is_divided_by_257(tmp_path):
    deep = (grey_ramp().astype(np.uint16) * 257).astype(np.uint16)
    for name in ('a.png', 'a.tif'):
        Image.fromarray(deep).save(tmp_path / name)
        assert difference(np.asarray(read_image(tmp_path / name))[..., 0], grey_ramp()) == 0
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(every).save(tmp_path / 'all.png')
    assert difference(np.asarray(read_image(tmp_path / 'all.png'))[..., 1], np.rint(every / 257)) == 0
    Image.frombytes('I;16B', (WIDTH, HEIGHT), deep.astype('>u2').tobytes()).save(tmp_path / 'big-endian.tif')
    assert difference(np.asarray(read_image(tmp_path / 'big-endian.tif'))[..., 2], grey_ramp()) == 0


def test_16_bit_colour(tmp_path):
    deep = ramp().astype('>u2') * 257
    rows = b''.join(b'\0' + row.tobytes() for row in deep.astype('>u2'))
    header = struct.pack('>IIBBBBB', WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    (tmp_path / 'a.png').write_bytes(png([(b'IHDR', header), (b'IDAT', zlib.compress(rows)), (b'IEND', b'')]))
    assert difference(read_image(tmp_path / 'a.png'), ramp()) <= 1


def test_float_tiff_rule(tmp_path):
    Image.fromarray((grey_ramp() / 255).astype(np.float32)).save(tmp_path / 'unit.tif')
    assert difference(np.asarray(read_image(tmp_path / 'unit.tif'))[..., 0], grey_ramp()) == 0
    for name, value in (('wide.tif', 255.0), ('negative.tif', -0.1), ('nan.tif', float('nan'))):
        pixels = np.full((8, 8), 0.5, np.float32)
        pixels[3, 3] = value
        Image.fromarray(pixels).save(tmp_path / name)
        with pytest.raises(ImageError, match=r'float pixels must lie in \[0, 1\]'):
            read_image(tmp_path / name)
    Image.fromarray(np.full((8, 8), 70000, np.int32)).save(tmp_path / 'int.tif')
    with pytest.raises(ImageError, match='32-bit integer'):
        read_image(tmp_path / 'int.tif')


def test_transparency_shows_white(tmp_path):
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:, WIDTH // 2 :] = 255
    alpha[0, 0] = 128
    expected = np.where(alpha[..., None] == 255, ramp(), 255)
    expected[0, 0] = np.rint(255 - (255 - ramp()[0, 0].astype(float)) * 128 / 255)
    Image.fromarray(np.dstack([ramp(), alpha])).save(tmp_path / 'rgba.png')
    assert difference(read_image(tmp_path / 'rgba.png'), expected) <= 1
    Image.fromarray(np.dstack([grey_ramp(), alpha])).save(tmp_path / 'la.png')
    pixels = np.asarray(read_image(tmp_path / 'la.png'))
    assert (pixels[1:, : WIDTH // 2] == 255).all()
    assert difference(pixels[:, WIDTH // 2 :, 0], grey_ramp()[:, WIDTH // 2 :]) == 0


def test_palette_and_colour_key_transparency(tmp_path):
    flat = Image.fromarray(np.repeat(np.arange(2, dtype=np.uint8), 32).reshape(8, 8), mode='P')
    flat.putpalette([10, 20, 30, 200, 100, 50])
    flat.save(tmp_path / 'p.png', transparency=0)
    pixels = np.asarray(read_image(tmp_path / 'p.png'))
    assert (pixels[:4] == 255).all() and (pixels[4:] == (200, 100, 50)).all()
    plain = flat.convert('RGB')
    plain.save(tmp_path / 'key.png', transparency=(10, 20, 30))
    pixels = np.asarray(read_image(tmp_path / 'key.png'))
    assert (pixels[:4] == 255).all() and (pixels[4:] == (200, 100, 50)).all()


@pytest.mark.parametrize('kind', ['jpg', 'png', 'tif', 'webp'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation(tmp_path, orientation, kind):
    """The picture is stored turned; the tag turns it back."""
    if kind == 'webp' and not features.check('webp'):
        pytest.skip('this Pillow has no WebP')
    upright = Image.fromarray(ramp())
    inverse = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}  # the rest: their own
    method = inverse.get(orientation, images._TRANSPOSE.get(orientation))
    stored = upright if method is None else upright.transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {'jpg': {'quality': 98, 'subsampling': 0}, 'webp': {'lossless': True}}.get(kind, {})
    stored.save(tmp_path / f'a.{kind}', exif=exif, **options)
    picture = read_image(tmp_path / f'a.{kind}')
    assert picture.size == (WIDTH, HEIGHT)
    assert difference(picture, ramp()) <= (5 if kind == 'jpg' else 0)
    assert difference(convert_image(picture), np.asarray(picture)) == 0  # as a predictor does to a picture that it is given: not turned twice


def test_damaged_exif_and_profile_are_ignored(tmp_path):
    exif, profile = b'Exif\0\0II*\0\xff\xff\xff\xff', b'nonsense' * 30
    Image.fromarray(ramp()).save(tmp_path / 'a.png', exif=exif, icc_profile=profile)
    assert difference(read_image(tmp_path / 'a.png'), ramp()) == 0


def swapped_profile():
    """sRGB with the red and blue primaries exchanged: pixels under it have red and blue exchanged as well."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes())
    red, blue = data.index(b'rXYZ'), data.index(b'bXYZ')
    data[red : red + 4], data[blue : blue + 4] = b'bXYZ', b'rXYZ'
    return bytes(data)


@pytest.mark.parametrize('mode', ['RGB', 'RGBA'])
@pytest.mark.parametrize('kind', ['png', 'tif'])
def test_icc_profile_to_srgb(tmp_path, mode, kind):
    Image.fromarray(ramp()).convert(mode).save(tmp_path / f'a.{kind}', icc_profile=swapped_profile())
    assert difference(read_image(tmp_path / f'a.{kind}'), ramp()[..., ::-1]) <= 2


def test_srgb_profile_changes_nothing(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    Image.fromarray(ramp()).save(tmp_path / 'a.png', icc_profile=profile)
    assert difference(read_image(tmp_path / 'a.png'), ramp()) == 0
    Image.fromarray(grey_ramp()).save(tmp_path / 'grey.png', icc_profile=profile)
    assert difference(np.asarray(read_image(tmp_path / 'grey.png'))[..., 0], grey_ramp()) <= 1


def test_first_frame(tmp_path):
    frames = [Image.fromarray(ramp()), Image.fromarray(255 - ramp())]
    for name, options in (('a.tif', {}), ('a.png', {})):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert difference(read_image(tmp_path / name), ramp()) == 0


def jpeg_bytes():
    buffer = io.BytesIO()
    Image.fromarray(ramp(200, 300)).save(buffer, 'JPEG')
    return buffer.getvalue()


@pytest.mark.parametrize(
    'name, content, reason',
    [
        ('empty.jpg', b'', 'the file is empty'),
        ('text.jpg', b'this is not a picture\n' * 50, 'not a picture'),
        ('postscript.png', b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n', 'not a picture'),
        ('gif.png', b'GIF89a' + bytes(40), 'not a picture'),
        ('head-only.jpg', b'\xff\xd8\xff\xe0', 'damaged JPEG'),
        ('head-only.png', b'\x89PNG\r\n\x1a\n', 'PNG'),
        ('head-only.tif', b'II*\0\x08\0\0\0', 'Invalid dimensions' if PIL.__version__.startswith('11.0.') else 'TIFF'),
        ('raw.NEF', b'II*\0' + bytes(100), 'raw'),
        ('bomb.png', bomb(20000, 12000), 'limit of 150000000'),
        ('claims.png', bomb(2_000_000_000, 2_000_000_000), 'limit'),
    ],
)
def test_faults_name_the_file(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        with pytest.raises(ImageError, match=reason) as caught:
            read_image(path)
    assert str(path) in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('kind', ['jpg', 'png', 'tif', 'webp', 'bmp', 'avif'])
def test_truncated_at_any_point(tmp_path, kind):
    """Cut anywhere: never another exception than ImageError, and an error for any cut that loses pixels."""
    if kind in ('webp', 'avif') and not features.check(kind):
        pytest.skip(f'this Pillow has no {kind}')
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f'a.{kind}')
    data = (tmp_path / f'a.{kind}').read_bytes()
    path = tmp_path / f'cut.{kind}'
    for share in (0.001, 0.01, 0.1, 0.3, 0.6, 0.9):
        path.write_bytes(data[: max(1, int(len(data) * share))])
        with pytest.raises(ImageError, match='cut'):
            read_image(path)


@pytest.mark.parametrize('kind', ['jpg', 'png', 'tif', 'webp', 'bmp'])
def test_flipped_bytes_raise_nothing_else(tmp_path, kind):
    if kind == 'webp' and not features.check('webp'):
        pytest.skip('this Pillow has no WebP')
    buffer = io.BytesIO()
    Image.fromarray(ramp()).save(buffer, {'jpg': 'JPEG', 'tif': 'TIFF'}.get(kind, kind.upper()))
    rng = np.random.default_rng(1)
    for _ in range(60):
        data = np.frombuffer(buffer.getvalue(), np.uint8).copy()
        places = rng.integers(0, min(len(data), 600), 4)
        data[places] = rng.integers(0, 256, 4)
        try:
            (tmp_path / 'a').write_bytes(data)
            assert read_image(tmp_path / 'a').mode == 'RGB'
        except ImageError:
            pass


def test_missing_folder_link_and_pipe(tmp_path):
    with pytest.raises(ImageError, match='no such file'):
        read_image(tmp_path / 'missing.jpg')
    with pytest.raises(ImageError, match='is a folder'):
        read_image(tmp_path)
    if not hasattr(os, 'mkfifo'):
        pytest.skip('no links and pipes here')
    (tmp_path / 'dangling.jpg').symlink_to(tmp_path / 'nowhere.jpg')
    with pytest.raises(ImageError, match='link'):
        read_image(tmp_path / 'dangling.jpg')
    os.mkfifo(tmp_path / 'pipe.jpg')
    with pytest.raises(ImageError, match='regular'):
        read_image(tmp_path / 'pipe.jpg')
    with pytest.raises(ImageError):
        read_image(tmp_path / ('long' * 100 + '.jpg'))


def test_names(tmp_path):
    for name in ('übergröße 写真 🌅.jpg', 'x' * 240 + '.jpg', '-rf.jpg', 'a b;c&d.jpg', 'no_extension'):
        (tmp_path / name).write_bytes(jpeg_bytes())
        assert read_image(tmp_path / name).size == (300, 200)


def test_pixel_limit(tmp_path, monkeypatch):
    path = tmp_path / 'a.png'
    Image.fromarray(ramp()).save(path)
    assert read_image(path, max_pixels=HEIGHT * WIDTH).size == (WIDTH, HEIGHT)
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # even where Pillow's warning is made an exception, the error is ours
        for limit in (HEIGHT * WIDTH - 1, HEIGHT * WIDTH // 3):
            with pytest.raises(ImageError, match='limit'):
                read_image(path, max_pixels=limit)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)  # Pillow's own limit plays no part and is left alone
    assert read_image(path).size == (WIDTH, HEIGHT)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize('compression', [None, 'tiff_lzw'])
@pytest.mark.parametrize('mode, orientation', [('RGB', 1), ('RGB', 6), ('P', 1)])
def test_the_pixel_limit_of_tiff_is_ours_too(tmp_path, monkeypatch, compression, mode, orientation):
    """Pillow checks its own limit a second time when it decodes a TIFF."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / 'a.tif'
    Image.fromarray(ramp()).convert(mode).save(path, compression=compression, exif=exif)
    expected = read_image(path)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for pillow in (10, HEIGHT * WIDTH - 1):
            monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', pillow)
            assert difference(read_image(path, max_pixels=HEIGHT * WIDTH), expected) == 0
            assert Image.MAX_IMAGE_PIXELS == pillow
        with pytest.raises(ImageError, match='limit'):
            read_image(path, max_pixels=HEIGHT * WIDTH - 1)


def test_threads(tmp_path):
    """Many threads, mixed limits and profiles: each gets its own answer."""
    Image.fromarray(ramp()).save(tmp_path / 'a.png', icc_profile=swapped_profile())
    failures = []

    def work(index):
        for _ in range(20):
            try:
                picture = read_image(tmp_path / 'a.png', max_pixels=100 if index % 2 else 10**6)
                if index % 2 or difference(picture, ramp()[..., ::-1]) > 2:
                    failures.append(index)
            except ImageError:
                if index % 2 == 0:
                    failures.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def test_tensor_grey_and_resize():
    picture = Image.fromarray(ramp())
    x = to_tensor(picture)
    assert x.shape == (3, HEIGHT, WIDTH) and x.dtype == torch.float32
    assert torch.equal((x * 255).round().byte().permute(1, 2, 0), torch.from_numpy(ramp()))
    luma = grey(x)
    assert luma.shape == (1, HEIGHT, WIDTH)
    assert (luma[0] * 255 - torch.from_numpy(np.array(picture.convert('L')))).abs().max() <= 0.51
    assert grey(x.expand(2, 3, HEIGHT, WIDTH)).shape == (2, 1, HEIGHT, WIDTH)
    assert resize_rgb(picture, (HEIGHT, WIDTH)) is picture
    small = resize_rgb(picture, (20, 32))
    assert small.size == (32, 20)
    assert resize_rgb(picture, 16).size == (16, 16)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 201, 3), dtype=np.uint8))
    for size in ((20, 32), (150, 40), (7, 300), (256, 256), (1, 1)):
        pillow = noise.resize(size[::-1], Image.Resampling.BILINEAR)
        assert difference(resize_rgb(noise, size), pillow) == 0
        assert difference(resize_pixels(np.array(noise), *size), pillow) <= 1
    with pytest.raises(ValueError, match='0'):
        resize_rgb(picture, 0)
    with pytest.raises(ValueError, match='mode'):
        to_tensor(picture.convert('L'))
    with pytest.raises(ValueError, match='3'):
        grey(torch.zeros(1, 8, 8))


@pytest.mark.parametrize('strip', [1, 50, 130, 1 << 20])
def test_pixels_in_strips_of_any_size(strip, monkeypatch):
    monkeypatch.setattr('datasets.images.STRIP', strip)
    expected = np.random.default_rng(0).integers(0, 256, (23, 41, 3), np.uint8)
    pixels = to_pixels(Image.fromarray(expected))
    assert pixels.flags.writeable and np.array_equal(pixels, expected)
