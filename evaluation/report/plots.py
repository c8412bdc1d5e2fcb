"""The report's drawings: matplotlib figures on plain arrays, and SVG and PNG texts that a page can hold inside itself.

Every figure is drawn in the colours of `LIGHT`. `svg` turns each of them into a CSS variable, so that one drawing
follows the page into dark mode and onto paper; where the variables are not defined, the light colour stays.
"""

import io
import itertools
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image

LIGHT = {
    "ink": "#1d2530",
    "muted": "#5b6673",
    "line": "#d5dae0",
    "accent": "#1f6fb2",
    "alarm": "#b93a0c",
    "series-1": "#0b6fa5",
    "series-2": "#b85c00",
    "series-3": "#1c7f4e",
    "series-4": "#a0417f",
    "series-5": "#7d6100",
    "series-6": "#5458b8",
    "series-7": "#0c7d80",
}
DARK = {
    "ink": "#e4e8ed",
    "muted": "#9ca7b4",
    "line": "#36404c",
    "accent": "#6fb4ef",
    "alarm": "#ff8f63",
    "series-1": "#62b5e8",
    "series-2": "#f0a04b",
    "series-3": "#5cc48f",
    "series-4": "#e08cc2",
    "series-5": "#d3b44a",
    "series-6": "#a3a6f2",
    "series-7": "#52c3c6",
}
SERIES = [LIGHT[f"series-{number}"] for number in range(1, 8)]
WIDTH = 4.2  # inches; at 72 points to the inch and 9 point text, readable on a telephone without zooming

_STYLE: dict[Any, Any] = {
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.linewidth": 0.7,
    "axes.grid": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "grid.color": LIGHT["line"],
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "rc-mae",  # the same figure gives the same bytes
    "text.color": LIGHT["ink"],
    "text.parse_math": False,  # a dollar sign in a machine's name is a dollar sign
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
}


def svg(figure: Figure, label: str) -> str:
    """The figure as an inline SVG element with theme colours; `label` is what a screen reader says in its place."""
    text = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    body = text.getvalue()[text.getvalue().index("<svg") :].rstrip()
    # Several drawings share one page: ids that nothing refers to would only repeat.
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", body)
    for name, colour in LIGHT.items():
        body = re.sub(colour, f"var(--{name}, {colour})", body, flags=re.IGNORECASE)
    body = re.sub(r" *\n *", "\n", body)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)
    if not size:
        raise ValueError(f"matplotlib drew no view box: {body[:200]}")
    width, height = size.groups()
    head = f'<svg class="plot" role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}"'
    head += f' style="max-width:{float(width) * 1.6:.0f}px" xmlns="http://www.w3.org/2000/svg"'
    head += ' xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + body[body.index(">") + 1 :]


def spectrogram_png(values: np.ndarray, low: float, high: float, colours: str = "magma", levels: int = 96) -> bytes:
    """A spectrogram of shape (frames, mels) as a PNG, time to the right and frequency upwards, a pixel per value.

    `low` and `high` are the values of the darkest and the brightest colour of the matplotlib colour map. NaN is
    transparent. `levels` colours (at most 255) keep the file small.
    """
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    index = np.where(np.isnan(scaled), 255, np.nan_to_num(scaled) * (levels - 1) + 0.5).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(index.T[::-1]))
    palette = (matplotlib.colormaps[colours](np.linspace(0, 1, levels))[:, :3] * 255 + 0.5).astype(np.uint8)
    image.putpalette(palette.tobytes() + bytes(3 * (256 - levels)))
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True, transparency=255)
    return file.getvalue()


