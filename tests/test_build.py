import csv
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.brackets import fuse
from datasets.build import main, simulate_photograph, unique_names, write_csv
from datasets.iea40k import IEA40K, DatasetError, read_csv

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / 'img_to_pred'


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


def test_simulated_brackets(tmp_path, photographs):
    out = tmp_path / 'set'
    assert main(['simulate', '--photos', str(photographs), '--out', str(out), '--variant', 'bracket', '--name', 'train']) == 0
    data = IEA40K(out, out / 'train.csv')
    for scene in ('portrait', 'well_exposed'):
        own = [(r['img_id'], data[i]['residual'].mean().item()) for i, r in enumerate(data.rows) if r['ref_id'] == f'{scene}.png']
        names, means = zip(*own)
        assert 3 <= len(own) <= 9 and list(names) == [f'{scene}_F{i:02d}.png' for i in range(len(own))]
        assert list(means) == sorted(means, reverse=True) and means[0] > 0.1 and means[-1] < 0  # from dark to bright, the fusion between
    again, frames = simulate_photograph(photographs / 'portrait.jpg', variant='bracket')
    assert np.array_equal(np.asarray(again), fuse([np.asarray(p) for _, p in frames]))


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


@pytest.fixture
def scene(tmp_path, photographs):
    """A folder of brackets with one scene of five frames, 8.jpg the brightest but one."""
    _, frames = simulate_photograph(photographs / 'well_exposed.jpg')
    folder = tmp_path / 'stacks' / 'scene'
    folder.mkdir(parents=True)
    for n, (_, picture) in enumerate(frames[2:7]):
        picture.save(folder / f'{9 - n}.jpg', quality=95)  # file names do not give the order, brightness does
    return folder


def names(out, csv='all.csv'):
    return [r['img_id'] for r in read_csv(out / csv)]


@pytest.mark.parametrize('reference', ['fused', 'frame', 'zones'])
def test_stacks(tmp_path, scene, reference, capsys):
    out = tmp_path / reference
    assert main(['stacks', '--stacks', str(scene.parent), '--out', str(out), '--reference', reference, '--no-masks']) == 0
    data = IEA40K(out, out / 'all.csv')
    means = [data[i]['residual'].mean().item() for i in range(5)]
    assert names(out) == [f'scene_F0{i}.png' for i in range(5)]
    assert all(a > b for a, b in zip(means, means[1:]))
    assert (min(abs(m) for m in means) < 1e-6) == (reference == 'frame')  # the frame that is its own ideal
    assert not (out / 'label/validity').exists() and '5 frames of 1 scenes: 5 kept' in capsys.readouterr().out
    grey = [np.asarray(Image.open(f).convert('L')).astype(int) for f in (out / 'label/global_best/scene.png', out / 'IEA_img/scene_F01.png')]
    assert np.array_equal(np.load(out / 'label/exposure_condition/scene_F01.npy'), grey[0] - grey[1])


def test_masks_lie_beside_the_labels(tmp_path, scene):
    out = tmp_path / 'set'
    assert main(['stacks', '--stacks', str(scene.parent), '--out', str(out)]) == 0
    data, plain = IEA40K(out, out / 'all.csv'), np.asarray(Image.open(out / 'label/global_best/scene.png').convert('L'))
    mask = data[2]['mask'][0].numpy() > 0
    assert np.load(out / 'label/validity/scene_F02.npy').dtype == np.uint8 and mask.mean() > .6
    assert not mask[plain >= 253].any() and not mask[plain <= 2].any()
    rows = list(csv.DictReader(open(out / 'all_frames.csv', newline='')))
    assert [r['file'] for r in rows] == [f'{n}.jpg' for n in (9, 8, 7, 6, 5)] and all(float(r['valid']) > .6 for r in rows)
    main(['stacks', '--stacks', str(scene.parent), '--out', str(out), '--no-masks'])
    assert not list((out / 'label/validity').iterdir())  # none is left of the earlier build


def test_a_list_names_the_reference_frame(tmp_path, scene, capsys):
    listed, out = tmp_path / 'list.csv', tmp_path / 'set'
    listed.write_text('file,scene,is_reference\n' + ''.join(f'train/scene/{n}.jpg,scene,{int(n == 6)}\n' for n in range(5, 10)))
    command = ['stacks', '--stacks', str(scene.parent), '--out', str(out), '--no-masks', '--list', str(listed)]
    assert main([*command, '--reference', 'frame']) == 0
    assert names(out) == [f'scene_F0{i}.png' for i in (0, 1, 2, 4)]  # the reference itself is no input
    own = Image.open(scene / '6.jpg').resize((256, 256), Image.Resampling.BILINEAR)
    assert np.array_equal(np.asarray(own), np.asarray(Image.open(out / 'label/global_best/scene.png')))
    assert main(command) == 2 and '--reference frame' in capsys.readouterr().err
    listed.write_text('file,scene,is_reference\nx/1.jpg,other,1\n')
    assert main([*command, '--reference', 'frame']) == 2 and 'no reference for scene' in capsys.readouterr().err
    listed.write_text('file\nx\n')
    assert main([*command, '--reference', 'frame']) == 2 and 'no column' in capsys.readouterr().err


