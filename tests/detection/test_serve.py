"""The web page: in a browser, as a server under bad requests, and what it lets out."""

import contextlib
import http.client
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import requests
import soundfile

from detection.judging import Judge
from detection.serve import serve
from detection.web.application import LIMIT
from detection.web.guard import FAILURES
from detection.web.results import PLACES
from tests.conftest import ROOT

ASKED = {"X-Requested-By": "detect"}
TOKEN = "correct-horse-battery"
WAIT = 300  # s, for what comes at once on a computer that does nothing else


SERVE = """
import json, logging, sys
from pathlib import Path
from detection.detector import Detector
from detection.judging import Judge
from detection.serve import serve

logging.basicConfig(format="%(message)s", stream=sys.stderr)
logging.getLogger("detection").setLevel(logging.INFO)
options = json.loads(sys.argv[2])
if "record" in options:
    options["record"] = Path(options["record"])
try:
    serve(Judge(Detector.load(Path(sys.argv[1]))), **{"host": "127.0.0.1", "port": 0} | options)
except (ValueError, OSError) as error:
    sys.exit(f"serve: {error}")
"""


def command(model, **options):
    return [sys.executable, "-c", SERVE, str(model), json.dumps(options)]


@contextlib.contextmanager
def server(model, stop=signal.SIGTERM, environment=None, largest_file=None, **options):
    """A server in a process of its own, which may write no larger file than `largest_file` bytes."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    limit = (largest_file, largest_file)
    before = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)) if largest_file else None
    environment = os.environ | (environment or {})
    with subprocess.Popen(command(model, **options), cwd=ROOT, env=environment, preexec_fn=before, **pipes) as process:
        try:
            yield re.search(r"http://\S+", process.stderr.readline())[0], process
        finally:
            process.send_signal(stop)
            assert process.wait(WAIT) == 0
            assert "Traceback" not in process.stderr.read()


@pytest.fixture(scope="module")
def running(root, tmp_path_factory):
    temporary = tmp_path_factory.mktemp("temporary")
    with server(root / "data" / "detector", environment={"TMPDIR": str(temporary)}) as running:
        yield running
    assert list(temporary.iterdir()) == [], "no recording outlives the server"


@pytest.fixture(scope="module")
def address(running):
    return running[0]


@pytest.fixture(scope="module")
def clip(root):
    return root / "data" / "raw" / "pump" / "test" / "anomaly_id_00_00000001.flac"


def judge(address, content, name="a.flac", machine="pump/id_00", headers=ASKED):
    return requests.post(
        f"{address}/judge", params={"name": name, "machine": machine}, data=content, headers=headers, timeout=WAIT
    )


def test_a_recording_gets_the_verdict_of_the_detector_with_sound_and_picture(address, clip, detector):
    result = judge(address, clip.read_bytes()).json()
    assert result["score"] == pytest.approx(detector.score_file(clip, "pump", "id_00").score, abs=1e-6)
    assert requests.get(f"{address}/kept/{result['number']}.wav", timeout=WAIT).content[:4] == b"RIFF"
    assert requests.get(f"{address}/kept/{result['number']}.png", timeout=WAIT).content[1:4] == b"PNG"
    assert requests.get(f"{address}/results", timeout=WAIT).json()[0] == result


def test_a_recording_of_more_than_two_hours_is_refused(address):
    sound = io.BytesIO()
    soundfile.write(sound, np.zeros(7201 * 1000, np.int16), 1000, format="FLAC")
    assert "longer than 2 h" in judge(address, sound.getvalue()).json()["error"]


@pytest.mark.parametrize(
    ("content", "machine", "message"),
    [
        (b"this is no sound", "pump/id_00", "cannot be decoded"),
        (b"", "pump/id_00", "the file is empty"),
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
        answer = session.send(request, timeout=WAIT)
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
    rebound = requests.get(address, headers={"Host": "evil.example"}, timeout=WAIT)
    assert rebound.status_code == 400
    assert "default-src 'self'" in requests.get(address, timeout=WAIT).headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path", ["/kept/..%2f..%2fetc%2fpasswd.wav", "/kept/0.upload", "/web/../serve.py", "/kept/*.wav"]
)
def test_nothing_else_is_let_out(address, path):
    assert requests.get(address + path, timeout=WAIT).status_code == 404


def test_a_full_disk_takes_the_sound_but_not_the_verdict(root, clip, tmp_path):
    upload = clip.read_bytes()
    options = {"environment": {"TMPDIR": str(tmp_path)}, "largest_file": len(upload) + 1000}
    with server(root / "data" / "detector", signal.SIGINT, **options) as (address, _):
        result = judge(address, upload).json()
        assert result["verdict"] in ("normal", "anomalous") and not result["sound"] and not result["picture"]
        assert requests.get(f"{address}/kept/{result['number']}.wav", timeout=WAIT).status_code == 404
        refused = judge(address, upload + bytes(2000))
        assert refused.status_code == 507 and "cannot keep the recording" in refused.json()["error"]
        assert "score" in judge(address, upload).json()
        assert [path.name for path in tmp_path.rglob("*.*") if path.is_file()] == []
    assert list(tmp_path.iterdir()) == []


def test_no_name_changes_what_the_terminal_shows(running, clip):
    address, process = running
    name, machine = "a\x1b[2J\u202e.flac", "pump\x1b]0;x\x07/id_00"
    result = judge(address, clip.read_bytes(), name, machine).json()
    assert "unknown" in result["error"] and (result["file"] + result["error"]).isprintable()
    line = next(line for line in process.stderr if line.startswith("a\\x1b[2J\\u202e.flac: "))
    assert line.removesuffix("\n").isprintable()


def test_a_port_that_is_taken_is_an_error(address, detector):
    with pytest.raises(OSError, match="in use"):
        serve(Judge(detector), "127.0.0.1", int(address.rsplit(":", 1)[1]))


def test_more_recordings_than_there_is_room_for_are_told_to_come_again(address, clip):
    held = []
    for _ in range(PLACES):
        connection = http.client.HTTPConnection(address.removeprefix("http://"))
        connection.putrequest("POST", "/judge?machine=pump/id_00")
        for name, value in (ASKED | {"Content-Length": "1000"}).items():
            connection.putheader(name, value)
        connection.endheaders(b"some")
        held.append(connection)
    try:
        answer = judge(address, clip.read_bytes())
        assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1
        assert requests.get(f"{address}/results", timeout=WAIT).ok
    finally:
        for connection in held:
            connection.close()
    assert "score" in until(lambda: judge(address, clip.read_bytes()), lambda answer: answer.ok).json()


def until(ask, done, seconds=WAIT):
    """What `ask` gives once it is `done`."""
    end = time.monotonic() + seconds
    while not done(answer := ask()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return answer


# ----------------------------------------------------------------------------------------------------------- the token


def log_in(session, address, token=TOKEN):
    return session.post(f"{address}/login", json={"token": token}, headers=ASKED, timeout=WAIT)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_open_address_wants_a_token(detector, host):
    with pytest.raises(ValueError, match="give a token"):
        serve(Judge(detector), host, 0)


@pytest.fixture(scope="module")
def guarded(root, tmp_path_factory):
    """The address of a server with a token, the link that it printed, and its process."""
    record = write_record(tmp_path_factory.mktemp("record") / "verdicts.csv")
    options = {"host": "0.0.0.0", "token": TOKEN, "allowed_hosts": ["shop.example"], "login_link": True}
    with server(root / "data" / "detector", record=str(record), **options) as (address, process):
        yield address, process.stdout.readline(), process


def test_only_who_knows_the_token_is_answered(guarded, clip):
    address, link, _ = guarded
    assert link == f"{address}/login#token={TOKEN}\n"
    with requests.Session() as session:
        for path in ("/results", "/verdicts", "/kept/0.wav"):
            assert session.get(address + path, timeout=WAIT).status_code == 401
        assert judge(address, clip.read_bytes()).status_code == 401
        assert session.get(address, timeout=WAIT).url == f"{address}/login"
        assert log_in(session, address, "wrong-wrong-wrong-wrong").status_code == 403
        assert session.get(f"{address}/results", timeout=WAIT).status_code == 401
        answer = log_in(session, address)
        assert answer.status_code == 204
        cookie = answer.headers["Set-Cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie and TOKEN not in cookie
        assert session.get(f"{address}/results", timeout=WAIT).json() == []
        assert session.get(address, timeout=WAIT).url == f"{address}/"
    cookie = {"Cookie": answer.headers["Set-Cookie"].split(";")[0]}
    for host, status in (("shop.example", 200), ("192.0.2.7:8765", 200), ("evil.example", 400)):
        answer = requests.get(f"{address}/results", headers=cookie | {"Host": host}, timeout=WAIT)
        assert answer.status_code == status


# ------------------------------------------------------------------------------------------------------- in a browser


def drop(browser, files):
    """Drop files on the page, as a mouse does; returns when their results are there."""
    from selenium.webdriver.support.ui import WebDriverWait

    script = """
        window.courier = document.createElement("input");
        courier.type = "file"; courier.multiple = true; document.body.append(courier);
        return courier;
    """
    before = browser.execute_script("return document.querySelectorAll('#results article').length")
    browser.execute_script(script).send_keys("\n".join(map(str, files)))
    browser.execute_script("""
        const transfer = new DataTransfer();
        for (const file of courier.files) transfer.items.add(file);
        courier.remove();
        const drop = new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: transfer});
        document.getElementById("drop").dispatchEvent(drop);
    """)
    wait = WebDriverWait(browser, WAIT)
    count = "return document.querySelectorAll('#results article').length"
    wait.until(lambda _: browser.execute_script(count) == before + len(files))
    wait.until(lambda _: browser.find_element("id", "results").get_attribute("aria-busy") == "false")


def loaded(browser):
    """Whether the newest result's picture has pixels and every player knows its sound's length."""
    return browser.execute_script("""
        const picture = document.querySelector("#results details[open] img");
        picture.scrollIntoView();
        return picture.complete && picture.naturalWidth > 100
            && [...document.querySelectorAll("audio")].every((one) => one.readyState >= 1 && one.duration > 0.9);
    """)


def show(browser, width):
    settings = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)


def errors(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_the_page_in_a_browser(address, clip, root, browser, tmp_path):
    from selenium.webdriver.support.ui import Select, WebDriverWait

    strange = tmp_path / "<img src=x onerror=alert(1)>.wav"
    strange.write_bytes(b"no sound")
    browser.get_log("performance")
    browser.get(address)
    Select(browser.find_element("id", "machine")).select_by_value("pump/id_00")
    drop(browser, [clip])
    newest = browser.find_element("css selector", "#results article")
    assert newest.find_element("tag name", "h3").text in ("Normal", "Anomalous")
    assert clip.name in newest.text and "threshold" in newest.text
    WebDriverWait(browser, WAIT).until(loaded)
    drop(browser, [strange])
    assert "<img src=x onerror=alert(1)>.wav" in browser.find_element("css selector", "article.error").text

    drop(browser, [clip])
    browser.refresh()
    WebDriverWait(browser, WAIT).until(lambda _: clip.name in browser.find_element("id", "results").text)
    WebDriverWait(browser, WAIT).until(loaded)
    for width in (390, 1000):
        show(browser, width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert errors(browser) == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert asked and {url for url in asked if not url.startswith((f"{address}/", "data:"))} == set()


def write_record(path):
    """A watcher's record with p-values of a pump that gets worse, scores of a fan, and a file that is no recording."""
    columns = "judged,file,machine_type,machine_id,score,threshold,verdict,error,p_value,alpha,n"
    rows = [
        f"2026-11-0{day + 1}T12:00:00+00:00,pump{day}.wav,pump,id_00,{day},5.5,{verdict},,{p},0.01,400"
        for day, (p, verdict) in enumerate([(0.5, "normal"), (0.2, "normal"), (0.004, "anomalous")])
    ]
    rows += ["2026-11-01T12:00:00+00:00,fan.wav,fan,id_00,0.5,0.7,normal,,,,"]
    rows += ["2026-11-01T12:00:00+00:00,text.wav,,,,,,cannot be decoded,,,"]
    path.write_text("\n".join([columns, *rows, ""]))
    return path


