"""Colours of a residual map: red over-exposed, white ideal, blue under-exposed.

    index = to_index(residual, 0.5)                # (H, W) uint8; 128 is exactly zero
    data = encode_png(index, color_table('bwr'))   # bytes of a palette PNG of the picture's exact size

The scale is fixed and symmetric, the same for every picture, so that colours can be compared between pictures
and white means ideal. `'auto'` stretches each picture to its own range instead, as the authors' script does.

A heat map has 255 colours, so it is stored as one byte per pixel plus a table: a third of the time and of the
bytes of an RGB picture, and no figure library.
"""

import io
import json
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from datasets.photographs import TEXT_KEY

DEFAULT_RANGE = 0.5
ZERO = 128  # the index of residual 0; 1 is the under-exposed end of the scale and 255 the over-exposed one


def check_range(limit: float | str) -> float | str:
    """A scale: a number in (0, 1], the residual of the end colours, or 'auto'; else a ValueError."""
    if limit == 'auto':
        return limit
    try:
        limit = float(limit)
    except (TypeError, ValueError):
        limit = float('nan')
    if not 0 < limit <= 1:
        raise ValueError("range must be a number in (0, 1] or 'auto'")
    return limit


def scale_limits(residual: np.ndarray, limit: float | str = DEFAULT_RANGE) -> tuple[float, float]:
    """The residuals of the red and of the blue end: (-limit, limit), or with 'auto' the map's (min, max)."""
    if check_range(limit) == 'auto':
        low, high = cv2.minMaxLoc(residual)[:2]
        return max(low, -1.0), min(high, 1.0)
    return -float(limit), float(limit)


def to_index(residual: np.ndarray, limit: float | str = DEFAULT_RANGE) -> np.ndarray:
    """An (H, W) float32 residual map as (H, W) uint8 indices into `color_table`.

    A fixed scale maps [-limit, limit] to 255 .. 1 and 0 to 128; what lies beyond gets the end colours. 'auto'
    maps the map's own [min, max] to 255 .. 1 (with white in its middle: not at zero).
    """
    low, high = scale_limits(residual, limit)
    half = (high - low) / 2
    if half < 1e-6:  # a flat map has no range to stretch
        return np.full(residual.shape, ZERO, np.uint8)
    slope = -127 / half
    # One pass, rounding and saturating; the second term is there because the function wants two pictures.
    residual = np.ascontiguousarray(residual, np.float32)
    return cv2.addWeighted(residual, slope, residual, 0.0, ZERO - slope * (low + high) / 2, dtype=cv2.CV_8U)


@lru_cache(maxsize=8)
def _table(name: str) -> bytes:
    position = np.clip((np.arange(256) - ZERO) / 127, -1, 1)  # -1 under-exposed ... +1 over-exposed
    if name == 'bwr':  # the release's: (0,0,1) (1,1,1) (1,0,0)
        red, blue = 1 + np.minimum(position, 0), 1 - np.maximum(position, 0)
        colors = np.stack([red, np.minimum(red, blue), blue], axis=1)
    else:
        import matplotlib  # slow to import, and only wanted for other maps than the default

        if name not in matplotlib.colormaps:
            raise ValueError(f"colormap {name!r} is unknown: 'bwr' or one of matplotlib's, e.g. 'RdBu_r'")
        colors = matplotlib.colormaps[name]((position + 1) / 2)[:, :3]
    return np.rint(colors * 255).astype(np.uint8).tobytes()


def color_table(name: str = 'bwr') -> np.ndarray:
    """The (256, 3) uint8 colours of the indices: 'bwr', or any map of matplotlib's (over-exposed is its end).

    Raises:
        ValueError: there is no such map.
    """
    return np.frombuffer(_table(name), np.uint8).reshape(256, 3)


def encode_png(index: np.ndarray, table: np.ndarray, text: str | None = None) -> bytes:
    """A palette PNG of `index` in the colours of `table`; `text` is stored under the key 'exposure'."""
    picture = Image.fromarray(index)
    picture.putpalette(table.tobytes())
    return _png_bytes(picture, text)


