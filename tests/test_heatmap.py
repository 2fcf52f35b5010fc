"""Colours: white is ideal, red over, blue under, on one scale for all pictures; the file says the same."""
import io
import os

import numpy as np
import pytest
from PIL import Image

from datasets.photographs import is_output, read_text
from exposure import heatmap


def residuals(height=60, width=101, limit=1.0):
    """A map that takes every value from -limit to +limit, zero included."""
    return np.tile(np.linspace(-limit, limit, width, dtype=np.float32), (height, 1))


def colors(residual, limit=0.5, name='bwr'):
    data = heatmap.encode_png(heatmap.to_index(residual, limit), heatmap.color_table(name))
    return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))


@pytest.mark.parametrize('value, color', [(0, (255, 255, 255)), (0.5, (0, 0, 255)), (-0.5, (255, 0, 0)),
                                          (0.9, (0, 0, 255)), (-1, (255, 0, 0)), (0.25, (127, 127, 255)),
                                          (-0.25, (255, 127, 127))])
def test_fixed_scale(value, color):
    pixels = colors(np.full((4, 5), value, np.float32))
    assert np.abs(pixels.astype(int) - color).max() <= 2
    if value in (0, 0.5, -0.5, 0.9, -1):
        assert (pixels == color).all()


@pytest.mark.parametrize('limit', [0.05, 0.5, 1.0])
def test_index_is_monotonic_symmetric_and_within_half_a_step(limit):
    residual = residuals()
    index = heatmap.to_index(residual, limit).astype(int)
    assert (np.diff(index[0]) <= 0).all()
    shown = -(index - heatmap.ZERO) / 127 * limit
    inside = np.abs(residual) <= limit
    assert np.abs(shown - residual)[inside].max() <= 0.5 * limit / 127 + 1e-6
    mirrored = heatmap.to_index(-residual, limit).astype(int)
    table = heatmap.color_table().astype(int)
    assert np.abs(table[index] - table[mirrored][..., ::-1]).max() <= 3  # half a step at ties


def test_colour_does_not_depend_on_the_rest_of_the_picture():
    a = residuals()
    b = a.copy()
    b[30:] = 0.9
    assert (colors(a)[:30] == colors(b)[:30]).all()


def test_auto_is_the_release_stretch():
    """The authors' script: (1 - residual) / 2 stretched to its own min..max over blue, white, red."""
    for low, high in ((-0.3, 0.1), (0.1, 0.6), (-0.9, -0.2)):
        residual = np.linspace(low, high, 500, dtype=np.float32).reshape(20, 25)
        value = (1 - residual) / 2
        value = (value - value.min()) / (value.max() - value.min())
        red, blue = np.minimum(2 * value, 1), np.minimum(2 - 2 * value, 1)
        expected = np.stack([red, np.minimum(red, blue), blue], axis=-1)
        assert np.abs(colors(residual, 'auto') / 255 - expected).max() <= 2 / 255
    assert (colors(np.full((5, 5), 0.2, np.float32), 'auto') == 255).all()  # nothing to stretch


def test_against_matplotlib():
    matplotlib = pytest.importorskip('matplotlib')
    residual = residuals(limit=0.5)
    expected = matplotlib.colormaps['bwr']((0.5 - residual) / 1.0)[..., :3]
    assert np.abs(colors(residual) / 255 - expected).max() <= 3 / 255
    reverse = colors(residual, name='RdBu_r')
    assert reverse[0, 0, 0] > reverse[0, 0, 2]  # red over-exposed
    assert reverse[0, -1, 2] > reverse[0, -1, 0]  # blue under-exposed
    with pytest.raises(ValueError, match='no_such_map'):
        heatmap.color_table('no_such_map')


def test_table_is_safe_to_share():
    with pytest.raises(ValueError):
        heatmap.color_table()[0] = 7


@pytest.mark.parametrize('limit', [0, -0.5, 1.5, 'wide', None, float('nan'), float('inf')])
def test_range_is_checked(limit):
    with pytest.raises(ValueError, match='range'):
        heatmap.check_range(limit)


