"""The web page: in a browser, as a server under bad requests, and what it lets out."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from detection.serve import KEPT, LIMIT, Results
from tests.conftest import ROOT

ASKED = {"X-Requested-By": "detect"}


@contextlib.contextmanager
def server(model, stop=signal.SIGTERM, **environment):
    command = [sys.executable, "detect.py", "--serve", "--port", "0", "--model", str(model)]
    environment = os.environ | environment
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield re.search(r"http://\S+", process.stderr.readline())[0], process
        finally:
            process.send_signal(stop)
            assert process.wait(15) == 0
            assert "Traceback" not in process.stderr.read()


@pytest.fixture(scope="module")
def address(root):
    with server(root / "data" / "detector") as (address, _):
        yield address


@pytest.fixture(scope="module")
def clip(root):
    return root / "data" / "raw" / "pump" / "test" / "anomaly_id_00_00000001.flac"


def judge(address, content, name="a.flac", machine="pump/id_00", headers=ASKED):
    return requests.post(
        f"{address}/judge", params={"name": name, "machine": machine}, data=content, headers=headers, timeout=60
    )


def test_a_recording_gets_the_verdict_of_the_detector_with_sound_and_picture(address, clip, detector):
    result = judge(address, clip.read_bytes()).json()
    assert result["score"] == pytest.approx(detector.score_file(clip, "pump", "id_00").score, abs=1e-6)
    assert requests.get(f"{address}/kept/{result['number']}.wav", timeout=10).content[:4] == b"RIFF"
    assert requests.get(f"{address}/kept/{result['number']}.png", timeout=10).content[1:4] == b"PNG"
    assert requests.get(f"{address}/results", timeout=10).json()[0] == result


@pytest.mark.parametrize(
    ("content", "machine", "message"),
    [
        (b"this is no sound", "pump/id_00", "cannot be decoded"),
        (b"", "pump/id_00", "cannot be decoded"),
        (None, "pump/id_77", "pump id_77 is unknown"),
        (None, "", "which machine"),
    ],
)
def test_what_cannot_be_judged_is_said_and_the_server_stays_up(address, clip, content, machine, message):
    answer = judge(address, clip.read_bytes() if content is None else content, machine=machine)
    assert answer.status_code == 200 and message in answer.json()["error"]
    assert "upload" not in answer.json()["error"]  # the name of the temporary file
    assert "score" in judge(address, clip.read_bytes()).json()


def test_an_upload_of_two_gigabytes_is_refused_before_it_is_read(address, clip):
    with requests.Session() as session:
        request = requests.Request("POST", f"{address}/judge?name=long.wav", headers=ASKED).prepare()
        request.headers["Content-Length"] = str(2 * 1024**3)
        answer = session.send(request, timeout=10)
    assert answer.status_code == 413 and "larger than 200 MB" in answer.json()["error"]
    assert "score" in judge(address, clip.read_bytes()).json()


def test_an_upload_that_does_not_say_its_size_is_cut_off(address, clip):
    block = bytes(1_000_000)
    with contextlib.suppress(requests.ConnectionError):  # the server may close while the rest is being sent
        answer = judge(address, (block for _ in range(2 * LIMIT // len(block))))
        assert answer.status_code == 413
    assert "score" in judge(address, clip.read_bytes()).json()


def test_other_origins_and_other_names_of_this_server_are_refused(address, clip):
    assert judge(address, clip.read_bytes(), headers={}).status_code == 403
    rebound = requests.get(address, headers={"Host": "evil.example"}, timeout=10)
    assert rebound.status_code == 400
    assert "default-src 'self'" in requests.get(address, timeout=10).headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path", ["/kept/..%2f..%2fetc%2fpasswd.wav", "/kept/0.upload", "/web/../serve.py", "/kept/*.wav"]
)
def test_nothing_else_is_let_out(address, path):
    assert requests.get(address + path, timeout=10).status_code == 404


def test_only_the_last_results_are_kept(tmp_path):
    results = Results(tmp_path)
    for number in range(KEPT + 3):
        (tmp_path / f"{number}.wav").touch()
        results.add(str(number), {"number": str(number)})
    assert len(results.all()) == len(list(tmp_path.iterdir())) == KEPT
    assert results.file("2", ".wav") is None and results.file("3", ".wav") is not None


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_no_recording_outlives_the_server(root, clip, tmp_path, stop):
    with server(root / "data" / "detector", stop, TMPDIR=str(tmp_path)) as (address, _):
        judge(address, clip.read_bytes())
        assert list(tmp_path.rglob("*.wav"))
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_one_line(address, root):
    port = address.rsplit(":", 1)[1]
    command = [sys.executable, "detect.py", "--serve", "--port", port, "--model", str(root / "data" / "detector")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2 and re.fullmatch(r"detect\.py: .*in use.*\n", run.stderr)


# ------------------------------------------------------------------------------------------------------- in a browser


def drop(browser, files):
    """Drop files on the page, as a mouse does; returns when their results are there."""
    from selenium.webdriver.support.ui import WebDriverWait

    script = """
        window.courier = document.createElement("input");
        courier.type = "file"; courier.multiple = true; document.body.append(courier);
        return courier;
    """
    before = browser.execute_script("return document.querySelectorAll('article').length")
    browser.execute_script(script).send_keys("\n".join(map(str, files)))
    browser.execute_script("""
        const transfer = new DataTransfer();
        for (const file of courier.files) transfer.items.add(file);
        courier.remove();
        const drop = new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: transfer});
        document.getElementById("drop").dispatchEvent(drop);
    """)
    wait = WebDriverWait(browser, 60)
    count = "return document.querySelectorAll('article').length"
    wait.until(lambda _: browser.execute_script(count) == before + len(files))
    wait.until(lambda _: browser.execute_script("return document.getElementById('status').textContent") == "")


def loaded(browser):
    """Whether every picture has pixels and every player knows its sound's length."""
    return browser.execute_script("""
        return [...document.images].every((one) => one.complete && one.naturalWidth > 100)
            && [...document.querySelectorAll("audio")].every((one) => one.readyState >= 1 && one.duration > 0.9);
    """)


