"""Figures as a terminal table, Markdown, LaTeX (booktabs), CSV (a row for each set and method), JSON."""
import csv
import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

PUBLISHED = Path(__file__).resolve().parent.parent / 'benchmarks' / 'published.csv'
FORMATS = ('table', 'csv', 'markdown', 'latex', 'json')

# key, header, decimals, which direction is best
PIXEL = (('mae', 'MAE', 4, min), ('mae_ci', '95 %', None, None), ('delta_mae', 'MAE - first', 4, None),
         ('delta_ci', '95 %', None, None), ('p_mae', 'p', 4, None), ('level', 'level', 4, min),
         ('detail', 'detail', 4, min), ('bias', 'bias', 4, None), ('ssim', 'SSIM', 4, max),
         ('ssim_shifted', 'SSIM shifted', 4, max), ('psnr', 'PSNR', 2, max),
         ('psnr_median', 'PSNR median', 2, max))
WHOLE = (('acc', 'ACC', 3, max), ('ordering', 'order', 3, max), ('plcc', 'PLCC', 3, max),
         ('plcc_logistic4', 'PLCC log.4', 3, max), ('plcc_logistic5', 'PLCC log.5', 3, max),
         ('srcc', 'SRCC', 3, max))
COST = (('params', 'parameters', 0, None), ('gflop', 'GFLOP', 2, None), ('ms', 'ms/picture', 1, None),
        ('peak_mb', 'peak MB', 0, None))
ZONE_TITLE = "MAE by zone (the picture's grey in tenths: 0 black, 10 white)"
PUBLISHED_COLUMNS = {'1+7': (('mae', 'MAE', 2, None), ('ssim', 'SSIM', 2, None), ('psnr', 'PSNR', 2, None),
                             ('params_m', 'parameters, M', 1, None)),
                     '2': (('lrcc', 'LRCC', 2, None), ('srcc', 'SRCC', 2, None))}


@dataclass
class Table:
    title: str
    header: list
    rows: list                                # lists of str
    notes: list = field(default_factory=list)
    best: set = field(default_factory=set)    # (row, column) to set in bold


def number(value, decimals):
    """A figure as text; '-' for what means nothing."""
    if not _means_something(value):
        return '-'
    return f'{value:,.0f}' if decimals == 0 else f'{value:.{decimals}f}'


def read_published(path=PUBLISHED):
    """The paper's tables as dicts; numbers are floats or None."""
    with open(path, newline='', encoding='utf-8') as f:
        return [{k: v if k in ('table', 'data', 'method', 'note') else float(v) if v else None
                 for k, v in row.items()} for row in csv.DictReader(f)]


def tables(report):
    """What a person wants to see of a report (``eval_benchmark.make_report``): list of :class:`Table`."""
    result = []
    for about in report['sets']:
        rows = [r for r in report['rows'] if r['set'] == about['name']]
        result += _accuracy(about, rows, report['protocol'])
        for key, what in (('ev', 'MAE by EV'), ('zones', ZONE_TITLE)):
            found = sorted({k for r in rows for k in r[key]})
            if found:
                values = [[r[key].get(k) for k in found] for r in rows]
                values = [[v['mae'] if isinstance(v, dict) else v for v in line] for line in values]
                result.append(_table(f'{about["name"]}: {what}', [_label(r) for r in rows],
                                     [(f'{k:+d}' if key == 'ev' and k else str(k), 3, min) for k in found],
                                     values))
    size, device = report['protocol']['size'], report['hardware']['device']
    result.append(_table(f'Cost of one picture, {size}x{size}, batch 1, fp32, on {device}',
                         list(report['cost']), [c[1:] for c in COST],
                         [[cost[c[0]] for c in COST] for cost in report['cost'].values()]))
    for table, columns in PUBLISHED_COLUMNS.items() if 'published' in report else ():
        rows = [r for r in report['published'] if r['table'] == table]
        data = rows[0]['data']
        result.append(_table(f"Published, {data} (the paper's table {table}; other pictures than ours)",
                             [f'{r["method"]} (published, {data})' for r in rows],
                             [c[1:] for c in columns], [[r[c[0]] for c in columns] for r in rows]))
    return result


def _label(row):
    return row['method'] + (' [!]' if row['failed'] else '')


def _accuracy(about, rows, protocol):
    """The two main tables of a set: pixels and whole pictures."""
    rows = [{**r, 'mae_ci': _interval(r, 'mae'), 'delta_ci': _interval(r, 'delta_mae')} for r in rows]
    failed = [f'[!] {r["method"]} failed on {r["failed"]} of {about["pictures"]} pictures: its figures are '
              'over the rest and not comparable.' for r in rows if r['failed']]
    result = []
    for what, columns in (('pixels', PIXEL), ('whole pictures', WHOLE)):
        columns = [c for c in columns if any(_means_something(r.get(c[0])) for r in rows)]
        if not columns and not failed:
            continue  # a set without labels has no figures of pixels
        title = f'{about["name"]}: {what}; {about["pictures"]} pictures, {about["scenes"]} scenes'
        values = [[r.get(c[0]) for c in columns] for r in rows]
        table = _table(title, [_label(r) for r in rows], [c[1:] for c in columns], values,
                       [bool(r['failed']) for r in rows])
        table.notes += failed
        result.append(table)
    if any('p_mae' in r for r in rows):
        result[0].notes.append(f'95 %: bootstrap over scenes, {protocol["bootstrap"]} resamples. p: MAE '
                               'against the first row, sign flips over scenes, adjusted by Holm.')
    if about['circular']:
        result[-1].notes.append("PLCC and SRCC are circular here: the CSV's score is 10 (1 - mean|label|).")
    return result