def watched(rows: Sequence[dict], references: Sequence[str]) -> Figure:
    """How well each machine type is watched: AUC with its 95 % interval, and the references beside it.

    A row holds name (text), auc, low, high (fractions) and references ({name: auc}); `references` names up to four of
    them in the order of the legend.
    """
    markers = dict(zip(references, itertools.cycle(("|", "v", "^", "D", "s")), strict=False))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 0.36 * len(rows) + 1.15), layout="constrained")
        axes = figure.add_subplot()
        lowest = min([0.5] + [value for row in rows for value in (row["low"], *row["references"].values())])
        axes.axvline(0.5, color=LIGHT["muted"], linewidth=0.9, linestyle=(0, (2, 3)), zorder=0)
        for place, row in enumerate(reversed(rows)):
            axes.plot([row["low"], row["high"]], [place, place], color=LIGHT["accent"], linewidth=6, alpha=0.32)
            for name, marker in markers.items():
                if name in row["references"]:
                    axes.plot(
                        row["references"][name],
                        place,
                        marker,
                        markersize=7 if marker == "|" else 5,
                        markerfacecolor="none",
                        markeredgecolor=LIGHT["muted"],
                        markeredgewidth=1.1,
                    )
            axes.plot(row["auc"], place, "o", color=LIGHT["accent"], markersize=7.5)
        axes.set_yticks(range(len(rows)), [row["name"] for row in reversed(rows)])
        axes.tick_params(axis="y", length=0, labelcolor=LIGHT["ink"])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlim(max(0.0, np.floor(lowest * 10 - 0.2) / 10), 1.01)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel("AUC: 0.5 is guessing, 1 is perfect")
        handles = [
            Line2D(
                [], [], color=LIGHT["accent"], marker="o", markersize=7.5, linewidth=6, alpha=0.9, label="this model"
            ),
            *(
                Line2D(
                    [],
                    [],
                    linestyle="none",
                    marker=marker,
                    markersize=5.5,
                    markerfacecolor="none",
                    markeredgecolor=LIGHT["muted"],
                    label=name,
                )
                for name, marker in markers.items()
            ),
        ]
        handles[0].set_linewidth(0)
        figure.legend(handles=handles, loc="outside upper left", ncols=2, handletextpad=0.3, columnspacing=1.2)
    return figure


def roc(fpr: np.ndarray, tpr: np.ndarray, p: float) -> Figure:
    """A ROC curve (fractions, ascending) with the region of false positive rates up to `p`, pAUC's, marked."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(2.9, 2.7), layout="constrained")
        axes = figure.add_subplot()
        axes.axvspan(0, p, color=LIGHT["accent"], alpha=0.13, linewidth=0)
        known = fpr <= p
        border = np.interp(p, fpr, tpr) if fpr[known][-1] < p else tpr[known][-1]
        left, below = np.append(fpr[known], p), np.append(tpr[known], border)
        axes.fill_between(left, below, color=LIGHT["accent"], alpha=0.28, linewidth=0)
        axes.plot([0, 1], [0, 1], color=LIGHT["muted"], linewidth=0.8, linestyle=(0, (2, 3)))
        axes.plot(fpr, tpr, color=LIGHT["accent"])
        axes.text(p + 0.02, 0.03, f"false alarms up to {100 * p:.0f} %", color=LIGHT["muted"], fontsize=8)
        axes.set(
            xlim=(-0.01, 1), ylim=(0, 1.02), xlabel="false alarms (share of normal)", ylabel="caught (of anomalous)"
        )
        axes.set_aspect("equal")
    return figure


def score_histogram(normal: np.ndarray, anomalous: np.ndarray, ratio: bool) -> Figure:
    """Histograms of the scores of normal and anomalous test clips, relative to the threshold of each clip's machine.

    With `ratio`, scores are multiples of the threshold (above 0, drawn on a logarithmic axis, the threshold at 1), else
    differences from it (the threshold at 0).
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(2.9, 2.1), layout="constrained")
        axes = figure.add_subplot()
        threshold = 1.0 if ratio else 0.0
        together = np.concatenate([normal, anomalous, [threshold]])
        edges = np.geomspace(together.min(), together.max(), 25) if ratio else np.histogram_bin_edges(together, 24)
        for values, colour, hatch in ((normal, LIGHT["accent"], None), (anomalous, LIGHT["alarm"], "////")):
            axes.hist(values, edges.tolist(), histtype="stepfilled", color=colour, alpha=0.3, linewidth=0)
            axes.hist(values, edges.tolist(), histtype="step", color=colour, linewidth=1.2, hatch=hatch)
        axes.axvline(threshold, color=LIGHT["ink"], linewidth=1.1, linestyle=(0, (4, 2)))
        axes.locator_params("y", integer=True, nbins=4)
        if ratio:
            axes.set_xscale("log")
            few = together.max() < 30 * together.min()
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=5))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.locator_params("x", nbins=5)
        axes.set(xlabel="score / threshold" if ratio else "score - threshold", ylabel="clips")
    return figure


