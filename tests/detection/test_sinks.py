"""The sinks: what arrives, what waits, and what is never touched or lost."""

import csv
import hashlib
import hmac
import json
import os
import resource
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from detection.judging import Judgement
from detection.sinks.forwarding import Forwarding
from detection.sinks.interface import Sinks, note
from detection.sinks.json_lines import JsonLines
from detection.sinks.outbox import Outbox
from detection.sinks.settings import open_sinks, read_settings
from detection.sinks.table import COLUMNS, Seen, Table
from storage.tables import plain_cell, safe_cell
from tests.conftest import ROOT, program
from tests.detection.verdicts import judged

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


def until(condition, seconds=60.0):
    """Wait for a condition; it must come true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)
    return found


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def settings(folder, text):
    path = folder / "monitor.yaml"
    path.write_text(text)
    return read_settings(path)


# --- notes


def test_a_note_says_what_the_judgement_says():
    normal, anomalous = note(judged()), note(judged(anomalous=True), bytes=3)
    assert normal.outcome == "normal" and normal.row["score"] == -0.5 and normal.row["verdict"] == "normal"
    assert anomalous.json["outcome"] == "anomalous" and anomalous.json["bytes"] == anomalous.row["bytes"] == 3
    assert anomalous.json["anomalous_s"] == "9.8-20.0"
    assert json.loads(anomalous.text()) == json.loads(json.dumps(anomalous.json))
    assert "windows" in anomalous.text() and "windows" not in anomalous.text(windows=False)
    error = note(Judgement("a.wav", error="silent"), channel=1)
    assert (error.outcome, error.json["error"], error.json["channel"], error.sensor) == (
        "error",
        "silent",
        1,
        "channel_1",
    )


def test_a_recording_keeps_its_id_and_another_gets_another():
    same = {note(judged(), known_by="a 1 2").json["id"] for _ in range(2)}
    others = {note(judged(), known_by="a 1 3").json["id"], note(judged(), 1, known_by="a 1 2").json["id"]}
    live = {note(judged()).json["id"] for _ in range(2)}
    assert len(same) == 1 and len(same | others | live) == 5


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number_is_an_error_and_no_verdict(figure):
    broken = note(judged(score=figure))
    assert broken.outcome == "error" and "verdict" not in broken.json and "verdict" not in broken.row
    assert "not a finite number" in broken.row["error"]


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a", "@a", "\ta", "'=1", "''@", "'plain", "plain", ""])
def test_cells_are_never_formulas_and_come_back(text):
    cell = safe_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t")) and plain_cell(cell) == text


# --- the table


def test_the_table_has_a_row_per_note(tmp_path):
    table = Table(tmp_path / "verdicts.csv")
    table.put(note(judged("=1+1\n.wav"), known_by="x", file="=1+1\n.wav", bytes=3, changed_ns=4, channels=1))
    table.put(note(Judgement("-b.wav", error="@home"), file="-b.wav", bytes=5, changed_ns=6))
    first, second = rows(table.path)
    assert list(first) == COLUMNS and first["file"] == "'=1+1\\n.wav" and first["score"] == "-0.5"
    assert (second["file"], second["error"], second["score"]) == ("'-b.wav", "'@home", "")
    assert table.seen() == {Seen("=1+1\\n.wav", 3, 4), Seen("-b.wav", 5, 6)}
    table.close()


def test_a_recording_of_which_a_channel_lacks_is_not_seen(tmp_path):
    table = Table(tmp_path / "verdicts.csv")
    state = {"file": "a.wav", "bytes": 3, "changed_ns": 4, "channels": 2}
    table.put(note(judged(), 0, **state))
    assert table.seen() == set()
    table.put(note(judged(), 1, **state))
    assert table.seen() == {Seen("a.wav", 3, 4)} and [row["channel"] for row in rows(table.path)] == ["0", "1"]
    table.close()


@pytest.mark.parametrize(
    "content",
    [
        b"2026-11-22 pump oiled\n2026-11-23 pump",  # a log
        b"a note",
        bytes(range(256)) * 8,
        b"\n",
        b"judged;file;bytes;changed_ns\n",
        b"judged,file,size\n",
        b'{"id": 1}\n',
        b"\0" * 4096,
    ],
)
@pytest.mark.parametrize("sink", [Table, JsonLines])
def test_what_is_someone_elses_is_not_touched(tmp_path, content, sink):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is not a .*; nothing was changed"):
        sink(path).put(note(judged()))
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("sink", [Table, JsonLines])
def test_pipes_and_missing_folders_are_refused(tmp_path, sink):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        sink(tmp_path / "pipe").put(note(judged()))
    with pytest.raises(FileNotFoundError, match="no such folder to write to"):
        sink(tmp_path / "deep" / "a").put(note(judged()))
    assert not (tmp_path / "deep").exists()


def filled(path, count=3):
    table = Table(path)
    for number in range(count):
        table.put(note(judged(), file=f"{number}.wav", bytes=number, changed_ns=9))
    table.close()
    return table


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[:20] + b"\n",
        lambda line: b"\0" * len(line) + b"\n",
        lambda line: line.replace(b",9,", b",nine,") + b"\n",
        lambda line: line.replace(b"pump", b"\0" * 4) + b"\n",
        lambda line: line + b',"more\n',
        lambda line: b"\n",
        lambda line: b"\xff\xfe,\n",
    ],
)
def test_a_damaged_row_is_one_line_and_the_rest_is_kept(tmp_path, caplog, damage):
    table = filled(tmp_path / "verdicts.csv")
    lines = table.path.read_bytes().splitlines(keepends=True)
    lines[2] = damage(lines[2].rstrip(b"\n"))
    table.path.write_bytes(b"".join(lines))
    assert table.seen() == {Seen("0.wav", 0, 9), Seen("2.wav", 2, 9)}
    assert [record.message for record in caplog.records] == [
        f"{table.path}: line 3 is cut or damaged: left as it is, and what it says counts for nothing"
    ]
    table.put(note(judged(), file="3.wav", bytes=3, changed_ns=9))
    table.close()
    assert table.path.read_bytes().startswith(b"".join(lines)) and len(table.seen()) == 3


def test_a_row_that_was_cut_is_not_glued_to_the_next(tmp_path):
    table = filled(tmp_path / "verdicts.csv")
    whole = table.path.read_bytes()
    table.path.write_bytes(whole[:-5])
    table.put(note(judged(), file="2.wav", bytes=2, changed_ns=9))
    table.close()
    assert table.path.read_bytes().startswith(whole[:-5] + b"\n")
    assert table.seen() == {Seen(f"{number}.wav", number, 9) for number in range(3)}


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_a_first_line_that_was_cut_is_completed(tmp_path, cut):
    path = tmp_path / "verdicts.csv"
    path.write_bytes(",".join(COLUMNS).encode()[:cut])
    filled(path)
    assert [row["file"] for row in rows(path)] == ["0.wav", "1.wav", "2.wav"]


def test_a_table_of_an_earlier_version_and_a_spreadsheets_goes_on(tmp_path):
    path = tmp_path / "verdicts.csv"
    path.write_bytes(b"\xef\xbb\xbfjudged,file,bytes,changed_ns,verdict\r\nnow,a.wav,1,2,normal\r\n")
    filled(path, 1)
    assert Table(path).seen() == {Seen("a.wav", 1, 2), Seen("0.wav", 0, 9)}
    assert path.read_bytes().splitlines()[-1].endswith(b",0.wav,0,9,normal")


def test_a_table_that_was_moved_away_is_begun_anew(tmp_path):
    table = Table(tmp_path / "verdicts.csv")
    table.put(note(judged()))
    table.path.rename(tmp_path / "old.csv")
    table.put(note(judged()))
    table.close()
    assert len(rows(table.path)) == len(rows(tmp_path / "old.csv")) == 1


@contextmanager
def full_disk(size):
    """No file of this process grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("sink", [Table, JsonLines])
