from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.brackets import (Frame, UnalignedError, align, disagreement, exif_stops, find_warp, fuse, judge, level_map, read_bracket, read_frames,
                               reference_picture, similarity, warp)
from datasets.iea40k import DatasetError
from datasets.zones import correct_zones, superpixels, zone_of


def scene(seed=0, height=160, width=200):
    """A picture with structure at every scale, (H, W, 3) uint8, mean about middle grey."""
    rng = np.random.default_rng(seed)
    x = np.full((height, width, 3), 110, np.float32)
    for cells in (4, 8, 16, 32, 64):
        coarse = rng.normal(0, 60 * cells ** -.35, (cells, cells, 3)).astype(np.float32)
        x += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return x.clip(0, 255).astype(np.uint8)


def exposed(picture, stops):
    return (255 * ((picture / 255) ** 2.2 * 2.0 ** stops).clip(0, 1) ** (1 / 2.2)).round().astype(np.uint8)


def bracket(stops=(-2, -1, 0, 1, 2), picture=None):
    picture = scene() if picture is None else picture
    return [Frame(Path(f'{i}.png'), f'F{i:02d}', exposed(picture, ev)) for i, ev in enumerate(stops)]


def save(folder, pictures, exif=None):
    folder.mkdir()
    for i, p in enumerate(pictures):
        picture, data = Image.fromarray(p), Image.Exif()
        if exif:
            data[0x8769] = dict(zip((33434, 33437, 34855), exif[i]))
        picture.save(folder / f'{i}.jpg', quality=97, subsampling=0, exif=data)
    return folder


def grey(pixels):
    return np.asarray(Image.fromarray(pixels).convert('L'))


# ---------------------------------------------------------------- order

def test_exif_stops(tmp_path):
    folder = save(tmp_path / 'a', [scene()] * 4, [(1 / 100, 8.0, 100), (1 / 50, 8.0, 100), (1 / 100, 8.0, 200), (1 / 100, 4.0, 100)])
    stops = [exif_stops(folder / f'{i}.jpg') for i in range(4)]
    assert [s - stops[0] for s in stops] == pytest.approx([0, 1, 1, 2], abs=.01)
    assert exif_stops(save(tmp_path / 'b', [scene()]) / '0.jpg') is None
    (tmp_path / 'c.jpg').write_text('text')
    assert exif_stops(tmp_path / 'c.jpg') is None


def test_order_by_exif_then_by_brightness(tmp_path):
    pictures = [exposed(scene(), ev) for ev in (1, -1, 0)]
    # says otherwise than brightness
    with_exif = save(tmp_path / 'a', pictures, [(1 / 200, 8.0, 100), (1 / 100, 8.0, 100), (1 / 50, 8.0, 100)])
    assert [f.path.name for f in read_frames(with_exif)] == ['0.jpg', '1.jpg', '2.jpg']
    frames = read_frames(save(tmp_path / 'b', pictures))
    assert [f.path.name for f in frames] == ['1.jpg', '2.jpg', '0.jpg'] and [f.name for f in frames] == ['F00', 'F01', 'F02']


def test_frames_of_different_sizes_are_refused(tmp_path):
    folder = save(tmp_path / 'a', [scene(), scene(height=100)])
    with pytest.raises(DatasetError, match='frames differ in size'):
        read_bracket(folder)


# ---------------------------------------------------------------- comparison and alignment

def test_level_map_undoes_an_exposure():
    a, b = grey(exposed(scene(), -1)), grey(scene())
    where = (a > 3) & (b < 252)
    assert np.abs(level_map(a, b, where)[a] - b)[where].mean() < 3


def test_similarity_is_about_place_not_exposure():
    a = grey(scene())
    assert similarity(a, a) == pytest.approx(1, abs=1e-3) and similarity(grey(exposed(scene(), -2)), a) > .9
    assert similarity(np.roll(a, 3, 1), a) < .6 and similarity(grey(scene(1)), a) < .5
    assert np.isnan(similarity(np.zeros_like(a), a)) and np.isnan(similarity(a, np.full_like(a, 255)))


@pytest.mark.parametrize('dx, dy, degrees', [(6, -4, 0), (0, 0, 4.0), (-5, 4, -1.5)])
def test_a_moved_frame_is_brought_back(dx, dy, degrees):
    target = scene()
    matrix = np.vstack((cv2.getRotationMatrix2D((100, 80), degrees, 1), [[0, 0, 1]])).astype(np.float32)
    matrix[:2, 2] += dx, dy
    source = exposed(warp(target, matrix), -1)
    assert similarity(grey(source), grey(target)) < .6
    found, score = find_warp(grey(source), grey(target))
    assert score > .9
    corners = np.array([[[20, 20], [180, 20], [20, 140], [180, 140]]], np.float32)
    assert np.abs(cv2.perspectiveTransform(corners, matrix @ found) - corners).max() < .7  # up to the corners of the middle


def test_aligned_frames_are_left_as_they_are():
    frames = bracket()
    result = align(frames)
    assert not result.dropped and all(np.array_equal(a.pixels, b.pixels) and a.moved == 0 for a, b in zip(result.frames, frames))


def test_shifted_frame_moves_and_the_margin_goes():
    frames = bracket()
    frames[1].pixels = np.roll(frames[1].pixels, (5, 4), (0, 1))
    result = align(frames, base=2)
    assert not result.dropped and [f.moved > 3 for f in result.frames] == [False, True, False, False, False]
    assert len({f.pixels.shape for f in result.frames}) == 1 and result.frames[0].pixels.shape[0] < 160
    assert similarity(result.frames[1].grey, result.frames[2].grey) > .9


def test_a_strip_of_which_nothing_is_left_is_named():
    frames = bracket(picture=scene(height=40, width=600))
    frames[1].pixels = np.roll(frames[1].pixels, 30, 1)
    with pytest.raises(UnalignedError, match='moved by up to .* leaves nothing of 600x40'):
        align(frames, base=2)


@pytest.mark.parametrize('place', range(5))
def test_a_frame_of_another_scene_is_dropped(place):
    frames = bracket()
    frames[place].pixels = exposed(scene(7), place - 2)
    result = align(frames)
    assert [f.name for f in result.dropped] == [f'F0{place}'] and 'similarity' in result.dropped[0].reason
    assert [f.name for f in result.frames] == [f'F0{i}' for i in range(5) if i != place]


def test_a_black_frame_is_kept():
    frames = bracket()
    frames[0].pixels = np.zeros_like(frames[0].pixels)
    assert len(align(frames).frames) == 5


def test_a_given_base_must_be_there(tmp_path):
    folder = save(tmp_path / 'a', [exposed(scene(), ev) for ev in (-1, 0, 1)])
    assert read_bracket(folder, '0.jpg').base == 'F00'
    with pytest.raises(DatasetError, match='no frame 7.jpg'):
        read_bracket(folder, '7.jpg')
    with pytest.raises(DatasetError, match='no two frames fit'):
        read_bracket(save(tmp_path / 'b', [scene(), scene(9)]))


# ---------------------------------------------------------------- the ideal

def test_references():
    result = align(bracket((-3, -1.5, 0, 1.5, 3)))
    own, index = reference_picture(result, 'frame')
    assert index == 2 and np.array_equal(np.asarray(own), result.frames[2].pixels)
    assert reference_picture(result, 'frame', '3.png')[1] == 3
    fused, index = reference_picture(result, 'fused')
    assert index is None and np.array_equal(np.asarray(fused), fuse([f.pixels for f in result.frames]))
    with pytest.raises(ValueError, match="accepted: 'fused'"):
        reference_picture(result, 'best')


def test_superpixels_cover_the_picture_and_follow_an_edge():
    picture = np.full((120, 150, 3), 60, np.uint8)
    picture[:, 70:] = 200
    blocks = superpixels(picture, 24)
    assert blocks.shape == (120, 150) and blocks.min() == 0 and 15 < blocks.max() < 60
    across = [b for b in range(blocks.max() + 1) if 5 < (inside := blocks == b)[:, :68].sum() and inside[:, 72:].sum() > 5]
    assert not across


def test_zones():
    assert zone_of(np.array([.18, .36, .09, 0, 9.])) == pytest.approx([5, 6, 4, 0, 10])
    dark = exposed(scene(), 0)
    dark[:, :100] = exposed(dark[:, :100], -3.5)
    better = correct_zones(dark)
    zones = [zone_of((p / 255) ** 2.2)[:, :100].mean() for p in (dark, better)]
    assert zones[1] > zones[0] + .3                                     # the dark half is lifted
    assert np.abs(correct_zones(scene()).astype(int) - scene()).mean() < 6  # what is fine stays
    assert better.max() <= 255 and (better == 255).mean() <= (dark == 255).mean() + 1e-3  # nothing is clipped by it


def test_no_block_can_be_seen():
    ramp = np.repeat(np.linspace(5, 250, 200)[None, :, None], 160, 0).repeat(3, 2).astype(np.uint8)
    steps = np.diff(correct_zones(ramp).astype(int)[80, :, 0])
    assert steps.min() >= -1 and steps.max() <= 8  # monotone, without jumps


# ---------------------------------------------------------------- labels

def test_disagreement_finds_what_moved():
    a, b = grey(exposed(scene(), -1)), grey(scene())
    assert disagreement(a, b).mean() < .001
    b = b.copy()
    b[40:70, 50:80] = 240 - b[40:70, 50:80]
    assert disagreement(a, b)[45:65, 55:75].mean() > .4 and disagreement(a, b)[:35].mean() < .01


def test_judge():
    greys = [grey(f.pixels).copy() for f in bracket((-1, 0, 1))]
    ideal = greys[1].copy()
    plain = [ideal.astype(np.int16) - g for g in greys]
    labels, valid = judge(ideal, greys, own=1)
    assert np.mean([(a == b).mean() for a, b in zip(labels, plain)]) > .999
    assert all(np.array_equal(v, (ideal > 3) & (ideal < 252)) for v in valid[1:2])
    greys[0][30:60, 30:60] = 255 - greys[0][30:60, 30:60]  # something moved in the dark frame only
    greys[2][100, 100] = 30 if greys[2][100, 100] > 128 else 220  # a defect in the bright one
    labels, valid = judge(ideal, greys, own=1)
    assert valid[0][35:55, 35:55].mean() < .6 and valid[2][35:55, 35:55].mean() > .9
    near = plain[2][98:103, 98:103]
    assert near.min() <= labels[2][100, 100] <= near.max() and abs(int(labels[2][100, 100]) - np.median(near)) <= 2
    assert not judge(ideal, greys)[1][2][35:55, 35:55].all()  # a fusion has it all


def test_the_brackets_keep_their_frames(data_dir):
    folders = sorted(f for f in (data_dir / 'stacks' / 'val').iterdir() if f.is_dir())[-1:]
    results = [read_bracket(f) for f in folders]
    assert sum(len(r.dropped) for r in results) == 0 and all(len(r.frames) >= 3 for r in results)