def overlay(grey: np.ndarray, index: np.ndarray, table: np.ndarray, opacity: float) -> np.ndarray:
    """The map laid over the picture: (H, W, 3) uint8.

    The picture is shown in grey, for its own colours would be taken for the map's. What is ideal stays as it
    is; the further off, the more of the end colour covers it, up to `opacity` at the end of the scale.

    Args:
        grey: (H, W) uint8.
        index: (H, W) uint8 of `to_index`.
        table: (256, 3) uint8 of `color_table`.
        opacity: in (0, 1].
    """
    if not 0 < opacity <= 1:
        raise ValueError(f'overlay opacity must be in (0, 1], but is {opacity}')
    if grey.shape != index.shape:
        raise ValueError(f'grey is {grey.shape}, but the map is {index.shape}')
    cover = opacity * np.clip(np.abs(np.arange(256) - ZERO) / 127, 0, 1)[:, None, None]
    ends = np.where(np.arange(256)[:, None] < ZERO, table[0], table[255])[:, None, :]
    levels = np.arange(256)[None, :, None]
    blend = np.rint(levels * (1 - cover) + ends * cover).astype(np.uint8)  # (map index, grey level, RGB)
    out = np.empty((*grey.shape, 3), np.uint8)
    rows = max(1, (1 << 18) // grey.shape[1])
    for top in range(0, len(grey), rows):
        part = slice(top, top + rows)
        out[part] = blend[index[part], grey[part]]
    return out


def encode_overlay(pixels: np.ndarray, text: str | None = None) -> bytes:
    """An RGB PNG of `overlay`'s result."""
    return _png_bytes(Image.fromarray(pixels), text)


def _png_bytes(picture: Image.Image, text: str | None) -> bytes:
    info = None
    if text is not None:
        info = PngImagePlugin.PngInfo()
        info.add_text(TEXT_KEY, text)
    out = io.BytesIO()
    # Level 1: a third of level 6's time for a few per cent more bytes, measured on maps of photographs.
    picture.save(out, 'PNG', compress_level=1, pnginfo=info)
    return out.getvalue()


def legend(table: np.ndarray, limit: float | str = DEFAULT_RANGE) -> Image.Image:
    """A picture of the scale, with its numbers and its sign in words."""
    auto = check_range(limit) == 'auto'
    width, height, left, top, bar = 760, 250, 40, 62, 44
    picture = Image.new('RGB', (width, height), 'white')
    draw = ImageDraw.Draw(picture)
    title, font, small = (ImageFont.load_default(size) for size in (20, 16, 14))
    draw.text((left, 18), 'Exposure residual = (ideal grey - this grey) / 255', 'black', title)
    ramp = np.linspace(1, 255, width - 2 * left).round().astype(np.uint8)
    picture.paste(Image.fromarray(table[np.tile(ramp, (bar, 1))]), (left, top))
    draw.rectangle((left - 1, top - 1, width - left, top + bar), outline='black')
    if auto:
        ticks = ("picture's largest", 'middle of its range', "picture's smallest")
        words = ('most under', '', 'most over')
        note = ('Each picture is stretched to its own range (--range auto): colours cannot be compared',
                'between pictures, and white is not ideal. Residual > 0: under-exposed; < 0: over-exposed.')
    else:
        ticks, words = (f'+{limit:g}', '0', f'-{limit:g}'), ('under-exposed', 'ideal', 'over-exposed')
        note = ('One fixed scale for all pictures. A positive residual is too dark: the ideal is brighter.',
                f'Beyond +-{limit:g} the colour stays that of the end.')
    for place, anchor, tick, word in zip((left, width // 2, width - left), ('la', 'ma', 'ra'), ticks, words):
        x = min(place, width - left - 1)
        draw.line((x, top + bar, x, top + bar + 6), 'black')
        draw.text((place, top + bar + 10), tick, 'black', font, anchor=anchor)
        draw.text((place, top + bar + 32), word, 'black', font, anchor=anchor)
    for row, line in enumerate(note):
        draw.text((left, height - 56 + 22 * row), line, 'black', small)
    return picture


def encode_legend(table: np.ndarray, limit: float | str = DEFAULT_RANGE) -> bytes:
    """A PNG of `legend`, with a text by which it is known for one of ours."""
    return _png_bytes(legend(table, limit), json.dumps({'legend': limit}))