def test_nothing_is_lost_or_cut_by_a_full_disk(tmp_path, sink, caplog):
    file = sink(tmp_path / "verdicts")
    sinks = Sinks([file])
    sinks.put(note(judged("first.wav")))
    before = file.path.read_bytes()
    with full_disk(len(before) + 20):
        sinks.put(note(judged("second.wav")))
        sinks.put(note(judged("third.wav")))
        assert file.path.read_bytes() == before
    sinks.close()
    lines = file.path.read_text().splitlines()
    places = [next(place for place, line in enumerate(lines) if name in line) for name in ("first", "second", "third")]
    assert sorted(places) == places and lines[-1] == lines[places[-1]]
    assert len([record for record in caplog.records if "verdicts wait for it" in record.message]) == 1
    assert len([record for record in caplog.records if "works again" in record.message]) == 1


def test_two_programs_do_not_share_a_table(tmp_path):
    with open_sinks(record=Table(tmp_path / "a.csv")), pytest.raises(ValueError, match="in use by another watcher"):
        Table(tmp_path / "a.csv").open()


# --- JSON lines


def test_json_lines(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    JsonLines(path).put(note(judged("Lüfter\udcff.wav", anomalous=True)))
    path.write_bytes(path.read_bytes() + b'{"cut')
    JsonLines(path).put(note(Judgement("b.wav", error="silent")))
    first, cut, last = path.read_text().splitlines()
    assert json.loads(first)["windows"][1]["anomalous"] and json.loads(first)["file"] == "Lüfter\\udcff.wav"
    assert cut == '{"cut' and json.loads(last)["outcome"] == "error"


# --- the queue on the disk


def texts(outbox):
    found = []
    while first := outbox.first():
        found.append(first[1])
        outbox.remove(first[0])
    return found


def test_what_waits_is_there_after_a_restart_in_order(tmp_path):
    outbox = Outbox(tmp_path / "deep" / "a.sqlite", 100)
    for text in "abc":
        outbox.add(text)
    outbox.remove(outbox.first()[0])
    outbox.close()
    again = Outbox(tmp_path / "deep" / "a.sqlite", 100)
    assert len(again) == 2 and texts(again) == ["b", "c"] and len(again) == 0


def test_a_full_queue_keeps_the_oldest_and_the_last_and_counts(tmp_path):
    outbox = Outbox(tmp_path / "a.sqlite", 3)
    for text in "abcdef":
        outbox.add(text)
    assert outbox.dropped == 3 and len(outbox) == 3 and texts(outbox) == ["a", "b", "f"]


def test_a_file_that_is_no_queue_is_not_touched(tmp_path):
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"a letter" * 1000)
    with pytest.raises(ValueError, match="no queue of verdicts"):
        Outbox(path, 3)
    assert path.read_bytes() == b"a letter" * 1000
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE someone (name)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match="another program's database; nothing was changed"):
        Outbox(path, 3)
    assert path.read_bytes() == before


