"""The report of a whole tiny run: what is in it, that nothing leaves it, and how a browser shows it."""

import json
import os
import re
import shutil
from contextlib import chdir
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import yaml

from evaluation.report.settings import settings
from stages import report, score
from stages.command import duration_key, durations
from stages.params import load, read
from tests import tiny_run
from tests.conftest import ROOT

NASTY = "<script>document.title = 'owned'</script><img src=http://example.org/x.png>"
DURATION = {"stage": "pretrain", "seconds": 90.0, "finished": "2026-01-02T03:04:05+00:00"}


def draw(folder: Path) -> Path:
    with chdir(folder), mock.patch.dict(os.environ, {"RCMAE_STORE": str(folder / "store")}):
        report.run(load("report", Path()))
    return folder / "metrics/report/index.html"


@pytest.fixture(scope="module", params=["audioldm", "masking"])
def run(request, tmp_path_factory) -> Path:
    folder = tiny_run.make(tmp_path_factory.mktemp(request.param), request.param)
    # names from outside: a prompt of a language model, a file of the user's
    prompts = pd.read_csv(folder / "data/prompts/prompts.csv", dtype=str)
    prompts["text"] += NASTY
    prompts.to_csv(folder / "data/prompts/prompts.csv", index=False)
    pd.DataFrame({"file": [f"fan/{NASTY}.wav"], "reason": [NASTY]}).to_csv(folder / "data/raw/skipped.csv", index=False)
    manifest = pd.read_csv(folder / "data/raw/manifest.csv", dtype=str, keep_default_na=False)
    manifest.loc[:1, ["source", "warnings"]] = ["loud.wav", "7 % of the samples are clipped"]  # a long recording's
    manifest.to_csv(folder / "data/raw/manifest.csv", index=False)
    key = duration_key("pretrain", read(folder / "params.yaml"), folder)
    with mock.patch.dict(os.environ, {"RCMAE_STORE": str(folder / "store")}), durations().put(key) as path:
        path.write_text(json.dumps(DURATION))
    draw(folder)
    return folder


@pytest.fixture(scope="module")
def page(run) -> str:
    return (run / "metrics/report/index.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_it_has_all_its_sections(page, run):
    text = Page(page).text
    for words in (
        "are told apart rightly",
        "Machine by machine",
        "Listen first",
        "Where to draw the line",
        "Against simple methods",
        "Table 4.",
        "Glow_Aff re-run here, on this run’s recordings",
        "Not comparable.",
        "Augmentation",
        "Figure 3",
        "Figure 4",
        "Which machine is which",
        "Pretraining",
        "Fine-tuning",
        "Masked reconstructions",
        "What differs from the paper",
        "What the paper leaves open",
        "1 recording left out",
        "1 recording read with a warning: loud.wav : 7 % of the samples are clipped",
        "Seed",
        "Commit none, the code is not in a Git repository",
    ):
        assert words in text, words
    diffused = load("report", run).augment.method == "audioldm"
    assert ("S = " in text and "Correlates" in text and "phase of the source" in text) == diffused
    assert ("no diffusion" in text) != diffused
    assert "pretrain 1.5 2026-01-02 03:04" in text


def test_nothing_leaves_it_and_names_are_escaped(page):
    parsed = Page(page)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in parsed.tags}
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:", "#")), (tag, address)
    assert not re.search(r"url\((?!#)|@import", page)
    assert NASTY in parsed.text  # shown as it is


def test_pictures_and_tables_speak_to_screen_readers(page):
    tags = Page(page).tags
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in tags if tag == "audio")
    assert all(attributes.get("scope") for tag, attributes in tags if tag == "th")
    assert [tag for tag, _ in tags if tag == "h1"] == ["h1"]
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_figures_are_those_of_score_json(page, run):
    figures = json.loads((run / "metrics/score.json").read_text())
    summary = json.loads((run / "data/scores/summary.json").read_text())
    whole = summary["systems"][summary["backend"]]["figures"]
    text = Page(page).text
    assert f"{figures['average']['auc'] * 100:.0f} are told apart rightly" in text
    assert re.search(rf"average [a-z ]+ {figures['average']['auc']:.2f} ", text)
    alarms = figures["false_alarms"]
    assert f"At the thresholds, {alarms['caught'] * 100:.0f} % of the faulty recordings raise an alarm" in text
    assert f"were promised to raise an alarm, {alarms['measured'] * 100:.0f} % did" in text
    assert "Alarms of all machines are decided by the score combined, without labels" in text  # three clips each
    assert f"by eq. (12) as printed it is {whole['average']['pauc_eq12']:.2f}" in text


