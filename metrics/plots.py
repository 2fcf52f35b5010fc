"""Pictures of a report: error by EV, accuracy against cost, worst and best cases."""
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SCALE = 0.5  # of the maps: red = overexposed by .5, white = ideal, blue = underexposed by .5


def _figure(width, height):
    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)  # no window system, no global state
    return figure


def plot_by_ev(report, folder):
    """``error_by_ev_<set>.png`` for each set that names exposures."""
    written = []
    for about in report['sets']:
        rows = [r for r in report['rows'] if r['set'] == about['name'] and len(r['ev']) > 1]
        if not rows:
            continue
        figure = _figure(7, 4.5)
        axes = figure.subplots()
        for n, row in enumerate(rows):
            evs = sorted(row['ev'])
            axes.plot(evs, [row['ev'][e]['mae'] for e in evs], marker='o', markersize=3, label=row['method'],
                      linewidth=2.5 if n == 0 else 1.2, linestyle='-' if n < 10 else '--')
        axes.set(xlabel='exposure of the picture, EV', ylabel='MAE', ylim=(0, None),
                 title=f'Error by exposure, {about["name"]}')
        axes.grid(alpha=0.3)
        axes.legend(fontsize='small', ncols=2)
        written.append(_save(figure, folder, f'error_by_ev_{about["name"]}.png'))
    return written


def plot_cost(report, folder):
    """``accuracy_against_cost_<set>.png``: MAE over ms a picture and, for networks, over GFLOP (log axes)."""
    written = []
    for about in report['sets']:
        rows = [r for r in report['rows'] if r['set'] == about['name'] and np.isfinite(r['mae'])]
        labels = {'ms': f'ms a picture, batch 1, {report["hardware"]["device"]}', 'gflop': 'GFLOP a picture'}
        panels = [(key, label) for key, label in labels.items()
                  if any(report['cost'].get(r['method'], {}).get(key) for r in rows)]
        if not panels:
            continue
        figure = _figure(6 * len(panels), 4.5)
        for axes, (key, label) in zip(np.ravel(figure.subplots(1, len(panels), sharey=True)), panels):
            for n, row in enumerate(r for r in rows if report['cost'].get(r['method'], {}).get(key)):
                x = report['cost'][row['method']][key]
                low, high = row.get('mae_lo', row['mae']), row.get('mae_hi', row['mae'])
                axes.errorbar(x, row['mae'], [[max(0, row['mae'] - low)], [max(0, high - row['mae'])]], marker='o', capsize=2,
                              color=f'C{n % 10}')
                axes.annotate(row['method'], (x, row['mae']), xytext=(4, 4), textcoords='offset points',
                              fontsize='small')
            axes.set(xscale='log', xlabel=label, ylim=(0, None))
            axes.margins(x=0.2)
            axes.grid(alpha=0.3)
        figure.axes[0].set_ylabel('MAE (bars: 95 % over scenes)')
        figure.suptitle(f'Accuracy against cost, {about["name"]}')
        written.append(_save(figure, folder, f'accuracy_against_cost_{about["name"]}.png'))
    return written


def plot_cases(title, cases, folder, name):
    """Rows of picture, label, map and error.

    Args:
        cases: list of (caption, image (3, H, W) on [0, 1], label (H, W), map (H, W)).
    """
    figure = _figure(10, 2.6 * len(cases))
    axes = np.reshape(figure.subplots(len(cases), 4), (len(cases), 4))
    for line, (caption, image, label, prediction) in zip(axes, cases):
        line[0].imshow(np.moveaxis(np.asarray(image), 0, -1))
        line[0].set_title(caption, fontsize='x-small')
        panels = {'label': label, 'map': prediction, 'map - label': prediction - label}
        for cell, (what, values) in zip(line[1:], panels.items()):
            shown = cell.imshow(values, cmap='bwr_r', vmin=-SCALE, vmax=SCALE)
            cell.set_title(f'{what}, mean {values.mean():+.3f}', fontsize='x-small')
    for cell in axes.flat:
        cell.set_axis_off()
    figure.colorbar(shown, ax=axes, shrink=0.5, label='residual: + under (blue), - over (red)')
    figure.suptitle(title)
    return _save(figure, folder, name)


def _save(figure, folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name.replace(' ', '_').replace('/', '_')
    figure.savefig(path, dpi=110)
    return path