def test_two_monitors_do_not_share_a_queue(tmp_path):
    outbox = Outbox(tmp_path / "a.sqlite", 3)
    with pytest.raises(ValueError, match="in use by another monitor"):
        Outbox(tmp_path / "a.sqlite", 3)
    outbox.close()


def test_a_queue_on_a_full_disk_waits_in_memory(tmp_path):
    outbox = Outbox(tmp_path / "a.sqlite", 1000)
    outbox.add("first")
    with full_disk(outbox.path.stat().st_size), pytest.raises(OSError):
        for _ in range(100):
            outbox.add("x" * 1000)
    count = len(outbox)
    outbox.add("last")
    assert len(outbox) == count + 1 and texts(outbox)[-1] == "last"


# --- many at once


class Failing:
    """A sink that fails while it is told to."""

    name = "failing"

    def __init__(self):
        self.fails, self.notes = True, []

    def put(self, note):
        if self.fails:
            raise RuntimeError("out\nof order")
        self.notes.append(note)

    def close(self):
        pass


def test_a_sink_that_fails_stops_nothing_says_so_once_and_gets_all_later(tmp_path, caplog):
    failing, record = Failing(), Table(tmp_path / "record.csv")
    sinks = Sinks([failing, JsonLines(tmp_path / "a.jsonl")], record.open())
    for number in range(5):
        sinks.put(note(judged(f"{number}.wav"), file=f"{number}.wav", bytes=1, changed_ns=1))
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 5
    assert record.seen() == set()  # a monitor that is killed now must judge them again
    failing.fails = False
    sinks.flush()
    assert [each.json["file"] for each in failing.notes] == [f"{number}.wav" for number in range(5)]
    assert len(record.seen()) == 5
    sinks.close()
    assert [record.message for record in caplog.records] == [
        "sink failing: out of order; verdicts wait for it",
        "sink failing: works again",
    ]


