"""The drawings: theme colours, what the pixels and the shaded areas mean, names from outside."""

import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import auc, roc_curve

from evaluation.report import plots

NASTY = '<script>alert("$x^2$")</script>'
PAPER = {"light": "#ffffff", "dark": "#12171d"}


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_signs_have_the_contrast_that_wcag_asks_for(theme):
    colours = {"light": plots.LIGHT, "dark": plots.DARK}[theme]
    assert colours.keys() == plots.LIGHT.keys()
    for name, colour in colours.items():
        if name != "line":  # grid lines carry nothing
            assert contrast(colour, PAPER[theme]) >= 4.5, name


def figures() -> dict:
    random = np.random.default_rng(0)
    row = {"name": NASTY, "auc": 0.8, "low": 0.7, "high": 0.9, "references": {"level": 0.5, "neighbour": 0.6}}
    points, anomalous = random.normal(size=(20, 2)), random.random(20) > 0.5
    return {
        "watched": plots.watched([row, row], ["level", "neighbour"]),
        "roc": plots.roc(np.array([0, 0, 0.5, 1]), np.array([0, 0.5, 0.8, 1]), 0.1),
        "ratio": plots.score_histogram(random.random(9) + 0.01, random.random(9) + 0.5, ratio=True),
        "difference": plots.score_histogram(random.normal(size=9), random.normal(size=9), ratio=False),
        "confusion": plots.confusion(np.array([[0.5, 0.5], [0, 1]]), [NASTY, "b"]),
        "scatter": plots.scatter(points, [NASTY, *"abcdefghi", *["b"] * 10], anomalous),
        "curves": plots.curves(np.arange(3), {NASTY: random.random(3), "loss": random.random(3)}, "epoch"),
    }


@pytest.mark.parametrize("name", figures())
def test_svg_follows_the_theme_and_escapes_names(name):
    text = plots.svg(figures()[name], f'drawing of "{NASTY}"')
    root = ElementTree.fromstring(text)  # well-formed, with every name escaped
    assert root.get("role") == "img"
    assert root.get("aria-label") == f'drawing of "{NASTY}"'
    assert "<script" not in text
    assert not re.search(r"https?://(?!www\.w3\.org/)", text)
    used = {colour.lower() for colour in re.findall(r"#[0-9a-fA-F]{6}\b", re.sub(r"var\([^)]*\)", "", text))}
    assert used <= {"#ffffff"}, "a colour that no theme knows"
    ids, references = re.findall(r' id="([^"]+)"', text), re.findall(r'(?:url\(#|href="#)([^)"]+)', text)
    assert set(ids) == set(references)


def test_the_same_figure_gives_the_same_bytes():
    assert plots.svg(figures()["scatter"], "x") == plots.svg(figures()["scatter"], "x")


def test_spectrogram_png_has_time_to_the_right_and_frequency_upwards():
    values = np.zeros((7, 4))
    values[5, 0] = 10.0  # late and low
    values[1, 3] = np.nan  # early and high
    image = Image.open(io.BytesIO(plots.spectrogram_png(values, 0.0, 10.0, "gray"))).convert("RGBA")
    pixels = np.asarray(image)  # (rows from the top, columns, 4)
    assert pixels.shape == (4, 7, 4)
    assert pixels[3, 5].tolist() == [255, 255, 255, 255]
    assert pixels[0, 1, 3] == 0
    assert pixels[1, 1].tolist() == [0, 0, 0, 255]
    assert (pixels[..., 3] == 0).sum() == 1


@pytest.mark.parametrize("seed", range(5))
def test_the_marked_region_of_a_roc_is_what_pauc_measures(seed):
    random = np.random.default_rng(seed)
    labels, scores = np.r_[np.zeros(23), np.ones(17)], np.r_[random.normal(size=23), random.normal(1, 1, 17)]
    fpr, tpr, _ = roc_curve(labels, scores)
    p = 0.1
    inside = fpr <= p
    before, after = np.flatnonzero(inside)[-1], np.flatnonzero(~inside)[0]
    border = np.interp(p, fpr[[before, after]], tpr[[before, after]])
    expected = auc(np.append(fpr[inside], p), np.append(tpr[inside], border))
    axes = plots.roc(fpr, tpr, p).axes[0]
    x, y = axes.collections[0].get_paths()[0].vertices.T
    shaded = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert shaded == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("ratio", [True, False])
def test_histograms_hold_every_clip_and_the_threshold(ratio):
    normal, anomalous = np.array([0.2, 0.9, 3.0]), np.array([1.5, 80.0])
    axes = plots.score_histogram(normal, anomalous, ratio).axes[0]
    for patch, count in zip(axes.patches[::2], (3, 2), strict=True):
        low, high = patch.get_xy()[:, 0].min(), patch.get_xy()[:, 0].max()
        assert low <= 0.2
        assert high >= 80
        heights = patch.get_xy()[1:-1:2, 1][:24]
        assert heights.sum() == count
    assert axes.lines[0].get_xdata()[0] == (1.0 if ratio else 0.0)
