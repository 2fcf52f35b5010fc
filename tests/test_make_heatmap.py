"""make_heatmap.py as the user sees it: each picture gets its map or its line, nothing is half done."""
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import make_heatmap
from datasets.images import read_image
from exposure import Predictor, heatmap
from exposure.predictor import DEFAULT_CHECKPOINT
from models import PIEANet, PIEANetConfig, save_model
from tests_support import awake

SCRIPT = Path(make_heatmap.__file__).resolve()
TINY = dict(levels=2, width=8, down=(1,), middle=1, structure_widths=(4, 8), token_width=8, heads=2, grid=4,
            structure_grid=4, kernels=(3,))
pytestmark = pytest.mark.usefixtures('keep_threads')  # the script works with one


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A small untrained network whose maps are not flat."""
    torch.manual_seed(0)
    model = awake(PIEANet(PIEANetConfig(**TINY)))
    path = tmp_path_factory.mktemp('weights') / 'tiny.safetensors'
    save_model(model, path)
    return path


def photo(height=60, width=90, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(path, picture=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture or photo()).save(path, **options)
    return path


def call(weights, *arguments):
    return make_heatmap.main(['--checkpoint', str(weights), '--device', 'cpu', *map(str, arguments)])


def command(weights, *arguments):
    options = ['--checkpoint', str(weights), '--device', 'cpu']
    return [sys.executable, str(SCRIPT), *options, *map(str, arguments)]


def tree(folder):
    """All files below a folder and their bytes, hidden ones too."""
    files = [path for path in sorted(folder.rglob('*')) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def scale(path):
    """A heat map's colours as numbers on [-1, 1]: -1 the under-exposed end."""
    return (np.asarray(Image.open(path)).astype(float) - heatmap.ZERO) / 127


def test_beside_the_picture_at_its_size(tmp_path, weights, capsys):
    names = ['a.png', 'b.jpg', 'sub/c.png']
    for seed, name in enumerate(names):
        save(tmp_path / name, photo(50 + seed, 80 - seed, seed))
    assert call(weights, tmp_path) == 0
    outputs = ['_exposure_legend.png', 'a_exposure.png', 'b_exposure.png']
    assert sorted(tree(tmp_path)) == sorted(names + outputs)
    with Image.open(tmp_path / 'a_exposure.png') as picture:
        assert picture.mode == 'P' and picture.size == (80, 50)
    assert 'a_exposure.png' in capsys.readouterr().out
    assert call(weights, tmp_path, '--recursive') == 0
    assert (tmp_path / 'sub' / 'c_exposure.png').exists()


def test_colours_are_the_predictors(tmp_path, weights):
    save(tmp_path / 'a.png')
    assert call(weights, tmp_path / 'a.png', '--save-npy', '--range', 0.3, '--colormap', 'RdBu_r') == 0
    residual = Predictor(weights, 'cpu').predict(tmp_path / 'a.png').residual
    stored = np.load(tmp_path / 'a_exposure.npy')
    assert stored.dtype == np.float32 and np.abs(stored - residual).max() < 1e-5
    assert np.abs(scale(tmp_path / 'a_exposure.png') - np.clip(-residual / 0.3, -1, 1)).max() <= 1 / 127
    table = np.array(Image.open(tmp_path / 'a_exposure.png').getpalette()).reshape(-1, 3)
    assert (table == heatmap.color_table('RdBu_r')).all()


def test_same_stems_keep_their_extension(tmp_path, weights):
    for name in ('a.png', 'a.jpg', 'b.png', 'deep/a.png'):
        save(tmp_path / name)
    assert call(weights, tmp_path, '--recursive') == 0
    for name in ('a.png_exposure.png', 'a.jpg_exposure.png', 'b_exposure.png', 'deep/a_exposure.png'):
        assert (tmp_path / name).exists(), name


@pytest.mark.parametrize('names', [['a.jpg', 'a.png', 'a.jpg.png'], ['a.jpg.png', 'a.png', 'a.jpg', 'a.jpg.png.png', 'A.tif'],
                                   ['a.jpg', 'a.jpg.png'], ['x/a.jpg', 'x/a.png', 'a.jpg.png']])
@pytest.mark.parametrize('out', [None, Path('out')])
def test_no_two_pictures_share_a_name(names, out):
    pictures = [Path(name) for name in names]
    targets = [job.target for job in make_heatmap.plan(pictures, [Path('.')], out)]
    assert len({target.casefold() for target in targets}) == len(names)
    for picture, target in zip(pictures, targets):
        assert Path(target).name in (picture.stem, picture.name)


