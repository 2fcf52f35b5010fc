import csv
from pathlib import Path

import pytest
from PIL import Image

from datasets.collect import git_blob, main, reduce

ROOT = Path(__file__).resolve().parent.parent


def test_git_blob():
    assert git_blob(b'') == 'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'  # git's well-known empty blob


def test_reduce():
    assert reduce(Image.new('RGB', (2000, 1000))).size == (512, 256)
    assert reduce(Image.new('RGB', (300, 200))).size == (300, 200)


def test_collect(tmp_path, capsys):
    clone = tmp_path / 'clones' / 'pictures'
    clone.mkdir(parents=True)
    Image.new('RGB', (1024, 600), (90, 120, 200)).save(clone / 'a.png')
    (clone / 'b.png').write_bytes(b'changed')
    blob = git_blob((clone / 'a.png').read_bytes())
    with open(tmp_path / 'list.csv', 'w', newline='') as f:
        writer = csv.writer(f)
        writer.writerow(['file', 'split', 'repository', 'path', 'git_blob'])
        writer.writerow(['train/a.jpg', 'train', 'someone/pictures', 'a.png', blob])
        writer.writerow(['train/b.jpg', 'train', 'someone/pictures', 'b.png', blob])
        writer.writerow(['test/c.jpg', 'test', 'someone/pictures', 'c.png', blob])
    args = ['--list', str(tmp_path / 'list.csv'), '--clones', str(tmp_path / 'clones'), '--out', str(tmp_path / 'out')]
    assert main(args) == 1
    error = capsys.readouterr().err
    assert 'b.png: not the listed version' in error and 'c.png: no such file; clone https://github.com/someone/pictures' in error
    assert Image.open(tmp_path / 'out/train/a.jpg').size == (512, 300)
    assert sorted(p.name for p in (tmp_path / 'out').rglob('*.jpg')) == ['a.jpg']


@pytest.mark.parametrize('content, message', [
    (b'name,licence\na.jpg,CC0\n', 'no column file, repository, path, split'), (b'', 'no column'), (b'\x89PNG\xff\xfe', 'not a readable CSV file'),
    (None, 'no such file'), (b'file,split,repository,path\na.jpg,test,pictures,a.png\n', "a.jpg: its repository is 'pictures'")])
def test_lists_that_cannot_be_used_end_in_one_line(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / 'list.csv').write_bytes(content)
    assert main(['--list', str(tmp_path / 'list.csv'), '--clones', str(tmp_path), '--out', str(tmp_path / 'out'), '--split', 'test']) in (1, 2)
    error = capsys.readouterr().err.strip()
    assert message in error and '\n' not in error and not (tmp_path / 'out').exists()


@pytest.mark.parametrize('name, count', [('photos', 1436), ('stacks', 771), ('hdri', 30)])
def test_lists_are_complete(name, count):
    with open(ROOT / 'docs/lists' / f'{name}.csv', newline='') as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == count == len({r['file'] for r in rows})
    assert all(r['split'] in ('train', 'val', 'test') and r['repository'].count('/') == 1 and r['path'] and r['licence'] for r in rows)
    scenes = {}
    for r in rows:
        scenes.setdefault(r.get('scene', r['file']), set()).add(r['split'])
    assert all(len(s) == 1 for s in scenes.values())  # no scene in two splits
