"""The README's figures are those of the result file in the tree."""
import csv
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'benchmarks'))

import readme_table  # noqa: E402


def test_readme_shows_the_result_file():
    with open(ROOT / 'benchmarks/results/benchmark.csv', newline='') as f:
        text = readme_table.figures(list(csv.DictReader(f)))
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert text in readme and readme_table.insert(readme, text) == readme


def test_insert_keeps_the_rest():
    page = f'a\n{readme_table.START}\nold\n{readme_table.END}\nb\n'
    once = readme_table.insert(page, 'new')
    assert once.startswith('a\n') and once.endswith('\nb\n') and 'old' not in once and readme_table.insert(once, 'new') == once


@pytest.mark.parametrize('page', ['README.md', 'docs/data.md', 'checkpoints/MODEL_CARD.md', 'docs/add_a_method.md', 'docs/network.md', 'docs/scores.md',
                                  'docs/training.md', 'benchmarks/protocols.md'])
def test_links_lead_somewhere(page):
    import re
    path = ROOT / page
    for target in re.findall(r'\]\(([^)#]+)\)', path.read_text(encoding='utf-8')):
        if not target.startswith('http'):
            assert (path.parent / target).exists(), f'{page}: {target}'