def test_misaligned_frames_are_dropped_and_named(tmp_path, scene, photographs, capsys):
    other = Image.open(photographs / 'portrait.jpg')
    other.save(scene / 'z.jpg', quality=95)
    lonely = scene.parent / 'lonely'
    lonely.mkdir()
    other.save(lonely / 'a.jpg')
    out = tmp_path / 'set'
    assert main(['stacks', '--stacks', str(scene.parent), '--out', str(out), '--no-masks']) == 0
    said = capsys.readouterr().out
    assert 'dropped: scene/z.jpg: similarity' in said and 'dropped, the whole scene:' in said and '5 kept' in said
    assert len(names(out)) == 5


def test_scenes_that_cannot_be_used_are_dropped_and_named(tmp_path, scene, photographs, capsys):
    for name in ('.thumbnails', 'empty', 'mixed', 'damaged'):
        (scene.parent / name).mkdir()
    for n, name in enumerate(('well_exposed', 'portrait')):
        Image.open(photographs / f'{name}.jpg').resize((100 + n, 80)).save(scene.parent / 'mixed' / f'{n}.jpg')
    (scene.parent / 'damaged/a.jpg').write_text('text')
    out = tmp_path / 'set'
    command = ['stacks', '--stacks', str(scene.parent), '--out', str(out), '--no-masks']
    assert main(command) == 0 and len(names(out)) == 5
    said = capsys.readouterr().out
    for words in (('empty', 'holds no pictures'), ('mixed', 'differ in size'), ('damaged', 'a.jpg')):
        assert any(all(w in line for w in ('dropped, the whole scene', *words)) for line in said.splitlines()), words
    assert 'of 4 scenes' in said and '.thumbnails' not in said
    assert [r['scene'] for r in csv.DictReader(open(out / 'all_frames.csv', newline=''))] == ['damaged', 'empty', 'mixed'] + ['scene'] * 5
    for picture in scene.iterdir():
        picture.unlink()
    assert main(command) == 2 and 'no scene is left' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['portrait', 'Portrait'])  # one file where case does not count
def test_another_splits_scenes_are_not_written_over(tmp_path, photographs, capsys, name):
    out, other = tmp_path / 'set', tmp_path / 'other'
    other.mkdir()
    Image.open(photographs / 'portrait.jpg').rotate(180).save(other / f'{name}.jpg')
    command = ['simulate', '--out', str(out), '--photos']
    assert main([*command, str(photographs), '--name', 'train']) == 0
    (out / 'train_frames.csv').write_text('scene,frame\nportrait,F00\n')  # no split file
    before = digest(out)
    capsys.readouterr()
    assert main([*command, str(other), '--name', 'val']) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and f'train.csv: holds a scene {name} already' in error and digest(out) == before
    assert main([*command, str(photographs), '--name', 'train']) == 0 and digest(out) == before  # again, over its own
    (other / f'{name}.jpg').rename(other / 'another.jpg')
    assert main([*command, str(other), '--name', 'val']) == 0
    both = ['simulate', '--photos', str(photographs), '--out', str(tmp_path / 'parts'), '--split', '.5', '0', '.5', '--seed']
    assert main([*both, '0']) == 0 and main([*both, '3']) == 0  # the parts of one call own their scenes together


def test_another_splits_brackets_are_not_written_over(tmp_path, scene, capsys):
    out = tmp_path / 'set'
    command = ['stacks', '--stacks', str(scene.parent), '--out', str(out), '--name']
    assert main([*command, 'train', '--no-masks']) == 0 and main([*command, 'val']) == 2
    assert 'train.csv: holds a scene scene already' in capsys.readouterr().err and not (out / 'label/validity').exists()
    (out / 'train.csv').unlink()  # train_frames.csv owns nothing
    assert main([*command, 'val']) == 0


def test_lists_that_are_no_text_end_in_one_line(tmp_path, scene, capsys):
    listed = tmp_path / 'list.csv'
    listed.write_bytes(b'\x89PNG\r\n\x1a\n\xff\x00\xfe')
    (tmp_path / 'hdri').mkdir()
    for command in (['stacks', '--stacks', str(scene.parent), '--reference', 'frame'], ['hdri', '--hdri', str(tmp_path / 'hdri')]):
        assert main([*command, '--list', str(listed), '--out', str(tmp_path / 'out')]) == 2
        error = capsys.readouterr().err
        assert 'list.csv: not a readable CSV file' in error and error.count('\n') == 1


@pytest.mark.parametrize('make, word', [(lambda p: None, 'no such folder'), (lambda p: p.mkdir(), 'no pictures'),
                                        (lambda p: (p.mkdir(), (p / 'a.jpg').write_text('text')), 'a.jpg')])