def test_own_outputs_are_never_read(tmp_path, weights, capsys):
    save(tmp_path / 'a.png')
    assert call(weights, tmp_path, '--overlay', 0.5) == 0
    before = tree(tmp_path)
    assert call(weights, tmp_path, '--overlay', 0.5) == 0
    assert tree(tmp_path) == before
    assert 'left out 3 files' in capsys.readouterr().err
    assert call(weights, *sorted(tmp_path.glob('*.png')), '--overlay', 0.5) == 0  # as the shell expands *.png
    assert tree(tmp_path) == before


def test_photographs_named_like_heat_maps_are_read(tmp_path, weights, capsys):
    names = ['long_exposure.png', 'under_exposure_overlay.png']
    for seed, name in enumerate(names):
        save(tmp_path / name, photo(seed=seed))
    assert call(weights, tmp_path / names[0]) == 0  # named
    assert '1 of 1 pictures done' in capsys.readouterr().err and (tmp_path / 'long_exposure_exposure.png').exists()
    for left_out in (2, 3):  # in a folder, beside what earlier runs made of them
        assert call(weights, tmp_path) == 0
        error = capsys.readouterr().err
        assert '2 of 2 pictures done' in error and f'left out {left_out} files' in error
    save(tmp_path / 'old' / '_exposure_legend.png')  # of an earlier version, without a text
    save(tmp_path / 'old' / 'a.png')
    assert call(weights, tmp_path / 'old') == 0
    assert '1 of 1 pictures done' in capsys.readouterr().err