def test_what_waits_in_memory_is_bounded(monkeypatch, caplog):
    monkeypatch.setattr("detection.sinks.interface.IN_MEMORY", 3)
    failing = Failing()
    sinks = Sinks([failing])
    for number in range(6):
        sinks.put(note(judged(f"{number}.wav")))
    failing.fails = False
    sinks.flush()
    assert [each.json["file"] for each in failing.notes] == ["0.wav", "1.wav", "5.wav"]
    assert "works again; 3 verdicts were lost meanwhile" in caplog.text


# --- webhook


class Receiver(ThreadingHTTPServer):
    """An HTTP server that gives the answers it is told, then 200, and keeps what it got."""

    daemon_threads = True

    def __init__(self, *answers):
        self.answers, self.got = list(answers), []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/hook?token=hidden"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def files(self):
        return [json.loads(body)["file"] for _, body in self.got]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = self.server.answers.pop(0) if self.server.answers else 200
        if answer == "never":
            time.sleep(3)
            return
        if answer == 200:
            self.server.got.append((self.headers, body))
        self.send_response(answer)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_):
        pass


def forwarding(folder, transport, limit=100):
    return Forwarding("net", Outbox(folder / "net.sqlite", limit), transport, delays=(0.01, 0.1))


def webhook(folder, url, secret="", timeout=2.0, limit=100):
    from detection.sinks.webhook import Webhook

    return forwarding(folder, Webhook(url, secret, timeout), limit)


def test_a_webhook_is_tried_until_it_takes_the_verdict(tmp_path, caplog):
    with Receiver(500, 503, "never", 302, 404) as receiver:
        sink = webhook(tmp_path, receiver.url)
        for number in range(3):
            sink.put(note(judged(f"{number}.wav")))
        until(lambda: len(receiver.got) == 3)
        sink.close()
    assert receiver.files() == ["0.wav", "1.wav", "2.wav"] and receiver.answers == []
    assert [record.message for record in caplog.records] == [
        "sink net: the receiver answers 500 Internal Server Error; verdicts wait on the disk",
        "sink net: works again",
    ]


def test_the_signature_is_that_of_the_body(tmp_path):
    with Receiver() as receiver:
        sink = webhook(tmp_path, receiver.url, secret="geheim")
        sink.put(note(judged()))
        sink.close()
    ((headers, body),) = receiver.got
    expected = hmac.new(b"geheim", body, hashlib.sha256).hexdigest()
    assert headers["X-RCMAE-Signature"] == f"sha256={expected}" and headers["Content-Type"] == "application/json"
    assert "windows" not in json.loads(body)


def test_a_verdict_that_the_receiver_will_never_take_is_counted_and_stops_no_other(tmp_path, caplog):
    with Receiver(422, 422) as receiver:
        sink = webhook(tmp_path, receiver.url)
        for number in range(3):
            sink.put(note(judged(f"{number}.wav")))
        until(lambda: receiver.got)
        sink.close()
    assert receiver.files() == ["2.wav"] and sink.dropped == 2
    assert caplog.text.count("such verdicts are dropped") == 1