def test_machines_over_time_by_keyboard_on_a_phone_after_a_login(guarded, browser, clip):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def until_there(selector):
        return WebDriverWait(browser, WAIT).until(lambda _: browser.find_elements("css selector", selector))

    def press(*keys):
        browser.switch_to.active_element.send_keys(*keys)

    def focused(selector, limit=30):
        """Go on with the tab key to an element."""
        for _ in range(limit):
            press(Keys.TAB)
            if browser.execute_script(f"return document.activeElement.matches({selector!r})"):
                outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
                assert outline == "solid" or selector == "#file"
                return
        raise AssertionError(f"{selector} is not reached by the keyboard")

    show(browser, 390)
    address, link, process = guarded
    browser.get(address)
    assert browser.current_url == f"{address}/login"
    press("wrong-wrong-wrong-wrong", Keys.ENTER)
    WebDriverWait(browser, WAIT).until(lambda _: "not the token" in browser.find_element("id", "status").text)
    press(TOKEN, Keys.ENTER)
    pump, fan = until_there("article.machine")
    assert browser.current_url == f"{address}/" and browser.title.startswith("1 anomalous")
    assert "pump id_00" in pump.text and "Anomalous" in pump.text and "p = 0.004" in pump.text
    assert "Normal" in fan.text and "threshold, 0.7" in fan.text
    assert [len(card.find_elements("css selector", "svg title")) for card in (pump, fan)] == [3, 1]
    labels = [card.find_element("css selector", "svg").get_attribute("aria-label") for card in (pump, fan)]
    assert labels[0] == "1 of the last 3 recordings anomalous. p-values; dashed: promised rate of false alarms, 0.01"
    limit, *marks = (
        float(one.get_attribute(name))
        for selector, name in ((".limit", "y1"), ("circle", "cy"))
        for one in pump.find_elements("css selector", selector)
    )
    assert all(mark < limit for mark in marks)  # the normal ones lie above the promised rate
    assert browser.find_element("id", "unheard").text == "No verdict yet: fan id_02"
    assert "text.wav: not judged: cannot be decoded" in browser.find_element("id", "unjudged").text
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390

    browser.execute_script("document.activeElement.blur()")
    focused("summary")
    press(Keys.ENTER)
    assert "pump1.wav" in pump.text
    focused("#machine")
    press("p")  # the only machine that begins so
    focused("#file")
    press(str(clip))
    result = until_there("#results article")[0]
    assert "pump id_00" in result.text
    count = "article.machine svg title"
    WebDriverWait(browser, WAIT).until(lambda _: len(browser.find_elements("css selector", count)) >= 4)
    assert [one for one in errors(browser) if "401" not in one and "403" not in one] == []

    browser.delete_all_cookies()
    browser.get(address)
    browser.get(link.strip())
    until_there("article.machine")
    assert TOKEN not in browser.current_url
    with requests.Session() as session:
        for _ in range(FAILURES):
            log_in(session, address, "guess-guess-guess-guess")
        refused = log_in(session, address)
    assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
    process.send_signal(signal.SIGTERM)
    process.wait(WAIT)
    WebDriverWait(browser, WAIT).until(lambda _: "may be old" in browser.find_element("id", "news").text)


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
        assert browser.find_element("css selector", "#results article h3").text in ("Normal", "Anomalous")
        WebDriverWait(browser, WAIT).until(loaded)