def test_no_heat_map_is_written_over_a_photograph_that_was_not_asked_for(tmp_path, weights):
    picture, own = save(tmp_path / 'a.jpg'), save(tmp_path / 'a_exposure.png', photo(seed=1))
    before = own.read_bytes()
    for _ in range(2):
        assert call(weights, picture) == 0
        assert own.read_bytes() == before and (tmp_path / 'a.jpg_exposure.png').exists()
    save(tmp_path / 'b.jpg'), save(tmp_path / 'b_exposure.png'), save(tmp_path / 'b.jpg_exposure.png', photo(seed=2))
    others = {name: (tmp_path / name).read_bytes() for name in ('b_exposure.png', 'b.jpg_exposure.png')}
    for _ in range(2):  # the longer name is taken too
        assert call(weights, tmp_path / 'b.jpg') == 0
        assert others == {name: (tmp_path / name).read_bytes() for name in others} and make_heatmap.is_output(tmp_path / 'b.jpg__exposure.png')
    own.write_bytes(before[: len(before) // 2])  # a damaged picture is nobody's
    assert call(weights, picture) == 0
    assert make_heatmap.is_output(own)


def test_no_heat_map_is_written_over_a_photograph(tmp_path, weights):
    names = ['long.jpg', 'long_exposure.png', 'other.jpg', 'Other_exposure_overlay.png']
    for seed, name in enumerate(names):
        save(tmp_path / name, photo(seed=seed))
    before = tree(tmp_path)
    for _ in range(2):
        assert call(weights, tmp_path, '--overlay', 0.5) == 0
        after = tree(tmp_path)
        assert {name: after[name] for name in names} == before
        for stem in ('long.jpg', 'long_exposure', 'other.jpg', 'Other_exposure_overlay'):
            assert f'{stem}_exposure.png' in after and f'{stem}_exposure_overlay.png' in after
        assert len(after) == 4 + 8 + 1


def test_out_keeps_the_tree_and_leaves_the_input_alone(tmp_path, weights):
    for name in ('x/a.png', 'y/a.png', 'y/z/a.png', 'y/.hidden/h.png', 'y/.h.png'):
        save(tmp_path / 'in' / name)
    before = tree(tmp_path / 'in')
    assert call(weights, tmp_path / 'in', '--recursive', '--out', tmp_path / 'one') == 0
    wanted = ['_exposure_legend.png', 'x/a_exposure.png', 'y/a_exposure.png', 'y/z/a_exposure.png']
    assert sorted(tree(tmp_path / 'one')) == wanted
    two = [tmp_path / 'in' / 'x', tmp_path / 'in' / 'y']
    assert call(weights, *two, '--recursive', '--out', tmp_path / 'two') == 0
    assert tree(tmp_path / 'two') == tree(tmp_path / 'one')
    assert tree(tmp_path / 'in') == before
    files = [tmp_path / 'in' / name for name in ('x/a.png', 'y/a.png', 'x/../x/a.png')]
    assert call(weights, *files, '--out', tmp_path / 'three') == 0
    assert sorted(tree(tmp_path / 'three')) == [*wanted[:-1]]


def test_tables(tmp_path, weights):
    for seed, name in enumerate(('b.png', 'a, "quoted".png', 'ü.png')):
        save(tmp_path / 'in' / name, photo(40, 60 + seed, seed))
    (tmp_path / 'in' / 'bad.jpg').write_text('no picture')
    tables = tmp_path / 'tables' / 's.csv', tmp_path / 'tables' / 's.json'
    assert call(weights, tmp_path / 'in', '--csv', tables[0], '--json', tables[1], '--threshold', 0.05) == 1
    with tables[0].open(newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert [Path(row['picture']).name for row in rows] == ['a, "quoted".png', 'b.png', 'ü.png']
    predictor = Predictor(weights, 'cpu', threshold=0.05)
    for row in rows:
        result = predictor.predict(row['picture'])
        assert (int(row['height']), int(row['width'])) == result.residual.shape
        assert Path(row['heatmap']).exists()
        for name in make_heatmap.COLUMNS:
            assert float(row[name]) == pytest.approx(getattr(result, name), abs=2e-5)
    content = json.loads(tables[1].read_text())
    assert len(content['pictures']) == 3 and content['settings']['threshold'] == 0.05
    failure = content['failures'][0]
    assert failure['picture'].endswith('bad.jpg') and 'bad.jpg' in failure['reason']


def test_a_legend_that_cannot_be_written_costs_no_table(tmp_path, weights, capsys):
    (tmp_path / '_exposure_legend.png').mkdir()
    assert call(weights, save(tmp_path / 'a.png'), '--csv', tmp_path / 's.csv', '--json', tmp_path / 's.json') == 1
    assert len((tmp_path / 's.csv').read_text().splitlines()) == 2 and (tmp_path / 's.json').exists()
    said = capsys.readouterr()
    assert 'score' in said.out and '_exposure_legend.png' in said.err.splitlines()[-1]


def test_bad_arguments_are_one_line_and_exit_2(tmp_path, weights, capsys):
    picture = save(tmp_path / 'a.png')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'text.safetensors').write_text('no weights')
    cases = [((tmp_path / 'missing.jpg',), 'missing.jpg'), ((tmp_path / 'empty',), 'no pictures')]
    for option, value, word in (('--range', 0, 'range'), ('--range', 'wide', 'range'), ('--size', 8, 'size'),
                                ('--overlay', 2, 'overlay'), ('--workers', 0, 'workers'),
                                ('--batch-size', -1, 'batch-size'), ('--out', picture, 'out'),
                                ('--max-pixels', 'many', 'max-pixels'), ('--colormap', 'mud', 'mud'),
                                ('--threshold', 1, 'threshold'), ('--device', 'abacus', 'abacus'), ('--device', 'mps', 'mps'),
                                ('--csv', picture, 'named like a picture'), ('--json', tmp_path / 'new.jpg', 'named like a picture'),
                                ('--mask-dir', tmp_path, 'is for --criteria'), ('--colour', 'red', 'colour')):
        cases.append(((picture, option, value), word))
    for arguments, word in cases:
        with pytest.raises(SystemExit) as caught:
            call(weights, *arguments)
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert word in error and error.count('\n') == 1, error
    for file in ('text.safetensors', 'nowhere.safetensors'):
        with pytest.raises(SystemExit) as caught:
            call(tmp_path / file, picture)
        error = capsys.readouterr().err
        assert caught.value.code == 2 and file in error and error.count('\n') == 1
    (tmp_path / 'text.jpg').write_text('no picture')
    for spelling in (tmp_path / 'text.jpg', f'{tmp_path}/./text.jpg', f'{tmp_path}//text.jpg'):
        assert call(weights, spelling) == 2
        assert 'text.jpg' in capsys.readouterr().err
    assert sorted(tree(tmp_path)) == ['a.png', 'text.jpg', 'text.safetensors']


def test_bad_pictures_are_listed_and_the_rest_is_done(tmp_path, weights, capsys):
    data = io.BytesIO()
    photo().save(data, 'JPEG')
    for index in range(5):
        save(tmp_path / f'good{index}.png', photo(seed=index))
    (tmp_path / 'truncated.jpg').write_bytes(data.getvalue()[:-300])
    (tmp_path / 'empty.png').write_bytes(b'')
    (tmp_path / 'text.jpg').write_text('no picture')
    (tmp_path / 'folder.jpg').mkdir()
    (tmp_path / 'dangling.jpg').symlink_to(tmp_path / 'nowhere.jpg')
    (tmp_path / 'good0_exposure.png').mkdir()  # a folder where the heat map should go
    assert call(weights, tmp_path) == 1
    error = capsys.readouterr().err
    assert '4 of 9 pictures done' in error and '5 failed' in error
    for name in ('truncated.jpg', 'empty.png', 'text.jpg', 'dangling.jpg', 'good0'):
        assert sum(name in line for line in error.splitlines()) == 1, name
    made = sorted(name for name in tree(tmp_path) if name.endswith('_exposure.png'))
    assert made == [f'good{index}_exposure.png' for index in range(1, 5)]
    assert not [name for name in tree(tmp_path) if name.endswith('.tmp')]


def test_skip_existing(tmp_path, weights, monkeypatch):
    for index in range(4):
        save(tmp_path / 'in' / f'{index}.png', photo(seed=index))
    arguments = [tmp_path / 'in', '--out', tmp_path / 'out', '--csv', tmp_path / 'out' / 's.csv',
                 '--overlay', 0.5, '--save-npy']
    assert call(weights, *arguments) == 0
    complete = tree(tmp_path / 'out')
    read = []

    def spy(path, *rest):
        read.append(Path(path).name)
        return read_image(path, *rest)

    monkeypatch.setattr(make_heatmap, 'read_image', spy)
    assert call(weights, *arguments, '--skip-existing') == 0
    assert read == [] and tree(tmp_path / 'out') == complete  # the table too: heat maps hold their scores
    (tmp_path / 'out' / '0_exposure.png').unlink()
    (tmp_path / 'out' / '1_exposure.npy').unlink()
    (tmp_path / 'out' / '2_exposure_overlay.png').write_bytes(complete['2_exposure_overlay.png'][:100])
    assert call(weights, *arguments, '--skip-existing') == 0
    assert sorted(read) == ['0.png', '1.png', '2.png'] and tree(tmp_path / 'out') == complete
    read.clear()
    assert call(weights, *arguments, '--skip-existing', '--range', 0.25) == 0  # not what was asked for now
    assert len(read) == 4
    read.clear()
    assert call(weights, *arguments) == 0
    assert len(read) == 4 and tree(tmp_path / 'out') == complete


def test_skip_existing_knows_the_picture(tmp_path, weights, monkeypatch):
    """What is there counts for the picture that it was made from only: not for another of its name, nor a later one."""
    a, b = (save(tmp_path / folder / 'IMG_0001.bmp', photo(seed=seed)) for seed, folder in enumerate('ab'))
    assert a.stat().st_size == b.stat().st_size
    read = []

    def spy(path, *rest):
        read.append(str(path))
        return read_image(path, *rest)

    def scores(folder, *options):
        read.clear()
        flags = ['--out', tmp_path / 'out', '--csv', tmp_path / 's.csv', *options]
        assert call(weights, folder, *flags) == 0
        [row] = csv.DictReader((tmp_path / 's.csv').open())
        return float(row['mean_residual'])

    monkeypatch.setattr(make_heatmap, 'read_image', spy)
    flags = ['--overlay', 0.5, '--save-npy', '--skip-existing']
    first = scores(a.parent, *flags)
    fresh = tree(tmp_path / 'out')
    assert scores(b.parent, *flags) != first and read == [str(b)]
    assert scores(a.parent, *flags) == first and read == [str(a)] and tree(tmp_path / 'out') == fresh
    scores(b.parent)  # the heat map alone: the overlay and the residual are still those of the other picture
    scores(b.parent, '--save-npy', '--skip-existing')
    assert read == [str(b)]
    scores(b.parent, *flags)
    assert read == [str(b)]
    scores(b.parent, *flags)
    assert read == []

    shutil.copy2(b, a)  # replaced under its own name, by a copy with the same time: the same picture as b
    scores(a.parent, *flags)
    assert read == []
    save(a, photo(seed=7))
    os.utime(a, ns=(0, b.stat().st_mtime_ns + 1))  # as large as before, but later
    scores(a.parent, *flags)
    assert read == [str(a)]
    other = save(a.with_suffix('.png'))
    a.unlink()
    scores(other.parent, *flags)  # the same stem, another file
    assert read == [str(other)]
    for path in (tmp_path / 'out').glob('*.png'):
        assert str(tmp_path).encode() not in path.read_bytes()  # maps may be passed on


def test_skip_existing_knows_the_mask(tmp_path, weights):
    picture, mask = save(tmp_path / 'in/a.png'), tmp_path / 'masks/a.png'

    def score():
        flags = ['--criteria', 'portrait', '--mask-dir', mask.parent, '--csv', tmp_path / 's.csv', '--skip-existing']
        assert call(weights, picture, *flags) == 0
        [row] = csv.DictReader((tmp_path / 's.csv').open())
        return row['criteria_score'], row['criteria_why']

    half = Image.new('L', (90, 60), 0)
    half.paste(255, (0, 0, 45, 60))
    save(mask, half)
    first = score()
    save(mask, half.transpose(Image.Transpose.ROTATE_180))
    os.utime(mask, ns=(0, 1))
    assert score() != first


def test_skip_existing_needs_the_picture(tmp_path, weights, monkeypatch, capsys):
    picture = save(tmp_path / 'a.png')
    assert call(weights, picture) == 0
    picture.unlink()
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(str(picture).encode())))
    assert call(weights, '-', '--skip-existing') == 1
    assert 'a.png: no such file' in capsys.readouterr().err