def test_verdicts_wait_for_a_receiver_over_a_restart_and_the_address_is_not_logged(tmp_path, caplog):
    with Receiver() as receiver:
        url = receiver.url
    sink = webhook(tmp_path, url)
    for number in range(4):
        sink.put(note(judged(f"{number}.wav")))
    until(lambda: "cannot be reached" in caplog.text)
    sink.close()
    assert "sink net: 4 verdicts wait for the next start" in caplog.text and "hidden" not in caplog.text
    with Receiver() as receiver:
        again = webhook(tmp_path, receiver.url)
        until(lambda: len(receiver.got) == 4)
        again.close()
    assert receiver.files() == [f"{number}.wav" for number in range(4)]


def test_a_queue_that_is_full_says_so(tmp_path, caplog):
    sink = webhook(tmp_path, "http://127.0.0.1:9/", limit=2)
    for _ in range(5):
        sink.put(note(judged()))
    sink.close()
    assert sink.dropped == 3 and caplog.text.count("2 verdicts wait, the newest are dropped from here on") == 1


# --- Prometheus


def scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_a_scrape_shows_each_machine(tmp_path):
    from detection.sinks.prometheus import Prometheus

    page = Prometheus("127.0.0.1", 0)
    page.show_queue("mqtt", lambda: 7, lambda: 2)
    for judgement in (judged(), judged(anomalous=True), judged(machine="fan/id_02", **{"threshold": 3.0})):
        page.put(note(judgement))
    page.put(note(judged(), channel=1))
    page.put(note(Judgement("a.wav", error="silent")))
    found = scrape(page.port)
    pump, fan = (
        f'{{machine_id="{each}",machine_type="{kind}",sensor=""}}'
        for kind, each in (("pump", "id_00"), ("fan", "id_02"))
    )
    assert (found["rcmae_score" + pump], found["rcmae_score" + fan]) == ("2.5", "-0.5")
    assert found["rcmae_threshold" + fan] == "3.0" and found["rcmae_drift" + fan] == "NaN"
    assert found['rcmae_verdicts_total{machine_id="id_00",machine_type="pump",outcome="anomalous",sensor=""}'] == "1.0"
    assert found['rcmae_score{machine_id="id_00",machine_type="pump",sensor="channel_1"}'] == "-0.5"
    assert found["rcmae_errors_total"] == "1.0" and found['rcmae_verdicts_waiting{sink="mqtt"}'] == "7.0"
    assert 0 <= float(found["rcmae_seconds_since_last_recording" + pump]) < 5
    page.close()


def test_a_port_in_use_is_one_line(tmp_path):
    with Receiver() as other, pytest.raises(OSError, match=f"cannot listen at 127.0.0.1:{other.server_port}"):
        open_sinks(settings(tmp_path, f"sinks: [{{type: prometheus, port: {other.server_port}}}]"))


# --- MQTT, with a real broker


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Broker:
    """A mosquitto on a free port of this computer, with a folder in which it keeps what is retained."""

    def __init__(self, folder, *lines):
        self._program, self.port = program("mosquitto"), free_port()
        self._config = folder / "mosquitto.conf"
        common = [f"listener {self.port} 127.0.0.1", "persistence true", f"persistence_location {folder}/", "user root"]
        self._config.write_text("\n".join([*common, *(lines or ["allow_anonymous true"])]) + "\n")

    def start(self):
        self._process = subprocess.Popen([self._program, "-c", self._config], stderr=subprocess.DEVNULL)
        until(self._listens)
        return self

    def _listens(self):
        assert self._process.poll() is None, "mosquitto ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def save(self):
        """Let the broker write down what it keeps: sessions with their subscriptions, too."""
        kept = self._config.parent / "mosquitto.db"
        kept.unlink(missing_ok=True)
        self._process.send_signal(signal.SIGUSR1)
        until(kept.exists)

    def kill(self):
        self._process.kill()
        self._process.wait()

    __enter__ = start

    def __exit__(self, *_):
        self.kill()