@pytest.mark.parametrize("run", ["masking"], indirect=True)
@pytest.mark.parametrize("machines", ["many", "one"])
def test_a_run_without_anomalies_speaks_of_false_alarms(run, tmp_path, machines):
    folder = shutil.copytree(run, tmp_path / "healthy")
    config = folder / "data/finetuned/config.json"
    trained = json.loads(config.read_text())
    if machines == "one":
        trained["identities"] = trained["identities"][:1]
        config.write_text(json.dumps(trained))
    for table in ("data/raw/manifest.csv", "data/features/index.csv"):
        clips = pd.read_csv(folder / table, dtype=str, keep_default_na=False)
        known = (clips["machine_type"] + "/" + clips["machine_id"]).isin(trained["identities"])
        clips[(clips["condition"] == "normal") & known].to_csv(folder / table, index=False)
    with chdir(folder), mock.patch.dict(os.environ, {"RCMAE_STORE": str(folder / "store")}):
        score.run(load("score", Path()))
    text = Page(draw(folder).read_text(encoding="utf-8")).text
    assert "healthy recordings that nothing was fitted to" in text and "no anomalies to test on" in text
    assert "told apart rightly" not in text and "nan" not in text.lower().split()
    assert "cannot be said without a recording of a fault" in text
    assert "This run" not in text.split("Table 4.")[1].split("Augmentation")[0] and "re-run here, on" not in text
    said = re.findall(r"(Above|Below) its threshold .*? It was recorded as (\w+) ?(: a false alarm)?", text)
    assert len(said) == 2 and all((place == "Above") == bool(wrong) for place, _, wrong in said)
    assert ("there is a single one" in text, "Which machine is which" in text) == (machines == "one", machines != "one")


def test_it_tells_what_differs_from_the_paper(run):
    with chdir(run):
        keys = list(yaml.safe_load(Path("dvc.yaml").read_text())["stages"]["report"]["params"])
        told = {
            one["key"]: one for one in settings(load("report", Path()), keys, ROOT / "params.yaml", report.FULL_SIZE)
        }
    assert told["model.depth"] == {
        "key": "model.depth", "value": "1", "meaning": "encoder blocks", "paper": "12", "full": "12", "differs": True,
    }  # fmt: skip
    assert told["pretrain.epochs"]["full"] == "400"
    assert not told["lambda_con"]["differs"]
    assert told["logmel.f_max"]["differs"] and not told["logmel.f_min"]["differs"]  # 50 and 50.0
    assert not told["pretrain.mask_ratio"]["differs"]  # a list and a tuple
    assert not told["augment.revision"]["differs"]  # which the script finds out when it starts
    assert told["lambda_con"]["meaning"] == "weight of the contrastive loss, eq. (3)"
    assert len(told) == sum(
        len(values) if isinstance(values, dict) else 1
        for values in yaml.safe_load((run / "params.yaml").read_text()).values()
    )


def test_the_full_size_run_sets_params_that_exist():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key in yaml.safe_load((ROOT / "experiments/paper.yaml").read_text()):
        group, _, name = key.partition(".")
        assert name in params[group] if name else key in params, key


def spoil_score_with_nan(folder: Path) -> str:
    path = folder / "data/scores/scores.csv"
    scores = pd.read_csv(path)
    row = scores.index[scores["split"] == "test"][1]
    scores.loc[row, "finetuned_mahalanobis"] = np.nan
    scores.to_csv(path, index=False)
    return f"finetuned_mahalanobis score of {scores['clip'][row]}"


