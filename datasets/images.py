"""The one picture reader: every script, data set and model gets its pixels from here.

    picture = read_image("photo.jpg")            # PIL.Image, mode 'RGB', 8 bit, sRGB, upright
    small = resize_rgb(picture, (192, 256))      # (height, width), or one number for a square
    x = to_tensor(small)                         # (3, 192, 256) float32 in [0, 1]
    y = grey(x)                                  # (1, 192, 256) luma, ITU-R 601, as PIL's 'L'

What a reader of pictures gets wrong easily, and what is done here:

- Orientation: EXIF (or XMP) orientation is applied.
- Colour: an embedded ICC profile is converted to sRGB. A picture without one is taken as sRGB; a damaged
  profile is ignored, as browsers do. CMYK goes through its profile, or else Pillow's plain conversion.
- Transparency (RGBA, LA, palette, colour key): composited on white, which is what viewers and printers show.
- 16-bit grey: divided by 257 and rounded. 16-bit colour: Pillow keeps the high byte, at most one level less.
- Float TIFF (one channel): accepted when every value lies in [0, 1], taken as display values (1 = white), not
  as linear light; anything else has no known white and is refused. So are 32-bit integers.
- Animations and multi-page files: the first frame.
- Formats: an allow-list, so that no file reaches a decoder that nobody asked for. HEIC needs pillow-heif.
- Size: more than `max_pixels` pixels is an error before anything is decoded (a few kB can claim gigabytes).

Everything that is wrong with a file ends as one `ImageError`, whose message starts with the file's name.
"""

import contextlib
import functools
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms, features

IMAGE_EXTENSIONS = frozenset(('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.tif', '.tiff', '.bmp',
                              '.avif', '.heic', '.heif'))
MAX_PIXELS = 150_000_000
GROUND = (255, 255, 255)  # what shows through transparent pixels
STRIP = 1 << 20  # pixels that are taken out of a picture at a time

# Camera raw files are TIFFs, or close to it, whose first picture is a thumbnail: a wrong answer.
_RAW_EXTENSIONS = frozenset(('.dng', '.nef', '.nrw', '.cr2', '.cr3', '.arw', '.raf', '.rw2', '.orf', '.pef',
                             '.srw', '.3fr', '.iiq'))
_RAW = 'camera raw files are not supported, develop it to JPEG, PNG or TIFF first'
_TIFF_DNG_VERSION = 50706
_EXIF_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_limit_lock = threading.Lock()


class ImageError(ValueError):
    """A file that cannot be read as a picture. The message is one line: file name, colon, reason."""


@functools.lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Pillow's names of the formats that this installation can decode and that we accept."""
    formats = ['JPEG', 'PNG', 'TIFF', 'BMP']
    if features.check('webp'):
        formats.append('WEBP')
    if features.check('avif'):
        formats.append('AVIF')
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
        formats.append('HEIF')
    return tuple(formats)


def read_image(
    path: str | os.PathLike,
    max_pixels: int = MAX_PIXELS,
    reserve: Callable[[int], None] | None = None,
) -> Image.Image:
    """Read a picture as 8-bit sRGB, upright.

    Args:
        path: the file.
        max_pixels: the largest width x height that is decoded.
        reserve: called with width x height when the header is known, before anything is decoded; it may wait,
            so that a program with many threads can bound its memory.

    Returns:
        A loaded `PIL.Image` in mode 'RGB'; the file is closed.

    Raises:
        ImageError: the file is missing, empty, damaged, truncated, too large or of an unsupported kind.
    """
    path = Path(path)
    _check_file(path)
    try:
        with path.open('rb') as file:
            return _read(file, path, max_pixels, reserve)
    except ImageError:
        raise
    except Exception as error:  # damaged data makes decoders raise nearly any type
        raise ImageError(f'{path}: {_reason(error)}') from error


def convert_image(image: Image.Image, name: str = 'picture') -> Image.Image:
    """Any PIL picture as 8-bit sRGB 'RGB', upright, by the rules above; ImageError where none applies."""
    image.load()
    rgb = _to_rgb(image, Path(name))
    return _upright(rgb, image)