@pytest.mark.parametrize('workers, batch_size', [(1, 1), (3, 1), (3, 4)])
def test_same_files_whatever_the_threads(tmp_path, weights, workers, batch_size):
    for index in range(7):
        save(tmp_path / 'in' / f'{index}.png', photo(40 + 30 * (index % 2), 60, index))
    call(weights, tmp_path / 'in', '--out', tmp_path / 'a', '--workers', 2)
    call(weights, tmp_path / 'in', '--out', tmp_path / 'b', '--workers', workers, '--batch-size', batch_size)
    if batch_size == 1:
        assert tree(tmp_path / 'a') == tree(tmp_path / 'b')
    for path in sorted((tmp_path / 'a').glob('?_exposure.png')):
        assert np.abs(scale(path) - scale(tmp_path / 'b' / path.name)).max() <= 1 / 127 + 1e-9


def test_default_is_the_samples(tmp_path, weights, monkeypatch):
    save(tmp_path / 'img_to_pred' / 'a.png')
    monkeypatch.setattr(make_heatmap, 'SAMPLES', tmp_path / 'img_to_pred')
    assert call(weights) == 0
    assert (tmp_path / 'img_to_pred' / 'a_exposure.png').exists()


def test_a_full_disk_leaves_nothing_behind(tmp_path, weights, monkeypatch, capsys):
    save(tmp_path / 'a.png')
    save(tmp_path / 'b.png')
    real = Path.write_bytes

    def write_bytes(self, data):
        if len(data) > 2000 and self.name.endswith('.tmp') and not getattr(write_bytes, 'failed', False):
            write_bytes.failed = True
            real(self, bytes(data)[:100])
            raise OSError(28, 'No space left on device', str(self))
        return real(self, data)

    monkeypatch.setattr(Path, 'write_bytes', write_bytes)
    assert call(weights, tmp_path, '--workers', 1) == 1
    assert 'No space left' in capsys.readouterr().err
    assert sorted(tree(tmp_path)) == ['_exposure_legend.png', 'a.png', 'b.png', 'b_exposure.png']