def spoil_lose_a_clip(folder: Path) -> str:
    path = folder / "data/scores/scores.csv"
    scores = pd.read_csv(path)
    scores.drop(index=3).to_csv(path, index=False)
    return f"the scores lack the clip {scores['clip'][3]}"


def spoil_other_corpus(folder: Path) -> str:
    path = folder / "data/raw/manifest.csv"
    path.write_text(path.read_text().replace("fan/test/normal_id_00_00000000", "fan/test/normal_id_00_00000099"))
    return "the features have the clip fan/test/normal_id_00_00000000, which the corpus has not"


def spoil_unknown_identity(folder: Path) -> str:
    for file in ("data/raw/manifest.csv", "data/scores/scores.csv"):
        table = pd.read_csv(folder / file, dtype={"machine_id": str})
        table.loc[(table["machine_type"] == "fan") & (table["split"] == "test"), "machine_id"] = "id_77"
        table.to_csv(folder / file, index=False)
    return "fan/id_77"


def spoil_other_metrics(folder: Path) -> str:
    path = folder / "metrics/score.json"
    figures = json.loads(path.read_text())
    figures["average"]["auc"] += 0.01
    path.write_text(json.dumps(figures))
    return "metrics/score.json says auc"


def spoil_old_summary(folder: Path) -> str:
    path = folder / "data/scores/scores.csv"
    scores = pd.read_csv(path)
    scores["rms"] = -scores["rms"]
    scores.to_csv(path, index=False)
    return "the summary of rms is not of these scores"


def spoil_missing_scores(folder: Path) -> str:
    (folder / "data/scores/scores.csv").unlink()
    return "data/scores/scores.csv"


def spoil_detector(folder: Path) -> str:
    (folder / "data/detector/detector.json").unlink()
    return "detector.json"


@pytest.mark.parametrize("run", ["masking"], indirect=True)
@pytest.mark.parametrize(
    "spoil",
    [
        spoil_score_with_nan,
        spoil_lose_a_clip,
        spoil_other_corpus,
        spoil_unknown_identity,
        spoil_other_metrics,
        spoil_old_summary,
        spoil_missing_scores,
        spoil_detector,
    ],
)
def test_bad_input_is_one_line_and_leaves_the_last_report(run, tmp_path, spoil):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    before = (folder / "metrics/report/index.html").read_bytes()
    named = spoil(folder)
    with pytest.raises((ValueError, OSError)) as raised:
        draw(folder)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [path.name for path in (folder / "metrics/report").iterdir()] == ["index.html"]
    assert (folder / "metrics/report/index.html").read_bytes() == before


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_shows_all_of_it_on_a_telephone(run, browser, theme):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get_log("performance")
    address = (run / "metrics/report/index.html").as_uri()
    browser.get(address)
    browser.set_script_timeout(20)
    told = browser.execute_async_script(
        """const done = arguments[arguments.length - 1]
        const players = [...document.querySelectorAll('audio')]
        const ready = player => new Promise(go => {
          if (player.readyState >= 1 || player.error) return go()
          player.addEventListener('loadedmetadata', go); player.addEventListener('error', go)
        })
        Promise.all(players.map(ready)).then(() => done({
          players: players.map(player => [player.readyState, player.duration]),
          pictures: [...document.images].map(picture => picture.naturalWidth),
          drawings: [...document.querySelectorAll('svg.plot')].map(one => one.getBoundingClientRect().height),
          width: document.documentElement.scrollWidth, title: document.title,
          background: getComputedStyle(document.body).backgroundColor,
        }))"""
    )
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert {one for one in asked if not one.startswith("data:")} == {address}
    assert told["title"] == "Would it hear a faulty machine?"
    assert told["width"] == 390
    assert len(told["players"]) >= 6
    assert all(state >= 1 and 9 < seconds < 12 for state, seconds in told["players"])
    assert len(told["pictures"]) >= 12
    assert min(told["pictures"]) > 100
    assert len(told["drawings"]) >= 12
    assert min(told["drawings"]) > 50
    assert told["background"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 23, 29)"}[theme]