def resize_rgb(picture: Image.Image, size: int | tuple[int, int]) -> Image.Image:
    """Antialiased bilinear resize of an 8-bit RGB picture, the convention of the release's training.

    `size` is (height, width), or one number for a square. A picture of that size comes back as it is. Pillow's filter,
    whose bytes are the same on every machine (sets are pinned to the byte); `resize_pixels` is faster.
    """
    _check_rgb(picture)
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f'size must be at least 1 x 1, but is {height} x {width}')
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def resize_pixels(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """`resize_rgb` for (H, W, 3) uint8 arrays by PyTorch's filter: at most one level apart and several times faster on large pictures."""
    if pixels.shape[:2] == (height, width):
        return pixels
    # The batch's axis first: so strided, PyTorch knows it for channels_last and answers likewise.
    planes = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    small = F.interpolate(planes, size=(height, width), mode='bilinear', antialias=True)
    return small[0].permute(1, 2, 0).contiguous().numpy()


def to_pixels(picture: Image.Image) -> np.ndarray:
    """A picture in mode 'RGB' as an (H, W, 3) uint8 array that may be written to, as torch wants it."""
    _check_rgb(picture)
    width, height = picture.size
    rows = max(1, STRIP // width)
    if rows >= height:
        return np.array(picture)
    # All at once, Pillow makes a list of parts and of them one string, which numpy copies: three times the time from 12 MP on.
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        pixels[top:top + rows] = np.asarray(picture.crop((0, top, width, min(top + rows, height))))
    return pixels


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """A picture in mode 'RGB' as a (3, H, W) float32 tensor in [0, 1]."""
    return torch.from_numpy(to_pixels(picture)).permute(2, 0, 1).contiguous().float().div_(255)


def _check_rgb(picture: Image.Image) -> None:
    if picture.mode != 'RGB':
        raise ValueError(f"mode must be 'RGB' (see read_image and convert_image), but is '{picture.mode}'")


def grey(rgb: torch.Tensor) -> torch.Tensor:
    """Luma (ITU-R 601, as PIL's 'L') of a (..., 3, H, W) tensor: (..., 1, H, W) on the same scale."""
    if rgb.ndim < 3 or rgb.shape[-3] != 3:
        raise ValueError(f'rgb must be (..., 3, H, W), but is {tuple(rgb.shape)}')
    red, green, blue = rgb.unbind(-3)
    return (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(-3)


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return 'not enough memory to decode it'
    if isinstance(error, OSError) and error.errno is not None:  # of the file system; decoders set no errno
        return f'cannot be opened ({error.strerror})'
    return f"damaged or truncated ({' '.join(str(error).split()) or type(error).__name__})"


def _check_file(path: Path) -> None:
    """The faults that need no decoder. A pipe would block for ever, so only regular files pass."""
    try:
        if path.is_dir():
            readable = os.access(path, os.R_OK | os.X_OK)
            raise ImageError(f'{path}: {"is a folder, not a picture" if readable else "a folder that cannot be read"}')
        if not path.exists():
            reason = 'is a link to a file that does not exist' if path.is_symlink() else 'no such file'
            raise ImageError(f'{path}: {reason}')
        if not path.is_file():
            raise ImageError(f'{path}: is not a regular file')
        if path.stat().st_size == 0:
            raise ImageError(f'{path}: the file is empty')
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    if path.suffix.lower() in _RAW_EXTENSIONS:
        raise ImageError(f'{path}: {_RAW}')


def _read(file, path: Path, max_pixels: int, reserve: Callable[[int], None] | None = None) -> Image.Image:
    image = _open(file, path, max_pixels)
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f'{path}: claims {width} x {height} pixels')
    if width * height > max_pixels:
        raise ImageError(f'{path}: {width} x {height} pixels are over the limit of {max_pixels} (max_pixels)')
    if image.format == 'TIFF' and _TIFF_DNG_VERSION in image.tag_v2:
        raise ImageError(f'{path}: {_RAW}')
    if reserve is not None:
        reserve(width * height)
    if image.format == 'TIFF':
        with _pixel_limit(max_pixels):
            image.load_prepare()  # asks for the memory; only here does Pillow check its limit once more
    image.load()  # Pillow decodes lazily: faults of the pixel data show up here, not in open()
    return _upright(_to_rgb(image, path), image)


def _open(file, path: Path, max_pixels: int) -> Image.Image:
    """Read the header."""
    with _pixel_limit(max_pixels):
        try:
            return Image.open(file, formats=_formats())
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageError(f'{path}: more pixels than the limit of {max_pixels} (max_pixels)') from error
        except Image.UnidentifiedImageError as error:
            raise ImageError(f'{path}: {_why_unidentified(file, path)}') from error


@contextlib.contextmanager
def _pixel_limit(max_pixels: int):
    """Pillow's own limit is a global; ours takes its place for the moment."""
    with _limit_lock:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _why_unidentified(file, path: Path) -> str:
    file.seek(0)
    head = file.read(32)
    if head[4:8] == b'ftyp' and head[8:12] in (b'heic', b'heix', b'mif1', b'msf1', b'hevc', b'heim', b'heis'):
        return 'HEIC/HEIF pictures need the package pillow-heif'
    if head[4:8] == b'ftyp' and head[8:12] in (b'avif', b'avis'):
        return 'damaged AVIF picture, or this Pillow was built without AVIF'
    known = {b'\xff\xd8': 'JPEG', b'\x89PNG': 'PNG', b'RIFF': 'WebP', b'II*\0': 'TIFF', b'MM\0*': 'TIFF',
             b'BM': 'BMP'}
    for start, name in known.items():
        if head.startswith(start):
            return f'damaged {name} file, or a kind of {name} that is not supported'
    return 'not a picture in a supported format (' + ', '.join(_formats()) + ')'


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """8-bit sRGB on the stated ground, from a loaded picture of any mode."""
    mode = image.mode
    if mode == 'RGB' and 'transparency' not in image.info:
        return _to_srgb(image, image)
    if mode.startswith('I;16'):
        levels = np.asarray(image).astype(np.uint32)  # v / 257 rounded, in integers
        return _to_srgb(Image.fromarray(((levels * 255 + 32895) >> 16).astype(np.uint8)), image)
    if mode == 'I':
        raise ImageError(f'{path}: 32-bit integer pixels have no known white, convert it to 8 or 16 bit')
    if mode == 'F':
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # written so that NaN fails as well
            raise ImageError(f'{path}: float pixels must lie in [0, 1] (1 = white), not [{low:g}, {high:g}]')
        return _to_srgb(Image.fromarray(np.rint(values * 255).astype(np.uint8)), image)
    if mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or 'transparency' in image.info:
        straight = image.convert('RGBA')  # un-premultiplies RGBa and La, looks up palettes and colour keys
        colour = _to_srgb(straight.convert('L' if mode in ('L', 'LA', 'La') else 'RGB'), image)
        ground = Image.new('RGB', image.size, GROUND)
        ground.paste(colour, mask=straight.getchannel('A'))
        return ground
    if mode in ('1', 'P'):
        return _to_srgb(image.convert('RGB'), image)
    return _to_srgb(image, image)  # L, CMYK, YCbCr, LAB: the profile, if any, is for this very mode


def _to_srgb(pixels: Image.Image, source: Image.Image) -> Image.Image:
    """`pixels` as sRGB 'RGB', through the ICC profile that `source` carries."""
    profile = source.info.get('icc_profile')
    transform = _icc_transform(profile, pixels.mode) if profile else None
    if profile and transform is None and pixels.mode == 'L':  # grey pixels under a profile for colour
        pixels = pixels.convert('RGB')
        transform = _icc_transform(profile, 'RGB')
    if transform is not None:
        return ImageCms.applyTransform(pixels, transform)
    if pixels.mode == 'LAB':
        profiles = ImageCms.createProfile('LAB'), ImageCms.createProfile('sRGB')
        return ImageCms.applyTransform(pixels, ImageCms.buildTransform(*profiles, 'LAB', 'RGB'))
    return pixels if pixels.mode == 'RGB' else pixels.convert('RGB')


@functools.lru_cache(maxsize=16)
def _icc_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from `profile` to sRGB; None when it is sRGB itself, damaged, or meant for another mode."""
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile('sRGB'),
            mode,
            'RGB',
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode != 'RGB':
            return transform
        # Most profiles are sRGB under one of many names. Asking the transform is surer than asking the name,
        # and leaving the identity out saves half of a large picture's decoding time.
        steps = np.linspace(0, 255, 17).round().astype(np.uint8)
        cube = np.stack(np.meshgrid(steps, steps, steps, indexing='ij'), axis=-1).reshape(17, -1, 3)
        moved = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), transform)).astype(np.int16)
        return None if np.abs(moved - cube).max() <= 2 else transform
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


def _upright(rgb: Image.Image, source: Image.Image) -> Image.Image:
    try:
        orientation = source.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF says nothing about the orientation; the pixels are fine
        orientation = 1
    method = _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    if method is None:
        return rgb
    turned = rgb.transpose(method)
    turned.info = {}  # or what is upright now would be turned once more where it is converted again
    return turned