def test_pixel_budget():
    budget = make_heatmap.PixelBudget(10)
    budget.acquire(25)  # larger than the budget: alone
    budget.release(25)
    budget.acquire(6)
    budget.acquire(4)
    assert budget.used == 10
    budget.release(6)
    budget.acquire(5)
    assert budget.used == 9


def run_script(weights, *arguments, **options):
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    options.update(capture_output=True, env=environment, timeout=120)
    return subprocess.run(command(weights, *arguments), **options)


@pytest.mark.slow
def test_list_on_standard_input_from_another_folder(tmp_path, weights):
    names = ['a.png', 'sub/ü 写真.png', 'sub/line.png']
    for name in names:
        save(tmp_path / name)
    lines = '\n'.join([*names, 'missing.png', '']).encode()
    result = run_script(weights, '-', '--out', 'maps', input=lines, cwd=tmp_path)
    assert result.returncode == 1
    assert b'missing.png: no such file' in result.stderr and b'3 of 4' in result.stderr
    assert len(list((tmp_path / 'maps').rglob('*_exposure.png'))) == 3


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path, weights):
    pytest.importorskip('torch.distributed')
    for index in range(9):
        save(tmp_path / 'in' / f'{index}.png', photo(40 + index, 60, index))
    (tmp_path / 'in' / 'bad.jpg').write_text('no picture')
    tail = ['--save-npy', '--checkpoint', str(weights), '--device', 'cpu']
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
                str(SCRIPT)]
    for start, name in (([sys.executable, str(SCRIPT)], 'one'), (torchrun, 'two'), (torchrun, 'list')):
        out = tmp_path / 'out'
        source, stdin = [str(tmp_path / 'in')], b''
        if name == 'list':
            source = ['-']
            stdin = '\n'.join(str(path) for path in sorted((tmp_path / 'in').iterdir())).encode()
        tables = ['--csv', str(out / 's.csv'), '--json', str(out / 's.json')]
        arguments = [*start, *source, '--out', str(out), *tables, *tail]
        result = subprocess.run(arguments, capture_output=True, env=environment, timeout=200, input=stdin)
        assert result.returncode == 1, result.stderr
        assert b'9 of 10 pictures done' in result.stderr and b'bad.jpg: not a picture' in result.stderr
        out.rename(tmp_path / name)
    assert tree(tmp_path / 'one') == tree(tmp_path / 'two') == tree(tmp_path / 'list')