class Subscriber:
    """Hears all topics, from before a broker's restart until after it."""

    def __init__(self, port):
        self.heard, self.ready = [], threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="subscriber", clean_session=False)
        self._client.reconnect_delay_set(0.05, 0.1)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self.ready.set()
        self._client.on_message = lambda _client, _data, message: self.heard.append(message)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def __enter__(self):
        assert self.ready.wait(60)
        return self

    def __exit__(self, *_):
        self._client.disconnect()
        self._client.loop_stop()

    def files(self):
        return [json.loads(each.payload)["file"] for each in self.heard if not each.topic.endswith("status")]

    def last(self, topic):
        return next((each for each in reversed(self.heard) if each.topic == topic), None)


def retained(port):
    """Payload by topic of what a new subscriber is told."""
    with Subscriber(port) as subscriber:
        time.sleep(0.3)
        return {each.topic: each.payload.decode() for each in subscriber.heard if each.retain}


def publisher(folder, port, context=None, **identity):
    from detection.sinks.mqtt import Mqtt

    identity = {"username": "", "password": ""} | identity
    return forwarding(folder, Mqtt("127.0.0.1", port, "plant/hall 1", **identity, context=context))


def test_each_machine_has_a_topic_with_its_last_verdict(tmp_path):
    with Broker(tmp_path) as broker:
        with Subscriber(broker.port) as subscriber:
            sink = publisher(tmp_path, broker.port)
            for number, machine in enumerate(("pump/id_00", "fan/3/A#", "pump/id_00")):
                machine_type, machine_id = machine.split("/", 1)
                sink.put(note(judged(f"{number}.wav", machine_type=machine_type, machine_id=machine_id)))
            sink.put(note(judged("two.wav"), channel=1))
            sink.put(note(Judgement("bad.wav", error="silent")))
            until(lambda: len(subscriber.files()) == 5)
            assert subscriber.last("plant/hall 1/status").payload == b"online"
            assert all(each.qos == 1 for each in subscriber.heard)
            sink.close()
            until(lambda: subscriber.last("plant/hall 1/status").payload == b"offline")
        kept = retained(broker.port)
    assert set(kept) == {
        "plant/hall 1/status",
        "plant/hall 1/pump/id_00",
        "plant/hall 1/fan/3%2FA%23",
        "plant/hall 1/pump/id_00/channel_1",
    }
    assert json.loads(kept["plant/hall 1/pump/id_00"])["file"] == "2.wav" and kept["plant/hall 1/status"] == "offline"


def test_no_verdict_is_lost_when_the_broker_is_killed_and_restarted(tmp_path, caplog):
    broker = Broker(tmp_path).start()
    with Subscriber(broker.port) as subscriber:
        sink = publisher(tmp_path, broker.port)
        for number in range(60):
            if number == 20:
                until(lambda: len(subscriber.files()) == 20)  # what a broker had confirmed is its own to lose
                broker.save()  # the subscription: the publisher may be back before the subscriber
                broker.kill()
                until(lambda: "verdicts wait on the disk" in caplog.text)
            if number == 40:
                broker.start()
            sink.put(note(judged(f"{number}.wav")))
        until(lambda: len(set(subscriber.files())) == 60)
        first = list(dict.fromkeys(subscriber.files()))
        assert first == [f"{number}.wav" for number in range(60)]
        until(lambda: len(sink.outbox) == 0)
        sink.close()
    broker.kill()
    messages = [record.message for record in caplog.records if record.name.startswith("detection")]
    assert len(messages) == 2 and messages[1] == "sink net: works again"


