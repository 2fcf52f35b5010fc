import numpy as np
import pytest
import torch
from PIL import Image

from datasets.iea40k import DatasetError, IEA40K, exposure_of, read_csv, read_label, split_by_scene
from datasets.images import ImageError
from datasets.transforms import crop, flip_horizontal, random_flip_crop_resize, resize


def make_set(root, scenes=2, size=256, seed=0):
    """A tiny set in the published layout; labels are exactly reference grey - picture grey."""
    rng = np.random.default_rng(seed)
    for folder in ('IEA_img', 'label/exposure_condition', 'label/global_best'):
        (root / folder).mkdir(parents=True)
    lines = ['img_id,ref_id,score']
    for s in range(scenes):
        ref = np.asarray(Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((size, size), Image.BICUBIC))
        Image.fromarray(ref).save(root / f'label/global_best/s{s}.png')
        for name, gain in (('N1', 0.7), ('P1', 1.3)):
            img = (ref * gain).clip(0, 255).astype(np.uint8)
            Image.fromarray(img).save(root / f'IEA_img/s{s}_{name}.png')
            grey = [np.asarray(Image.fromarray(a).convert('L')).astype(np.int16) for a in (ref, img)]
            np.save(root / f'label/exposure_condition/s{s}_{name}.npy', grey[0] - grey[1])
            lines.append(f's{s}_{name}.png,s{s}.png,{min(10, 5 + s)}')
    (root / 'all.csv').write_text('\n'.join(lines) + '\n')
    return root / 'all.csv'


def test_samples(tmp_path):
    data = IEA40K(tmp_path, make_set(tmp_path))
    s = data[0]
    assert len(data) == 4 and s['img_id'] == 's0_N1.png' and s['ref_id'] == 's0.png' and s['score'] == 5
    assert s['image'].shape == (3, 256, 256) and s['residual'].shape == s['mask'].shape == (1, 256, 256)
    assert s['residual'].mean() > 0.02 and data[1]['residual'].mean() < -0.02  # + under, - over
    stored = np.load(tmp_path / 'label/exposure_condition/s0_N1.npy')
    assert torch.equal((s['residual'][0] * 255).round().short(), torch.from_numpy(stored))


def test_size_and_validity(tmp_path):
    path = make_set(tmp_path)
    (tmp_path / 'label/validity').mkdir()
    valid = np.ones((256, 256), np.uint8)
    valid[:100] = 0
    np.save(tmp_path / 'label/validity/s0_N1.npy', valid)
    s = IEA40K(tmp_path, path, size=128)[0]
    assert s['image'].shape == (3, 128, 128) and s['mask'][0, :49].max() == 0 and s['mask'][0, 51:].min() == 1


def test_published_label_is_131200_bytes(tmp_path):
    make_set(tmp_path)
    assert (tmp_path / 'label/exposure_condition/s0_N1.npy').stat().st_size == 131_200


def sample(size=32):
    """A sample whose label is a function of the picture, so that it can be checked after any transform."""
    g = torch.Generator().manual_seed(0)
    image = torch.rand(3, size, size, generator=g)
    return {'image': image, 'residual': image[:1] - 0.5, 'mask': (image[:1] >= 0).float(), 'img_id': 'a'}


@pytest.mark.parametrize('transform', [flip_horizontal, lambda s: crop(s, 3, 5, 20, 17), lambda s: resize(s, (16, 24)),
                                       lambda s: random_flip_crop_resize(s, 24, torch.Generator().manual_seed(3))])
def test_picture_and_label_move_together(transform):
    s = transform(sample())
    assert s['image'].shape[1:] == s['residual'].shape[1:] == s['mask'].shape[1:] and s['img_id'] == 'a'
    assert torch.allclose(s['residual'], s['image'][:1] - 0.5, atol=1e-6)


def test_flip_of_the_picture_is_flip_of_the_label():
    s, f = sample(), flip_horizontal(sample())
    assert torch.equal(f['residual'], s['residual'].flip(-1)) and torch.equal(f['image'], s['image'].flip(-1))
    back = flip_horizontal(f)
    assert all(torch.equal(back[k], s[k]) for k in ('image', 'residual', 'mask'))


def test_augmentation_is_fixed_by_its_seed(tmp_path):
    data = IEA40K(tmp_path, make_set(tmp_path), augment=True)
    a, b, c = data[0, 7, 64], data[0, 7, 64], data[0, 8, 64]
    assert torch.equal(a['image'], b['image']) and torch.equal(a['residual'], b['residual']) and not torch.equal(a['image'], c['image'])
    assert a['image'].shape == (3, 64, 64)


def test_whole_pictures_are_windows_of_share_one():
    s = sample()
    for seed in range(6):
        out = random_flip_crop_resize(s, 32, torch.Generator().manual_seed(seed), min_window=1)
        assert any(torch.equal(out['image'], e['image']) for e in (s, flip_horizontal(s)))


