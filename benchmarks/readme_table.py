"""Put the figures of benchmarks/results/benchmark.csv into the README, between the lines that say so.

    python eval_benchmark.py ... --out benchmarks/results/benchmark.csv && python benchmarks/readme_table.py
"""
import argparse
import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START, END = '<!-- figures: benchmarks/readme_table.py -->', '<!-- end of figures -->'


def table(header, rows):
    return '\n'.join(['| ' + ' | '.join(header) + ' |', '|---' + '|---:' * (len(header) - 1) + '|', *('| ' + ' | '.join(r) + ' |' for r in rows)])


def figures(rows):
    """The README's tables out of the rows of a report in CSV."""
    sets = list(dict.fromkeys(r['set'] for r in rows))
    methods = list(dict.fromkeys(r['method'] for r in rows))
    cell = {(r['set'], r['method']): r for r in rows}

    def mae(s, m):
        r = cell[s, m]
        return f'{float(r["mae"]):.3f} ({float(r["mae_lo"]):.3f}-{float(r["mae_hi"]):.3f})'
    about = ', '.join(f'{s}: {cell[s, methods[0]]["pictures"]} pictures of {cell[s, methods[0]]["scenes"]} scenes' for s in sets)
    parts = ['MAE with its 95 % interval over scenes, 256x256; lower is better:', table(['method', *sets], [[m, *(mae(s, m) for s in sets)] for m in methods])]
    lines = [[f'{m}, {s}', *(f'{float(cell[s, m][k]):.{d}f}' for k, d in (('ssim', 3), ('ssim_shifted', 3), ('psnr', 2), ('level', 3), ('detail', 3)))]
             for s in sets for m in methods]
    evs = sorted({int(k[6:]) for r in rows for k in r if k.startswith('mae_ev') and r[k]})
    for s in sets:
        if evs and cell[s, methods[0]].get(f'mae_ev{evs[0]:+d}'):
            name = [[m, *(f'{float(cell[s, m][f"mae_ev{e:+d}"]):.3f}' for e in evs)] for m in methods]
            parts += [f'MAE by exposure on {s}, EV:', table(['method', *(f'{e:+d}' if e else '0' for e in evs)], name)]
    parts += ['SSIM on the signed maps, SSIM on (map + 1)/2, PSNR in dB, and the error split into its level (the picture\'s mean offset) and its detail:',
              table(['method, set', 'SSIM', 'SSIM shifted', 'PSNR', 'level', 'detail'], lines), f'Sets: {about}.']
    return '\n\n'.join(parts)


def insert(readme, text):
    head, rest = readme.split(START)
    return f'{head}{START}\n\n{text}\n\n{END}{rest.split(END)[1]}'


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with open(ROOT / 'benchmarks/results/benchmark.csv', newline='') as f:
        text = figures(list(csv.DictReader(f)))
    readme = ROOT / 'README.md'
    readme.write_text(insert(readme.read_text(encoding='utf-8'), text), encoding='utf-8')


if __name__ == '__main__':
    sys.exit(main())