def test_a_monitor_that_dies_leaves_its_last_will(tmp_path):
    with Broker(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        code = (
            "import sys, time; from pathlib import Path; from detection.sinks.mqtt import Mqtt\n"
            "mqtt = Mqtt('127.0.0.1', int(sys.argv[1]), 'plant', '', '')\n"
            "while True: mqtt.idle(0.1)"
        )
        process = subprocess.Popen([sys.executable, "-c", code, str(broker.port)], cwd=ROOT)
        until(lambda: (told := subscriber.last("plant/status")) and told.payload == b"online")
        process.kill()
        process.wait()
        until(lambda: subscriber.last("plant/status").payload == b"offline")


def test_a_broker_that_refuses_is_said_once(tmp_path, caplog):
    with Broker(tmp_path, "allow_anonymous false") as broker:
        sink = publisher(tmp_path, broker.port, username="someone", password="geheim")
        sink.put(note(judged()))
        until(lambda: "Not authorized" in caplog.text)
        time.sleep(0.3)
        sink.close()
    assert caplog.text.count("Not authorized") == 1 and "geheim" not in caplog.text and len(sink_texts(tmp_path)) == 1


def sink_texts(folder):
    outbox = Outbox(folder / "net.sqlite", 100)
    found = texts(outbox)
    outbox.close()
    return found


def certificate(folder, name):
    """A self-made certificate for 127.0.0.1: paths of certificate and key."""
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    command = f"{program('openssl')} req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN={name} -addext"
    target = ["subjectAltName=IP:127.0.0.1", "-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run([*command.split(), *target], check=True, capture_output=True)
    return paths


def test_a_wrong_certificate_is_never_talked_to_and_the_right_one_is(tmp_path, caplog):
    own, key = certificate(tmp_path, "own")
    other, _ = certificate(tmp_path, "other")
    with Broker(tmp_path, "allow_anonymous true", f"certfile {own}", f"keyfile {key}") as broker:
        sink = publisher(tmp_path, broker.port, ssl.create_default_context(cafile=other))
        sink.put(note(judged()))
        until(lambda: "certificate verify failed" in caplog.text)
        time.sleep(0.3)
        sink.close()
        assert caplog.text.count("certificate verify failed") == 1
        trusting = publisher(tmp_path, broker.port, ssl.create_default_context(cafile=own))
        until(lambda: len(trusting.outbox) == 0)
        trusting.close()


# --- settings


ALL = """
waiting: queue
sinks:
  - {type: csv, path: verdicts.csv}
  - {type: json_lines, path: verdicts.jsonl}
  - {type: mqtt, host: 127.0.0.1, port: 9, topic: plant/hall, username: monitor, password_env: TEST_PASSWORD}
  - {type: webhook, url: "http://127.0.0.1:9/hook", secret_env: TEST_SECRET, timeout: 5e-1}
  - {type: webhook, name: chat, url_env: TEST_URL}
"""


def test_any_number_of_sinks_at_once(tmp_path, monkeypatch):
    for name, value in (("PASSWORD", "geheim"), ("SECRET", "geheim"), ("URL", "http://127.0.0.1:9/chat")):
        monkeypatch.setenv(f"TEST_{name}", value)
    port = free_port()
    found = settings(tmp_path, f"{ALL}  - {{type: prometheus, port: {port}}}\n")
    with open_sinks(found, Table(tmp_path / "record.csv")) as sinks:
        sinks.put(note(judged(), file="a.wav", bytes=1, changed_ns=1))
        page = scrape(port)
        assert sinks.record.seen() == {Seen("a.wav", 1, 1)}
    assert [page[f'rcmae_verdicts_waiting{{sink="{name}"}}'] for name in ("mqtt", "webhook", "chat")] == ["1.0"] * 3
    assert len(rows(tmp_path / "verdicts.csv")) == len((tmp_path / "verdicts.jsonl").read_text().splitlines()) == 1
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"geheim" not in path.read_bytes()


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("sinks: [{type: mqtt, host: a, port: 99999}]", ["sinks[0].port is 99999: input should be less than or equal"]),
        ("sinks: [{type: mqtt, host: a, port: '1883'}]", ["sinks[0].port is '1883': input should be a valid integer"]),
        ("sinks: [{type: csv}]", ["sinks[0].path is missing"]),
        ("sinks: [{type: csv, path: a, colour: red}]", ["sinks[0].colour is not a setting"]),
        ("sinks: [{type: smtp}]", ["sinks[0].type is 'smtp', allowed are 'csv', 'json_lines', 'mqtt', 'prometheus', "]),
        ("sinks: [{path: a}]", ["sinks[0].type is missing"]),
        ("sinks: []\nwait: 3", ["wait is not a setting"]),
        ("sinks: []\nwaiting_limit: 0", ["waiting_limit is 0: input should be greater than or equal to 1"]),
        ("sinks: []\nfolder: /", ["folder is not a setting"]),
        ("sinks: [{type: csv, path: a}, {type: csv, path: b}]", ["2 sinks are called csv: give each another name"]),
        ("sinks: [{type: webhook}]", ["sinks[0]: exactly one of url and url_env is needed"]),
        ("sinks: [{type: webhook, url: 'ftp://a/geheim'}]", ["sinks[0].url: an address that begins with http://"]),
        ("sinks: [{type: webhook, url: 'http://a:geheim@b'}]", ["sinks[0].url: a password has no place here"]),
        (
            "sinks: [{type: webhook, url: 'http://a', secret: geheim}]",
            ["sinks[0].secret is not a setting; secrets are"],
        ),
        ("sinks: [{type: mqtt, host: a, username: b, password_env: 'ge-heim'}]", ["sinks[0].password_env: string sho"]),
        ("sinks: [{type: mqtt, host: a, password_env: A}]", ["sinks[0]: password_env needs a username"]),
        ("sinks: [{type: mqtt, host: a, topic: 'a/#'}]", ["sinks[0].topic is 'a/#': string should match"]),
        ("sinks: [{type: mqtt, host: a, ca: b}]", ["sinks[0]: ca needs tls: true"]),
        ("sinks: [{type: csv}, {type: mqtt, port: 0}]", ["sinks[0].path is missing", "host is missing", "port is 0: "]),
        ("sinks: 3", ["sinks is 3: input should be a valid list"]),
        ("", ["a list called sinks is needed"]),
        ("sinks: [", ["is not YAML"]),
        ("sinks: \xff", ["is not YAML"]),
        ("sinks: []".encode("utf-16").decode("latin-1"), ["is not YAML"]),
        ("sinks: 2026-99-99", ["is not YAML: month must be in 1..12"]),
        ("[" * 600, ["nested too deeply"]),
    ],
)
def test_each_mistake_is_one_line_without_secrets(tmp_path, text, messages):
    path = tmp_path / "monitor.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError) as error:
        read_settings(path)
    lines = str(error.value).splitlines()
    assert len(lines) == len(messages) and "geheim" not in str(error.value)
    for line, message in zip(lines, messages, strict=True):
        assert line.startswith(str(path)) and message in line


@pytest.mark.parametrize(
    ("sink", "message"),
    [
        ("{type: mqtt, host: a, username: b, password_env: TEST_UNSET}", "variable TEST_UNSET is not set"),
        ("{type: webhook, url_env: TEST_UNSET}", "variable TEST_UNSET is not set"),
        ("{type: mqtt, host: a, tls: true, ca: nowhere.pem}", "nowhere.pem holds no certificates"),
        ("{type: csv, path: nowhere/a.csv}", "no such folder to write to"),
        ("{type: json_lines, path: monitor.yaml}", "is not a file of verdicts"),
    ],
)
def test_what_can_never_work_ends_at_the_start(tmp_path, sink, message):
    with pytest.raises((ValueError, OSError), match=message):
        open_sinks(settings(tmp_path, f"sinks: [{{type: csv, name: first, path: a.csv}}, {sink}]"))
    Table(tmp_path / "a.csv").open().close()  # and the others were let go of


def test_a_package_that_is_not_installed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "detection.sinks.mqtt", None)
    monkeypatch.setitem(sys.modules, "paho", None)
    with pytest.raises(ValueError, match="sink mqtt needs the package"):
        open_sinks(settings(tmp_path, "sinks: [{type: mqtt, host: a}]"))
