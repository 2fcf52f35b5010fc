"""Put the figures of benchmarks/results/benchmark.csv into the README, between the lines that say so.

    python benchmarks/main_table.py ...      makes that file and calls this
    python benchmarks/readme_table.py
"""
import argparse
import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START, END = '<!-- figures: benchmarks/readme_table.py -->', '<!-- end of figures -->'


def table(header, rows):
    rule = '|---' + '|---:' * (len(header) - 1) + '|'
    return '\n'.join(['| ' + ' | '.join(header) + ' |', rule] + ['| ' + ' | '.join(r) + ' |' for r in rows])


def folded(title, body):
    """A table that opens on a click, so that a reader finds the next chapter."""
    return f'<details><summary>{title}</summary>\n\n{body}\n\n</details>'


def number(text, decimals):
    return '-' if not text else f'{float(text):,.0f}' if decimals == 0 else f'{float(text):.{decimals}f}'


def figures(rows):
    """The README's tables out of the rows of a report in CSV."""
    sets = list(dict.fromkeys(r['set'] for r in rows))
    methods = list(dict.fromkeys(r['method'] for r in rows))
    cell = {(r['set'], r['method']): r for r in rows}
    first = cell[sets[0], methods[0]]
    titles = [m + ' [!]' * any(int(cell[s, m]['failed']) for s in sets) for m in methods]

    def by_set(show):
        return table(['method', *sets], [[t, *(show(cell[s, m]) for s in sets)] for t, m in zip(titles, methods)])

    def mae(r):
        same = '' if r['method'] == methods[0] else '‡' if not r.get('p_mae') else '†' if float(r['p_mae']) > 0.05 else ''
        return f'{number(r["mae"], 3)} ({number(r["mae_lo"], 3)}-{number(r["mae_hi"], 3)}){same}'
    about = ', '.join(f'{s}: {cell[s, methods[0]]["pictures"]} pictures of {cell[s, methods[0]]["scenes"]} scenes' for s in sets)
    parts = ['MAE with its 95 % interval over scenes, 256x256; lower is better. † not different from '
             f'{methods[0]} (p > .05, sign flips over scenes, Holm)' + ', ‡ not tested' * ('‡' in by_set(mae)) + ':', by_set(mae), f'Sets: {about}.',
             folded('SSIM of the signed maps and PSNR in dB; higher is better', by_set(lambda r: f'{number(r["ssim"], 3)}, {number(r["psnr"], 2)}')),
             folded("The error's two parts, level (the picture's mean offset) and detail",
                    by_set(lambda r: f'{number(r["level"], 3)}, {number(r["detail"], 3)}'))]
    evs = sorted({int(k[6:]) for r in rows for k in r if k.startswith('mae_ev') and r[k]})
    for s in sets[:1]:
        if evs and cell[s, methods[0]].get(f'mae_ev{evs[0]:+d}'):
            lines = [[t, *(number(cell[s, m][f'mae_ev{e:+d}'], 3) for e in evs)] for t, m in zip(titles, methods)]
            parts.append(folded(f'MAE by exposure on {s}, EV', table(['method', *(f'{e:+d}' if e else '0' for e in evs)], lines)))
    costs = (('params', 0), ('gflop', 2), ('ms', 1), ('peak_mb', 0))
    lines = [[t, *(number(cell[sets[0], m].get(k), d) for k, d in costs)] for t, m in zip(titles, methods)]
    parts.append(folded(f'Cost of one picture, 256x256, batch 1, fp32, on {first["device"]}',
                        table(['method', 'parameters', 'GFLOP', 'ms', 'peak MB'], lines)))
    if any('[!]' in t for t in titles):
        parts.append('[!] failed on some pictures: its figures are over the rest and not comparable.')
    return '\n\n'.join(parts)


def insert(readme, text):
    head, rest = readme.split(START)
    return f'{head}{START}\n\n{text}\n\n{END}{rest.split(END)[1]}'


def main(argv=None):
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    with open(ROOT / 'benchmarks/results/benchmark.csv', newline='') as f:
        text = figures(list(csv.DictReader(f)))
    readme = ROOT / 'README.md'
    readme.write_text(insert(readme.read_text(encoding='utf-8'), text), encoding='utf-8')


if __name__ == '__main__':
    sys.exit(main())