@pytest.mark.slow
def test_killed_and_continued_equals_uninterrupted(tmp_path, weights):
    for index in range(40):
        save(tmp_path / 'in' / f'{index:02}.jpg', photo(400, 600, index))
    arguments = [tmp_path / 'in', '--out', tmp_path / 'out', '--csv', tmp_path / 'out' / 's.csv',
                 '--overlay', 0.5, '--save-npy']
    assert run_script(weights, *arguments).returncode == 0
    complete = tree(tmp_path / 'out')
    shutil.rmtree(tmp_path / 'out')
    rng, kills = np.random.default_rng(0), 0
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    for _ in range(12):
        before = len(list((tmp_path / 'out').glob('*'))) if (tmp_path / 'out').exists() else 0
        process = subprocess.Popen(command(weights, *arguments, '--skip-existing'), env=environment,
                                   stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None:  # first new files, then a random moment later
            if (tmp_path / 'out').exists() and len(list((tmp_path / 'out').glob('*'))) > before:
                break
        try:
            process.wait(rng.uniform(0, 0.15))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.wait()
        for path in (tmp_path / 'out').glob('*.png'):  # whatever is there is whole
            assert path.read_bytes() == complete[path.name]
    assert kills >= 3
    assert run_script(weights, *arguments, '--skip-existing').returncode == 0
    assert tree(tmp_path / 'out') == complete


def planted(folder, big):
    """Every kind of picture and fault: {name: RGB picture whose map it must get}, {name: reason}."""
    plain = photo(120, 180)
    rng = np.random.default_rng(0)
    good, bad = {}, {}

    def add(name, picture=None, like=plain, **options):
        save(folder / name, picture or plain, **options)
        good[name] = like.convert('RGB')

    add('rgb.png')
    add('rgb.bmp')
    add('rgb.tif')
    add('lossless.webp', lossless=True)
    add('photo.jpg', quality=95, subsampling=0)
    add('progressive.jpeg', quality=95, progressive=True, subsampling=0)
    add('grey.png', plain.convert('L'), plain.convert('L'))
    add('bilevel.png', plain.convert('1'), plain.convert('1'))
    add('palette.png', plain.quantize(200), plain.quantize(200))
    add('cmyk.tif', plain.convert('CMYK'))
    add('cmyk.jpg', plain.convert('CMYK'), quality=95, subsampling=0)
    add('opaque.png', plain.convert('RGBA'))
    half = plain.convert('RGBA')
    half.putalpha(Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 90, 1).repeat(120, 0)))
    on_white = Image.new('RGB', plain.size, 'white')
    on_white.paste(plain, mask=half.getchannel('A'))
    add('alpha.png', half, on_white)
    add('grey_alpha.png', half.convert('LA'), on_white.convert('L'))
    deep = np.asarray(plain.convert('L')).astype(np.uint16) * 257
    add('grey16.png', Image.fromarray(deep), plain.convert('L'))
    add('grey16.tif', Image.fromarray(deep), plain.convert('L'))
    add('float.tif', Image.fromarray((deep / 65535).astype(np.float32)), plain.convert('L'))
    for orientation in (3, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = plain.rotate(180 if orientation == 3 else 90, expand=True)
        add(f'exif{orientation}.jpg', turned, exif=exif, quality=95, subsampling=0)
    add('übergröße 写真 🌅.png')
    add(os.fsdecode(b'caf\xe9 in latin-1.png'))
    add('two\nlines.png')
    add('l' * 230 + '.png')
    add("quote's \"and\" $(echo), ;.png")
    add('sub/folder/deep.png')
    add('one_pixel.png', Image.new('RGB', (1, 1), (40, 50, 60)), Image.new('RGB', (1, 1), (40, 50, 60)))
    strip = photo(30, 20000)
    add('strip.png', strip, strip)
    if big:
        large = Image.fromarray(rng.integers(0, 256, (61, 82, 3), dtype=np.uint8)).resize((8165, 6124))
        add('large.jpg', large, large, quality=95, subsampling=0)

    data = io.BytesIO()
    plain.save(data, 'JPEG')
    for name, content, reason in (
            ('truncated.jpg', data.getvalue()[:-500], 'truncated'), ('empty.jpg', b'', 'empty'),
            ('text.jpg', b'some text', 'not a picture'), ('page.png', b'<html></html>', 'not a picture'),
            ('script.png', b'%!PS-Adobe-3.0 EPSF-3.0\n', 'not a picture'),
            ('header.png', b'\x89PNG\r\n\x1a\n', 'PNG'),
            ('garbage.tif', b'II*\0' + bytes(rng.integers(0, 256, 500, dtype=np.uint8)), 'TIFF')):
        (folder / name).write_bytes(content)
        bad[name] = reason
    Image.new('1', (20000, 12000)).save(folder / 'bomb.png')
    bad['bomb.png'] = 'limit'
    Image.fromarray(np.full((9, 9), 300.0, np.float32)).save(folder / 'hdr.tif')
    bad['hdr.tif'] = 'float'
    Image.fromarray(np.full((9, 9), 70000, np.int32)).save(folder / 'int32.tif')
    bad['int32.tif'] = '32-bit'
    (folder / 'dangling.jpg').symlink_to(folder / 'nowhere.jpg')
    bad['dangling.jpg'] = 'link'
    add('l' * 245 + '.png')
    bad['l' * 245 + '.png'] = 'too long'  # the picture can have this name, but not with _exposure added
    del good['l' * 245 + '.png']
    if hasattr(os, 'mkfifo'):
        os.mkfifo(folder / 'pipe.png')
        bad['pipe.png'] = 'regular'
    if shutil.which('setpriv') or os.geteuid() != 0:
        save(folder / 'locked' / 'locked.png')
        bad['locked/locked.png'] = 'Permission denied'
        (folder / 'locked').chmod(0o555)
        (folder / 'closed').mkdir(mode=0)
        bad['closed'] = 'cannot be read'
    (folder / 'directory.jpg').mkdir()
    return good, bad


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='plants pipes and links, measures memory')
def test_planted_inputs(tmp_path):
    """Each gets its map, equal to the plain RGB picture's, or its own line; memory is bounded."""
    weights = DEFAULT_CHECKPOINT  # an untrained network's maps may hang on the noise of a JPEG
    folder = tmp_path / 'in'
    folder.mkdir()
    good, bad = planted(folder, big=True)
    assert len(good) + len(bad) >= 39
    start = command(weights, folder, '--recursive', '--workers', 2)
    if os.geteuid() == 0:  # as an ordinary user, whom a read-only folder stops
        rights = '-dac_override,-dac_read_search'
        start = ['setpriv', f'--bounding-set={rights}', f'--inh-caps={rights}', *start]
    watch = ('import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); '
             'print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)')
    result = subprocess.run([sys.executable, '-c', watch, *start], capture_output=True, timeout=500,
                            env={**os.environ, 'OMP_NUM_THREADS': '1'})
    (folder / 'locked').chmod(0o755)
    error = result.stderr.decode()
    assert result.returncode == 1, error
    assert f'{len(good)} of {len(good) + len(bad)} pictures done' in error
    for name, reason in bad.items():
        lines = [line for line in error.splitlines() if f'{name}:' in line]
        assert len(lines) == 1 and reason in lines[0], (name, lines)
    predictor = Predictor(weights, 'cpu')
    for name, like in good.items():
        path = folder / name
        shared = sum(Path(other).with_suffix('') == Path(name).with_suffix('') for other in [*good, *bad]) > 1
        target = path.with_name((path.name if shared else path.stem) + '_exposure.png')
        with Image.open(target) as picture:
            assert picture.size == like.size, name
        shown = scale(target) * heatmap.DEFAULT_RANGE
        expected = np.clip(-predictor.predict(like).residual, -0.5, 0.5)
        difference = np.abs(shown - expected)
        lossy = name.endswith(('jpg', 'jpeg'))  # here the pixels themselves are off by more, one by one
        assert (difference.mean() if lossy else difference.max()) <= 2 / 255, name
    made = {path.name for path in folder.rglob('*_exposure*')}
    assert len(made) == len(good) + 1
    assert not list(folder.rglob('*.tmp'))
    peak = int(result.stdout.split()[-1]) / 2**20
    assert peak < 2, f'{peak:.2f} GiB'
    print(f'peak memory {peak:.2f} GiB')