def confusion(shares: np.ndarray, names: Sequence[str]) -> Figure:
    """Share of the clips of each identity (row) that is taken for each identity (column); every row adds up to 1."""
    size = len(names)
    with matplotlib.rc_context(_STYLE):
        side = max(2.6, 0.19 * size + 1.1)
        figure = Figure(figsize=(side + 0.5, side + 0.4), layout="constrained")
        axes = figure.add_subplot()
        for row, column in zip(*np.nonzero(shares), strict=True):
            colour = LIGHT["accent"] if row == column else LIGHT["alarm"]
            share = float(shares[row, column])
            axes.bar(column, 0.94, 0.94, row - 0.47, color=colour, alpha=0.12 + 0.88 * share, linewidth=0)
        axes.set(xlim=(-0.6, size - 0.4), ylim=(size - 0.4, -0.6), xlabel="taken for", ylabel="recorded from")
        axes.set_xticks(range(size), names, rotation=90)
        axes.set_yticks(range(size), names)
        axes.tick_params(length=0, labelsize=8 if size <= 24 else 6.5)
        axes.set_aspect("equal")
        for spine in axes.spines.values():
            spine.set_visible(False)
        edges = np.arange(size + 1) - 0.5
        axes.hlines(edges, -0.5, size - 0.5, color=LIGHT["line"], linewidth=0.5, zorder=0)
        axes.vlines(edges, -0.5, size - 0.5, color=LIGHT["line"], linewidth=0.5, zorder=0)
    return figure


def scatter(points: np.ndarray, names: Sequence[str], anomalous: np.ndarray) -> Figure:
    """Points (n, 2) in a plane: colour = name (a machine type or id), dot = normal, cross = anomaly (n booleans)."""
    order, of_name = sorted(set(names)), np.asarray(names)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.4, 3.1 + 0.19 * -(-len(order) // 3)), layout="constrained")
        axes = figure.add_subplot()
        for number, name in enumerate(order):
            colour = SERIES[number % len(SERIES)]
            dots, crosses = points[(of_name == name) & ~anomalous], points[(of_name == name) & anomalous]
            axes.plot(*dots.T, "o", color=colour, markersize=3, alpha=0.75, markeredgewidth=0)
            axes.plot(*crosses.T, "x", color=colour, markersize=4.2, markeredgewidth=1.0)
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(visible=True, color=LIGHT["line"])
        handles = [
            Line2D([], [], linestyle="none", marker="o", markersize=4.5, color=SERIES[number % len(SERIES)], label=name)
            for number, name in enumerate(order)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, handletextpad=0, columnspacing=0.8)
    return figure


def curves(steps: np.ndarray, lines: dict[str, np.ndarray], horizontal: str) -> Figure:
    """Lines over the same steps, each on its own small axes with its name as title, all beneath one another."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 0.62 + 0.74 * len(lines)), layout="constrained")
        for axes, (name, values) in zip(
            np.atleast_1d(figure.subplots(len(lines), sharex=True)), lines.items(), strict=True
        ):
            axes.plot(steps, values, color=LIGHT["accent"], marker="o" if len(steps) < 3 else None, markersize=3)
            axes.set_title(name, loc="left", fontsize=8.5, color=LIGHT["ink"], pad=2)
            axes.yaxis.get_major_locator().set_params(nbins=3)
            axes.ticklabel_format(axis="y", useOffset=False, style="plain")
            axes.tick_params(labelsize=8)
            axes.grid(axis="y")
        axes.set_xlabel(horizontal)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure
