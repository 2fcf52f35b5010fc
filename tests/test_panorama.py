import math

import cv2
import numpy as np
import pytest
import torch

from datasets.build import main, simulate_view
from datasets.iea40k import DatasetError, IEA40K
from datasets.panorama import auto_exposure, contrasty_view, log_luminance, perspective_view, random_view, read_hdr, render, render_bracket


def panorama(height=64, seed=0):
    """A lit scene with a dynamic range of many stops: gradient sky, dark ground, a bright lamp."""
    rng = np.random.default_rng(seed)
    light = np.full((height, 2 * height, 3), 0.02, np.float32)
    light[:height // 2] = np.linspace(2, 0.3, height // 2)[:, None, None]
    light *= rng.uniform(0.5, 1.5, light.shape).astype(np.float32)
    light[height // 2 - 4:height // 2, 20:28] = 500
    return light


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'hdri').mkdir()
    cv2.imwrite(str(tmp_path / 'hdri/a.hdr'), panorama())
    return tmp_path / 'hdri'


def test_read_hdr(folder):
    light = read_hdr(folder / 'a.hdr')
    assert light.shape == (1, 3, 64, 128) and light.max() > 400 and light.min() >= 0


@pytest.mark.parametrize('make, word', [
    (lambda p: None, 'No such file'), (lambda p: p.write_bytes(b''), 'not a Radiance'), (lambda p: p.write_text('x'), 'not a Radiance'),
    (lambda p: cv2.imwrite(str(p), np.ones((8, 8, 3), np.float32)), 'twice as wide')])
def test_faults_are_named(tmp_path, make, word):
    make(tmp_path / 'b.hdr')
    with pytest.raises(DatasetError, match=word) as e:
        read_hdr(tmp_path / 'b.hdr')
    assert 'b.hdr' in str(e.value)


def test_view_looks_where_it_is_told():
    h = 64
    pano = torch.zeros(1, 2, h, 2 * h)
    pano[:, 0] = (torch.arange(2 * h) + 0.5) / (2 * h)     # longitude, 0.5 ahead
    pano[:, 1] = ((torch.arange(h) + 0.5) / h)[:, None]   # latitude, 0 above
    for yaw, pitch in ((0, 0), (1.0, 0.3), (-2.0, -0.4)):
        centre = perspective_view(pano, yaw, pitch, math.radians(60), (33, 33))[0, :, 16, 16]
        assert centre[0].item() == pytest.approx(0.5 + yaw / (2 * math.pi), abs=0.01)
        assert centre[1].item() == pytest.approx(0.5 - pitch / math.pi, abs=0.01)
    view = perspective_view(pano, 0, 0, math.radians(90), (64, 64))[0, 0]
    assert view[32, 0].item() == pytest.approx(0.5 - 0.125, abs=0.01) and view[32, -1].item() == pytest.approx(0.5 + 0.125, abs=0.01)


def test_the_seam_cannot_be_seen():
    x = torch.linspace(0, 2 * math.pi, 257)[:-1].cos().expand(1, 3, 128, 256) + 2
    view = perspective_view(x.contiguous(), math.pi, 0, math.radians(60), (32, 64))  # looks at the left and right edge
    assert view[..., 1:].sub(view[..., :-1]).abs().max() < 0.02


def test_clipped_is_constant_white_and_labelled_by_the_reference():
    view = perspective_view(torch.from_numpy(panorama()).permute(2, 0, 1)[None], 0.3, 0.1, 1.2, (64, 64))
    ideal, pictures = render(view, (-3, 0, 3), torch.Generator().manual_seed(0))
    scaled, white = auto_exposure(view)
    over = (scaled[0] * 8 > white * 1.05)
    assert over.any() and (pictures[2][over] == 1).all()
    assert torch.equal(pictures[1], ideal)
    assert (pictures[0] <= ideal).all() and (pictures[2] >= ideal).all()
    assert 0.2 < ideal.mean() < 0.7


def test_key_follows_the_scene():
    flat = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.1
    night = flat * 0.01
    night[..., :8, :8] = 1.0
    day = flat.clone()
    day[..., :8, :8] = 0.0005
    means = [render(x, (), torch.Generator().manual_seed(0))[0].mean().item() for x in (night, flat, day)]
    assert means[0] < means[2]
    brighter = render(flat * 100, (), torch.Generator().manual_seed(0))[0]
    assert torch.allclose(brighter, render(flat, (), torch.Generator().manual_seed(0))[0], atol=1e-3)  # units do not matter


def test_build(tmp_path, folder):
    out = tmp_path / 'set'
    assert main(['hdri', '--hdri', str(folder), '--out', str(out), '--views', '2', '--name', 'val']) == 0
    data = IEA40K(out, out / 'val.csv')
    assert len(data) == 18 and data.rows[0]['img_id'] == 'a-000_N4.png'
    means = [data[i]['residual'].mean().item() for i in range(9)]
    assert all(a >= b for a, b in zip(means, means[1:])) and abs(means[4]) < 0.01
    ideal, frames = simulate_view(folder / 'a.hdr', 1)
    assert [n for n, _ in frames] == 'N4 N3 N2 N1 P0 P1 P2 P3 P4'.split() and ideal.size == (512, 384)


def test_a_part_is_one_of_a_list(tmp_path, folder, capsys):
    (tmp_path / 'list.csv').write_text('file,split\na.hdr,train\nb.hdr,test\n')
    command = ['hdri', '--hdri', str(folder), '--out', str(tmp_path / 'set'), '--views', '1']
    assert main([*command, '--part', 'test']) == 2
    error = capsys.readouterr().err
    assert '--part test' in error and '--list' in error and error.count('\n') == 1
    assert main([*command, '--list', str(tmp_path / 'list.csv'), '--part', 'test']) == 2  # b.hdr is not there
    assert main([*command, '--list', str(tmp_path / 'list.csv')]) == 0


@pytest.mark.parametrize('seed', range(8))
def test_brackets_of_panoramas_go_from_dark_to_bright(seed):
    light = contrasty_view(torch.from_numpy(panorama()).permute(2, 0, 1)[None], torch.Generator().manual_seed(seed), (48, 64))
    frames = render_bracket(light, torch.Generator().manual_seed(seed))
    again = render_bracket(light, torch.Generator().manual_seed(seed))
    assert 3 <= len(frames) <= 9 and all(torch.equal(a, b) for a, b in zip(frames, again))
    means = [f.mean().item() for f in frames]
    assert means == sorted(means) and means[0] < 0.5 and means[-1] - means[0] > 0.1
    assert all(f.shape == (3, 48, 64) and f.min() >= 0 and f.max() <= 1 for f in frames)


def test_of_two_views_the_more_contrasty_is_taken():
    light = torch.from_numpy(panorama()).permute(2, 0, 1)[None]
    generator = torch.Generator().manual_seed(3)
    both = [random_view(light, generator, (48, 64)) for _ in range(2)]
    spread = [high - low for _, low, high in map(log_luminance, both)]
    chosen = contrasty_view(light, torch.Generator().manual_seed(3), (48, 64))
    assert spread[0] != spread[1] and torch.equal(chosen, both[spread.index(max(spread))])


def test_build_against_the_fusion(tmp_path, folder):
    out = tmp_path / 'set'
    assert main(['hdri', '--hdri', str(folder), '--out', str(out), '--views', '2', '--reference', 'fused', '--name', 'train']) == 0
    data = IEA40K(out, out / 'train.csv')
    frames = [r['img_id'] for r in data.rows if r['ref_id'] == 'a-000.png']
    assert len({r['ref_id'] for r in data.rows}) == 2 and frames == [f'a-000_F{i:02d}.png' for i in range(len(frames))]
    means = [data[i]['residual'].mean().item() for i in range(len(frames))]
    assert means[0] > 0 > means[-1] and means == sorted(means, reverse=True)