def test_release_weights_give_the_release_heat_maps(tmp_path, released_dir):
    """`--range auto` with the authors' weights is what the authors published for their two samples."""
    weights = sorted(released_dir.glob('wavelet_epoch_2*.pth'))[0]
    assert call(weights, released_dir / 'samples', '--range', 'auto', '--out', tmp_path) == 0
    for published in sorted((released_dir / 'samples').glob('*_exposure.png')):
        ours = Image.open(tmp_path / published.name).convert('RGB')
        theirs = Image.open(published).convert('RGB').resize(ours.size, Image.Resampling.BILINEAR)
        difference = np.abs(np.asarray(ours).astype(int) - np.asarray(theirs))
        assert difference.mean() <= 6  # of 255; theirs went through a figure at half the size


def test_criteria_give_a_score_and_its_reason(weights, tmp_path, capsys):
    folder = tmp_path / 'in'
    save(folder / 'a.png')
    assert call(weights, folder, '--criteria', 'paper', '--json', tmp_path / 'r.json', '--csv', tmp_path / 'r.csv') == 0
    [row] = list(csv.DictReader((tmp_path / 'r.csv').open()))
    assert 0 <= float(row['criteria_score']) <= 100 and row['criteria_why'] in capsys.readouterr().out


def test_tables_need_names_of_their_own(weights, tmp_path, capsys):
    save(tmp_path / 'a.png')
    with pytest.raises(SystemExit) as stop:
        call(weights, tmp_path, '--csv', tmp_path / 'r', '--json', tmp_path / 'r')
    assert stop.value.code == 2 and 'both --csv and --json' in capsys.readouterr().err and not (tmp_path / 'r').exists()


