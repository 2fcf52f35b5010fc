import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.build import main, read_bracket, simulate_photograph
from datasets.iea40k import IEA40K, read_csv

SAMPLES = Path(__file__).resolve().parent.parent / 'img_to_pred'


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / 'photographs'
    folder.mkdir()
    for name in ('well_exposed', 'portrait'):
        picture = Image.open(SAMPLES / f'{name}.jpg')
        picture.resize((200, 160)).save(folder / f'{name}.jpg', quality=95)
    return folder


def digest(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob('*')) if p.is_file()}


@pytest.mark.parametrize('variant', ['photos', 'plain', 'mixed'])
def test_simulate(tmp_path, photographs, variant):
    out = tmp_path / 'set'
    assert main(['simulate', '--photos', str(photographs), '--out', str(out), '--variant', variant, '--name', 'test']) == 0
    rows = read_csv(out / 'test.csv')
    data = IEA40K(out, out / 'test.csv')
    assert len(rows) == len(data) == 18 and rows[0]['ref_id'] in ('portrait.png', 'well_exposed.png')
    means = []
    for i, row in enumerate(rows):
        label = np.load(out / 'label/exposure_condition' / (Path(row['img_id']).stem + '.npy'))
        picture = Image.open(out / 'IEA_img' / row['img_id'])
        reference = Image.open(out / 'label/global_best' / row['ref_id'])
        assert label.dtype == np.int16 and label.shape == (256, 256) and picture.size == reference.size == (256, 256)
        grey = [np.asarray(p.convert('L')).astype(np.int16) for p in (reference, picture)]
        assert np.array_equal(label, grey[0] - grey[1])
        assert row['score'] == pytest.approx(10 * (1 - np.abs(label).mean() / 255), abs=1e-4)
        means.append(data[i]['residual'].mean().item())
    if variant == 'mixed':
        labels = np.stack([data[i]['residual'].numpy() for i in range(18)])
        both = ((labels > .1).mean((1, 2, 3)) > .05) & ((labels < -.1).mean((1, 2, 3)) > .05)
        assert both.mean() > .3  # under and over in one picture
    else:
        assert [r['img_id'].rsplit('_', 1)[1] for r in rows[:9]] == [f'{s}.png' for s in ('N4 N3 N2 N1 P0 P1 P2 P3 P4'.split())]
        assert all(a > b for scene in (means[:9], means[9:]) for a, b in zip(scene, scene[1:]))  # brighter: less under
        assert abs(means[4]) < .01


def test_same_seed_same_bytes(tmp_path, photographs):
    for name, workers in (('a', '1'), ('b', '2')):
        main(['simulate', '--photos', str(photographs), '--out', str(tmp_path / name), '--workers', workers])
    main(['simulate', '--photos', str(photographs), '--out', str(tmp_path / 'c'), '--seed', '1'])
    assert digest(tmp_path / 'a') == digest(tmp_path / 'b') != digest(tmp_path / 'c')


def test_the_first_scenes_do_not_depend_on_the_rest(tmp_path, photographs):
    main(['simulate', '--photos', str(photographs), '--out', str(tmp_path / 'a'), '--limit', '1'])
    main(['simulate', '--photos', str(photographs), '--out', str(tmp_path / 'b')])
    a, b = digest(tmp_path / 'a'), digest(tmp_path / 'b')
    assert all(b[k] == v for k, v in a.items() if not k.endswith('.csv'))


def test_split_by_scene(tmp_path, photographs):
    main(['simulate', '--photos', str(photographs), '--out', str(tmp_path / 'a'), '--split', '.5', '0', '.5'])
    scenes = [{line.split(',')[1] for line in (tmp_path / f'a/{n}.csv').read_text().splitlines()[1:]} for n in ('train', 'val', 'test')]
    assert [len(s) for s in scenes] == [1, 0, 1] and not scenes[0] & scenes[2]


def test_ev_zero_is_the_photograph_up_to_jpeg(photographs):
    reference, frames = simulate_photograph(photographs / 'portrait.jpg')
    fine = dict(frames)['P0']
    difference = np.asarray(reference, int) - np.asarray(fine, int)
    assert np.abs(difference).mean() < 4


def test_stacks(tmp_path, photographs):
    _, frames = simulate_photograph(photographs / 'well_exposed.jpg')
    scene = tmp_path / 'stacks' / 'scene'
    scene.mkdir(parents=True)
    for n, (name, picture) in enumerate(frames[2:7]):
        picture.save(scene / f'{9 - n}.jpg', quality=95)  # file names do not give the order, brightness does
    for reference in ('fused', 'frame'):
        out = tmp_path / reference
        assert main(['stacks', '--stacks', str(tmp_path / 'stacks'), '--out', str(out), '--reference', reference]) == 0
        data = IEA40K(out, out / 'all.csv')
        means = [data[i]['residual'].mean().item() for i in range(5)]
        assert [r['img_id'] for r in data.rows] == [f'scene_F0{i}.png' for i in range(5)]
        assert all(a > b for a, b in zip(means, means[1:]))
    assert min(abs(m) for m in means) < 1e-6  # the frame that is its own ideal


def test_frames_of_different_sizes_are_refused(tmp_path):
    scene = tmp_path / 'stacks' / 'scene'
    scene.mkdir(parents=True)
    for n in (20, 21):
        Image.new('RGB', (n, 20)).save(scene / f'{n}.png')
    with pytest.raises(ValueError, match='frames differ in size'):
        read_bracket(scene)


@pytest.mark.parametrize('make, word', [(lambda p: None, 'no such folder'), (lambda p: p.mkdir(), 'no pictures'),
                                        (lambda p: (p.mkdir(), (p / 'a.jpg').write_text('text')), 'a.jpg')])
def test_faults_end_in_one_line(tmp_path, capsys, make, word):
    make(tmp_path / 'in')
    assert main(['simulate', '--photos', str(tmp_path / 'in'), '--out', str(tmp_path / 'out')]) == 2
    error = capsys.readouterr().err.strip()
    assert word in error and '\n' not in error
    assert not list(tmp_path.glob('out/*.csv'))