def test_png_has_the_exact_size_and_text(tmp_path):
    for shape in ((1, 1), (30, 2000), (123, 7)):
        index = np.random.default_rng(0).integers(1, 256, shape, dtype=np.uint8)
        (tmp_path / 'a.png').write_bytes(heatmap.encode_png(index, heatmap.color_table(), '{"a": 1}'))
        with Image.open(tmp_path / 'a.png') as picture:
            assert picture.mode == 'P' and picture.size == shape[::-1]
            assert (np.asarray(picture) == index).all()
        assert read_text(tmp_path / 'a.png') == '{"a": 1}'


def test_text_of_other_files(tmp_path):
    Image.new('RGB', (8, 8)).save(tmp_path / 'plain.png')
    data = heatmap.encode_png(np.zeros((50, 50), np.uint8), heatmap.color_table(), 'x')
    (tmp_path / 'cut.png').write_bytes(data[:-1])
    (tmp_path / 'short.png').write_bytes(data[:20])
    (tmp_path / 'empty.png').write_bytes(b'')
    (tmp_path / 'text.png').write_text('no picture')
    for name in ('plain', 'cut', 'short', 'empty', 'text', 'missing'):
        assert read_text(tmp_path / f'{name}.png') is None


def test_outputs_are_known_by_name_and_content(tmp_path):
    pixels, table = np.zeros((5, 5), np.uint8), heatmap.color_table()
    for name, data in (('a_exposure.png', heatmap.encode_png(pixels, table, '{}')),
                       ('a_exposure_overlay.png', heatmap.encode_overlay(np.zeros((5, 5, 3), np.uint8), '{}')),
                       ('old_exposure_legend.png', heatmap.encode_legend(table, 'auto')), ('_exposure_legend.png', b'an earlier version')):
        (tmp_path / name).write_bytes(data)
        assert is_output(tmp_path / name) and is_output(str(tmp_path / name))
    (tmp_path / 'other.png').write_bytes(heatmap.encode_png(pixels, table, '{}'))
    (tmp_path / 'folder_exposure.png').mkdir()
    for name in ('long_exposure.png', 'long_exposure_overlay.png', 'long_exposure_legend.png'):
        Image.new('RGB', (8, 8)).save(tmp_path / name)
        assert not is_output(tmp_path / name)
    if hasattr(os, 'mkfifo'):
        os.mkfifo(tmp_path / 'pipe_exposure.png')
    for name in ('other.png', 'folder_exposure.png', 'pipe_exposure.png', 'missing_exposure.png'):
        assert not is_output(tmp_path / name)


def test_overlay_keeps_what_is_ideal_and_covers_what_is_not():
    grey = np.tile(np.arange(256, dtype=np.uint8), (300, 1))
    residual = np.zeros(grey.shape, np.float32)
    residual[100:200], residual[200:] = 0.5, -0.5
    index, table = heatmap.to_index(residual, 0.5), heatmap.color_table()
    pixels = heatmap.overlay(grey, index, table, 0.6)
    assert (pixels[:100] == grey[:100, :, None]).all()
    for rows, end in ((slice(100, 200), (0, 0, 255)), (slice(200, 300), (255, 0, 0))):
        assert np.abs(pixels[rows] - (0.4 * grey[rows, :, None] + 0.6 * np.array(end))).max() <= 0.5 + 1e-6
    full = heatmap.overlay(grey, index, table, 1.0)
    assert (full[100:200] == (0, 0, 255)).all() and (full[200:] == (255, 0, 0)).all()
    assert Image.open(io.BytesIO(heatmap.encode_overlay(pixels))).size == grey.shape[::-1]
    for opacity in (0, 1.5, -1):
        with pytest.raises(ValueError, match='opacity'):
            heatmap.overlay(grey, index, table, opacity)
    with pytest.raises(ValueError, match='map is'):
        heatmap.overlay(grey[1:], index, table, 0.5)


@pytest.mark.parametrize('limit', [0.5, 0.05, 'auto'])
def test_legend_shows_the_colours_in_order(limit):
    picture = np.asarray(heatmap.legend(heatmap.color_table(), limit)).astype(int)
    row = picture[84, 42:718]
    assert (row[:5, 2] > 240).all() and (row[:5, 0] < 15).all()  # blue end first
    assert (row[-5:, 0] > 240).all() and (row[-5:, 2] < 15).all()
    assert (row[len(row) // 2] > 250).all()