@pytest.mark.skipif(os.name == 'nt', reason='needs a POSIX pipe')
def test_a_reader_that_has_seen_enough_is_no_failure(weights, tmp_path):
    save(tmp_path / 'a.png')
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command(weights, tmp_path), stdout=writing, stderr=subprocess.PIPE, timeout=120)
    os.close(writing)
    assert done.returncode == 0 and b'Error' not in done.stderr and (tmp_path / 'a_exposure.png').exists()


def test_criteria_faults_are_one_line(weights, tmp_path, capsys):
    folder = tmp_path / 'in'
    save(folder / 'a.png')
    for flags, word in ((['--criteria', 'nobodys'], 'nobodys'), (['--criteria', 'portrait'], '--mask-dir'),
                        (['--criteria', 'portrait', '--mask-dir', str(tmp_path / 'no')], 'not a folder')):
        with pytest.raises(SystemExit) as stop:
            call(weights, folder, *flags)
        assert stop.value.code == 2 and word in capsys.readouterr().err
    (tmp_path / 'masks').mkdir()
    assert call(weights, folder, '--criteria', 'portrait', '--mask-dir', tmp_path / 'masks') == 1
    assert 'a.png' in capsys.readouterr().err
    save(tmp_path / 'masks' / 'a.png', Image.new('L', (90, 60), 255))
    assert call(weights, folder, '--criteria', 'portrait', '--mask-dir', tmp_path / 'masks') == 0