def _means_something(value):
    return isinstance(value, str) or value is not None and math.isfinite(value)


def _interval(row, key):
    low, high = row.get(f'{key}_lo'), row.get(f'{key}_hi')
    return None if low is None or not math.isfinite(low) else f'{low:.4f} .. {high:.4f}'


def _table(title, names, columns, values, unfit=None):
    """columns: (header, decimals, min or max or None); rows that are unfit cannot be the best."""
    cells = [[name] + [v if isinstance(v, str) else number(v, d) for v, (_, d, _) in zip(line, columns)]
             for name, line in zip(names, values)]
    best = set()
    for c, (_, decimals, better) in enumerate(columns):
        numbers = {r: round(line[c], decimals) for r, line in enumerate(values)
                   if better and _means_something(line[c]) and not (unfit and unfit[r])}
        if len(numbers) > 1:
            best |= {(r, c + 1) for r, v in numbers.items() if v == better(numbers.values())}
    return Table(title, ['method'] + [h for h, *_ in columns], cells, best=best)


def as_text(table):
    widths = [max(map(len, column)) for column in zip(table.header, *table.rows)]
    lines = ['  '.join([cells[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(cells[1:], widths[1:])])
             for cells in [table.header] + table.rows]
    return '\n'.join([table.title, '-' * len(table.title)] + lines + table.notes)


def as_markdown(table):
    def line(cells):
        return '| ' + ' | '.join(c.replace('|', '\\|') for c in cells) + ' |'
    rows = [[f'**{c}**' if (r, k) in table.best else c for k, c in enumerate(cells)]
            for r, cells in enumerate(table.rows)]
    rule = '|---|' + '---:|' * (len(table.header) - 1)
    notes = [''] + [f'{n}  ' for n in table.notes] if table.notes else []
    return '\n'.join([f'**{table.title}**', '', line(table.header), rule] + [line(r) for r in rows] + notes)


def as_latex(table):
    special = {'\\': r'\textbackslash{}', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}',
               '<': r'\textless{}', '>': r'\textgreater{}', '|': r'\textbar{}',
               **{c: '\\' + c for c in '&%$#_{}'}}

    def text(s):
        return ''.join(special.get(c, c) for c in s)

    def line(cells):
        return ' & '.join(cells) + r' \\'
    rows = [[rf'\textbf{{{text(c)}}}' if (r, k) in table.best else text(c) for k, c in enumerate(cells)]
            for r, cells in enumerate(table.rows)]
    notes = [r'\par\footnotesize ' + ' '.join(map(text, table.notes))] if table.notes else []
    columns = 'l' + 'r' * (len(table.header) - 1)
    return '\n'.join([r'\begin{table}', r'\centering', rf'\caption{{{text(table.title)}}}',
                      rf'\begin{{tabular}}{{{columns}}}', r'\toprule', line(map(text, table.header)),
                      r'\midrule', *map(line, rows), r'\bottomrule', r'\end{tabular}', *notes,
                      r'\end{table}'])


def as_csv(report):
    """One row per set and method, with mae_ev-4 .., mae_zone0 ..; published rows last (see ``source``)."""
    flat = []
    circular = {a['name']: a['circular'] for a in report['sets']}
    for row in report['rows']:
        values = {k: v for k, v in row.items() if not isinstance(v, dict)}
        values.update(report['cost'].get(row['method'], {}), source='measured',
                      score_circular=circular[row['set']], size=report['protocol']['size'],
                      device=report['hardware']['device'], commit=report['commit'])
        values.update({f'{k}_ev{ev:+d}': v for ev, part in row['ev'].items() for k, v in part.items()})
        values.update({f'mae_zone{z}': v for z, v in row['zones'].items()})
        flat.append(values)
    for row in report.get('published', ()):
        flat.append({'set': row['data'], 'source': f'published, {row["data"]}, table {row["table"]}',
                     'plcc': row['lrcc'], 'params': row['params_m'] and row['params_m'] * 1e6,
                     **{k: row[k] for k in ('method', 'mae', 'ssim', 'psnr', 'acc', 'srcc')}})
    return csv_text([{k: '' if v is None or isinstance(v, float) and not math.isfinite(v) else
                      f'{v:.6g}' if isinstance(v, float) else v for k, v in values.items()} for values in flat])


def csv_text(rows):
    """Dicts as the text of a CSV file; the columns are all their keys, in the order in which they appear first."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(k for row in rows for k in row)), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def as_json(report):
    """Strict JSON: what is not finite becomes null, keys become strings."""
    def clean(v):
        if isinstance(v, dict):
            return {str(k): clean(x) for k, x in v.items()}
        if isinstance(v, (list, tuple)):
            return [clean(x) for x in v]
        return None if isinstance(v, float) and not math.isfinite(v) else v
    return json.dumps(clean(report), indent=1, allow_nan=False) + '\n'


def render(report, kind):
    """A report in one of ``FORMATS``."""
    if kind == 'csv':
        return as_csv(report)
    if kind == 'json':
        return as_json(report)
    if kind not in FORMATS:
        raise ValueError(f'format is {kind!r}, accepted: {", ".join(FORMATS)}')
    one = {'table': as_text, 'markdown': as_markdown, 'latex': as_latex}[kind]
    return '\n\n'.join(map(one, tables(report))) + '\n'