def test_faults_end_in_one_line(tmp_path, capsys, make, word):
    make(tmp_path / 'in')
    assert main(['simulate', '--photos', str(tmp_path / 'in'), '--out', str(tmp_path / 'out')]) == 2
    error = capsys.readouterr().err.strip()
    assert word in error and '\n' not in error
    assert not list(tmp_path.glob('out/*.csv'))


def test_each_photograph_is_a_scene_of_its_own(tmp_path, photographs):
    Image.open(photographs / 'portrait.jpg').rotate(180).save(photographs / 'portrait.png')
    out = tmp_path / 'set'
    assert main(['simulate', '--photos', str(photographs), '--out', str(out)]) == 0
    rows = read_csv(out / 'all.csv')
    assert len({r['img_id'] for r in rows}) == len(rows) == 27
    assert {r['ref_id'] for r in rows} == {'portrait.jpg.png', 'portrait.png.png', 'well_exposed.png'}
    data = IEA40K(out, out / 'all.csv')
    at_ev_0 = [i for i, r in enumerate(rows) if r['img_id'].endswith('P0.png')]
    assert all(abs(data[i]['residual'].mean()) < .01 for i in at_ev_0)  # each label is of its own picture


def test_scene_names():
    def names(*files):
        return list(unique_names([Path('root', f) for f in files], 'root').values())
    assert names('a.jpg', 'x/b.jpg') == ['a', 'b']
    assert names('x/a.jpg', 'y/a.jpg', 'b.jpg') == ['x-a', 'y-a', 'b']
    assert names('a.jpg', 'a.png', 'x/a.png') == ['a.jpg', 'a.png', 'x-a']
    assert names('IMG.JPG', 'x/img.jpg', 'b.jpg') == ['IMG', 'x-img', 'b']  # some file systems do not tell IMG.png from img.png
    with pytest.raises(DatasetError, match='would be scene x-a.jpg'):
        names('x-a.jpg', 'x/a.jpg', 'y/a.jpg')


@pytest.mark.parametrize('option', [['--split', '0', '0', '0'], ['--split', '1', '-1', '1'], ['--split', 'nan', '1', '1'],
                                    ['--workers', '0'], ['--workers', 'two'], ['--size', '0'], ['--limit', '-1']])
def test_bad_arguments_end_in_one_line_before_any_work(tmp_path, photographs, capsys, option):
    with pytest.raises(SystemExit) as end:
        main(['simulate', '--photos', str(photographs), '--out', str(tmp_path / 'out'), *option])
    error = capsys.readouterr().err
    assert end.value.code == 2 and option[0] in error and error.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_a_csv_is_whole_or_not_there(tmp_path):
    def rows():
        yield {'a': 1}
        raise OSError(28, 'No space left on device')
    (tmp_path / 'x.csv').write_text('before')
    with pytest.raises(OSError):
        write_csv(tmp_path / 'x.csv', ['a'], rows())
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [('x.csv', 'before')]


def test_the_data_page_shows_the_result_files():
    """The two tables about the simulation: every number as in its CSV, without the leading 0."""
    def table(name):
        with open(ROOT / 'benchmarks/results' / name, newline='') as f:
            return list(csv.DictReader(f))

    def shown(number):
        return number.replace('0.', '.', 1)
    r2 = {(r['trained on'], r['tested on']): f'{shown(r["max, min, levels"])} ({shown(r["percentiles"])})' for r in table('simulation_giveaway.csv')}
    kinds = list(dict.fromkeys(source for source, _ in r2))
    expected = [[k, r2[k, k], *((r2[k, 'real'], r2['real', k]) if k != 'real' else ('', ''))] for k in kinds]
    columns = ('mean', 'spread', 'spread within a picture', 'share |r| > .2', 'share black', 'share white', 'pictures with under and over',
               'distance to real', 'giveaway R^2 within', 'giveaway R^2 to real')
    for r in table('simulation_statistics.csv'):
        kind, _, change = r['kind'].partition(', ')
        numbers = ['' if kind == 'real' and 'real' in c else shown(r[c]) for c in columns]
        numbers[0] = numbers[0] if numbers[0].startswith('-') else f'+{numbers[0]}'
        expected.append([f'{kind}, `{change}`' if change else kind, *numbers])
    section = (ROOT / 'docs/data.md').read_text(encoding='utf-8').split('## Does the simulation look real?')[1]
    lines = [[cell.strip() for cell in line.strip('|').split('|')] for line in re.findall(r'^\|.*\|$', section, re.M)]
    assert [line for line in lines if line[0] and not line[0].startswith('---') and line[0] != 'trained on'] == expected
    text = ' '.join(line for line in section.splitlines() if not line.startswith('|'))
    in_tables = {cell for line in expected for cell in line}
    assert set(re.findall(r'\.\d{4}', text)) <= in_tables  # and those in the sentences