def test_the_page_in_a_browser(address, clip, root, browser, tmp_path):
    from selenium.webdriver.support.ui import Select, WebDriverWait

    strange = tmp_path / "<img src=x onerror=alert(1)>.wav"
    strange.write_bytes(b"no sound")
    browser.get_log("performance")
    browser.get(address)
    Select(browser.find_element("id", "machine")).select_by_value("pump/id_00")
    drop(browser, [clip])
    newest = browser.find_element("css selector", "article")
    assert newest.find_element("tag name", "h2").text in ("Normal", "Anomalous")
    assert clip.name in newest.text and "threshold" in newest.text
    drop(browser, [strange])
    assert "<img src=x onerror=alert(1)>.wav" in browser.find_element("css selector", "article.error").text
    WebDriverWait(browser, 10).until(loaded)

    browser.refresh()
    WebDriverWait(browser, 10).until(lambda _: clip.name in browser.find_element("id", "results").text)
    WebDriverWait(browser, 10).until(loaded)
    for width in (390, 1000):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert asked and {url for url in asked if not url.startswith((f"{address}/", "data:"))} == set()


def test_a_real_recording_is_dropped(real_corpus, browser):
    model = ROOT / "data" / "detector"
    recording = real_corpus / "mimii_dcase" / "valve" / "test" / "anomaly_id_00_00000001.flac"
    if not Path(model, "checksums.json").is_file():
        pytest.skip("no trained detector in data/detector: run the pipeline first")
    from selenium.webdriver.support.ui import Select, WebDriverWait

    with server(model) as (address, _):
        browser.get(address)
        Select(browser.find_element("id", "machine")).select_by_value("valve/id_00")
        drop(browser, [recording])
        assert browser.find_element("css selector", "article h2").text in ("Normal", "Anomalous")
        WebDriverWait(browser, 10).until(loaded)