@pytest.mark.parametrize('least', [0.1, 0.3, 0.7])
def test_windows_take_at_least_the_share_asked_for(least):
    column, row = torch.meshgrid(torch.linspace(0, 1, 100), torch.linspace(0, 1, 100), indexing='xy')
    s = {'image': torch.stack((column, row, row)), 'residual': row[None], 'mask': torch.ones(1, 100, 100)}
    shares = []
    for seed in range(40):
        r = random_flip_crop_resize(s, 100, torch.Generator().manual_seed(seed), least)['image']
        shares.append(((r[0].max() - r[0].min()) * (r[1].max() - r[1].min())).item())
    assert min(shares) > least - 0.03 and min(shares) < least + 0.15 and max(shares) > 0.85


def test_crop_outside_is_refused():
    with pytest.raises(ValueError, match='does not lie inside'):
        crop(sample(), 20, 0, 20, 20)


def test_exposure_of():
    assert [exposure_of(n) for n in ('a_N4.png', 'b-c_P0.png', 'x_P3.png', 'x_F03.png', 'x.png')] == [-4, 0, 3, None, None]


def test_split_by_scene():
    rows = [{'img_id': f'{s}_{e}', 'ref_id': f'{s}.png'} for s in range(50) for e in range(9)]
    parts = split_by_scene(rows, (0.8, 0.1, 0.1), seed=1)
    scenes = [{r['ref_id'] for r in p} for p in parts]
    assert [len(s) for s in scenes] == [40, 5, 5] and sum(map(len, parts)) == 450
    assert not scenes[0] & scenes[1] and not scenes[0] & scenes[2] and not scenes[1] & scenes[2]
    assert parts == split_by_scene(rows, (0.8, 0.1, 0.1), seed=1) != split_by_scene(rows, (0.8, 0.1, 0.1), seed=2)


def test_released_csvs_are_read_as_they_are(released_dir):
    for name, count, scenes in (('train_256', 36972, 4108), ('train_256_2ev', 20540, 4108), ('valid_256_2ev', 4375, 875)):
        rows = read_csv(released_dir / f'{name}.csv')
        assert len(rows) == count and len({r['ref_id'] for r in rows}) == scenes
        assert all(exposure_of(r['img_id']) is not None and 0 <= r['score'] <= 10 for r in rows)


def error_of(call, kind=DatasetError):
    with pytest.raises(kind) as e:
        call()
    assert '\n' not in str(e.value)
    return str(e.value)


def test_faults_are_named(tmp_path):
    path = make_set(tmp_path)
    assert 'no such file' in error_of(lambda: read_csv(tmp_path / 'none.csv'))
    for text, word in (('', 'no column'), ('img_id,score\na,1\n', 'no column ref_id'), ('img_id,ref_id,score\n', 'no rows'),
                       ('img_id,ref_id,score\na.png,a.png,good\n', 'line 2'), ('img_id,ref_id,score\n,a.png,1\n', 'line 2')):
        (tmp_path / 'bad.csv').write_text(text)
        assert word in error_of(lambda: read_csv(tmp_path / 'bad.csv')) and 'bad.csv' in error_of(lambda: read_csv(tmp_path / 'bad.csv'))
    assert 'no such folder' in error_of(lambda: IEA40K(tmp_path / 'nowhere', path))
    assert 'IEA_img' in error_of(lambda: IEA40K(tmp_path / 'label', path))

    data, label = IEA40K(tmp_path, path), tmp_path / 'label/exposure_condition/s0_N1.npy'
    good = np.load(label)
    for bad, word in ((good[:128], '(128, 256)'), (good.astype(np.int64), 'int64'), (good * 9, 'accepted: -255 to 255'),
                      (np.full((256, 256), np.nan, np.float32), 'not finite'), (np.array([{}]), 'npy')):
        np.save(label, bad, allow_pickle=True)
        message = error_of(lambda: data[0])
        assert word in message and 's0_N1.npy' in message
    label.write_bytes(b'\x93NUMPY\x01\x00v\x00' + b"{'descr': '<i2', 'fortran_order': False, 'shape': (300000, 300000), }".ljust(117) + b'\n')
    assert 's0_N1.npy' in error_of(lambda: data[0])  # claims 180 GB: refused, not allocated
    label.unlink()
    assert 'no such file' in error_of(lambda: data[0])
    (tmp_path / 'IEA_img/s0_P1.png').write_text('not a picture')
    assert 's0_P1.png' in error_of(lambda: data[1], ImageError)


def test_read_label_takes_floats(tmp_path):
    np.save(tmp_path / 'a.npy', np.full((256, 256), -51.0, np.float32))
    assert torch.allclose(read_label(tmp_path / 'a.npy'), torch.full((1, 256, 256), -0.2))


def test_every_part_of_a_split_gets_a_scene():
    for scenes in (3, 5, 6, 15):
        parts = split_by_scene([{'ref_id': str(i)} for i in range(scenes)], (0.8, 0.1, 0.1))
        assert min(map(len, parts)) >= 1 and sum(map(len, parts)) == scenes
    assert [len(p) for p in split_by_scene([{'ref_id': str(i)} for i in range(3)], (1, 0, 1))] in ([2, 0, 1], [1, 0, 2])
