"""The downloader against a local server that breaks in every way the real one may."""

import base64
import contextlib
import hashlib
import http.server
import io
import logging
import re
import threading
import time
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio import dcase2020
from audio.dcase2020 import Archive, fetch, read_archives, unpack
from audio.importing import import_recordings
from tests.conftest import ROOT, largest_file

SETTINGS = {
    "types": [],
    "subsets": ["dev", "additional"],
    "channel": 0,
    "split_seed": 0,
    "calibration_share": 0.2,
    "on_bad_clip": "error",
}


@dataclass
class Server:
    """What the server has, how it misbehaves, and what it was asked."""

    files: dict[str, bytes]
    busy: int = 0  # answers 503 to so many GETs
    cut: int = 0  # breaks off so many GETs after half of what they asked for
    ranges: bool = True
    says_length: bool = True
    claims: int | None = None  # length that HEAD gives
    headers: dict[str, str] = field(default_factory=dict)  # further ones of its answers
    redirects: dict[str, str] = field(default_factory=dict)  # where it sends who asks for a file
    endless: bool = False  # the body goes on and on
    drip: float = 0.0  # seconds between two bytes
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, file, Range
    address: str = ""
    authorised: set[str | None] = field(default_factory=set)  # what the GETs gave as Authorization

    def gets(self) -> list[str | None]:
        return [wanted for method, _, wanted in self.asked if method == "GET"]


@pytest.fixture
def serve():
    """Start a server on loopback for a Server's files."""
    running = []

    def start(server: Server) -> Server:
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def end_headers(self):
                for name, value in server.headers.items():
                    self.send_header(name, value)
                super().end_headers()

            def redirected(self) -> bool:
                if (place := server.redirects.get(self.path.lstrip("/"))) is None:
                    return False
                self.send_response(302)
                self.send_header("Location", place)
                self.end_headers()
                return True

            def do_HEAD(self):
                content = server.files.get(self.path.lstrip("/"))
                server.asked.append(("HEAD", self.path, None))
                if self.redirected():
                    return
                self.send_response(200 if content else 404)
                if content and (server.claims or server.says_length):
                    self.send_header("Content-Length", str(server.claims or len(content)))
                self.end_headers()

            def do_GET(self):
                content = server.files.get(self.path.lstrip("/"))
                wanted = self.headers.get("Range")
                server.authorised.add(self.headers.get("Authorization"))
                server.asked.append(("GET", self.path, wanted))
                if self.redirected():
                    return
                if content is None or server.busy:
                    server.busy -= content is not None
                    self.send_error(404 if content is None else 503)
                    return
                start = 0
                if wanted and server.ranges:
                    start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
                    if start >= len(content):
                        self.send_response(416)
                        self.send_header("Content-Range", f"bytes */{len(content)}")
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                body = content[start:]
                if server.says_length:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if server.cut:
                    server.cut -= 1
                    body = body[: len(body) // 2]
                with contextlib.suppress(ConnectionError):
                    while server.endless:
                        self.wfile.write(bytes(10_000))
                    for place in range(len(body) if server.drip else 0):
                        self.wfile.write(body[place : place + 1])
                        time.sleep(server.drip)
                    self.wfile.write(body)
                self.close_connection = True

        httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        running.append(httpd)
        server.address = f"http://127.0.0.1:{httpd.server_port}/"
        return server

    yield start
    for httpd in running:
        httpd.shutdown()
        httpd.server_close()


def wav(rng) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, rng.integers(-9000, 9000, 32000, dtype=np.int16), 16000, format="WAV")
    return file.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def entry(subset: str, file: str, content: bytes) -> Archive:
    return Archive(subset, "fan", "1", file, hashlib.md5(content).hexdigest())


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """Archives of the real ones' names and layout."""
    rng = np.random.default_rng(0)
    dev = {f"fan/train/normal_id_00_{number:08d}.wav": wav(rng) for number in range(4)}
    dev |= {f"fan/test/{kind}_id_00_{number:08d}.wav": wav(rng) for kind in ("normal", "anomaly") for number in (0, 1)}
    additional = {f"fan/train/normal_id_01_{number:08d}.wav": wav(rng) for number in range(2)}
    return {"dev_data_fan.zip": zipped(dev), "eval_data_train_fan.zip": zipped(additional)}


@pytest.fixture
def archives(contents) -> list[Archive]:
    return [
        entry("dev" if name.startswith("dev") else "additional", name, content) for name, content in contents.items()
    ]


def get(archives, server, folder, **how):
    return fetch(archives, folder / "cache", server.address, folder / "raw", **({"patience": 0.01} | how))


def parts(folder: Path) -> list[Path]:
    return [path for path in (folder / "cache").iterdir() if path.suffix == ".partial"]


def test_from_server_to_clips(serve, contents, archives, tmp_path):
    server = serve(Server(contents))
    paths = get(archives, server, tmp_path)
    assert [path.read_bytes() for path in paths] == list(contents.values())
    assert parts(tmp_path) == []
    unpack(paths, tmp_path / "unpacked")
    rows, refusals, _ = import_recordings(tmp_path / "unpacked", tmp_path / "raw", **SETTINGS, workers=1)
    assert refusals == []
    counts = Counter((row["machine_id"], row["subset"], row["split"], row["condition"]) for row in rows)
    assert counts == {
        ("id_00", "dev", "train", "normal"): 4,
        ("id_00", "dev", "test", "normal"): 2,
        ("id_00", "dev", "test", "anomaly"): 2,
        ("id_01", "additional", "train", "normal"): 2,
    }


def test_a_second_clone_downloads_nothing(serve, contents, archives, tmp_path):
    server = serve(Server(contents))
    first = get(archives, server, tmp_path)
    asked = len(server.asked)
    assert get(archives, server, tmp_path) == first
    assert len(server.asked) == asked


def test_a_connection_cut_half_way_goes_on_where_it_broke_off(serve, contents, archives, tmp_path):
    server = serve(Server(contents, cut=2))
    (path,) = get(archives[:1], server, tmp_path)
    content = contents["dev_data_fan.zip"]
    assert path.read_bytes() == content
    first, second, third = server.gets()
    assert first is None
    starts = [int(wanted.removeprefix("bytes=").rstrip("-")) for wanted in (second, third)]
    assert len(content) // 3 < starts[0] <= len(content) // 2 < starts[1] < len(content)


def test_a_killed_download_is_continued_by_the_next_run(serve, contents, archives, tmp_path):
    server = serve(Server(contents, cut=1000))
    with pytest.raises(OSError, match=r"dev_data_fan\.zip: .*the next run goes on from \d{5,} bytes"):
        get(archives[:1], server, tmp_path)
    (partial,) = parts(tmp_path)
    have, server.cut, server.asked = partial.stat().st_size, 0, []
    (path,) = get(archives[:1], server, tmp_path)
    assert path.read_bytes() == contents["dev_data_fan.zip"]
    assert server.gets() == [f"bytes={have}-"]


def test_a_complete_partial_needs_no_byte(serve, contents, archives, tmp_path):
    server = serve(Server(contents))
    (path,) = get(archives[:1], server, tmp_path)
    path.rename(path.with_name(f"{path.name}.partial"))
    assert get(archives[:1], server, tmp_path) == [path]
    assert path.read_bytes() == contents["dev_data_fan.zip"]


def test_a_partial_longer_than_the_file_is_dropped(serve, contents, archives, tmp_path):
    server = serve(Server(contents))
    (path,) = get(archives[:1], server, tmp_path)
    path.rename(path.with_name(f"{path.name}.partial"))
    with path.with_name(f"{path.name}.partial").open("ab") as file:
        file.write(b"more")
    assert get(archives[:1], server, tmp_path)[0].read_bytes() == contents["dev_data_fan.zip"]


def test_a_server_without_range_support_sends_all_again(serve, contents, archives, tmp_path):
    server = serve(Server(contents, cut=1, ranges=False))
    (path,) = get(archives[:1], server, tmp_path)
    assert path.read_bytes() == contents["dev_data_fan.zip"]
    assert len(server.gets()) == 2
    assert server.gets()[1] is not None, "it did ask for the rest"


def test_503_twice_is_waited_out_with_back_off(serve, contents, archives, tmp_path, caplog):
    server = serve(Server(contents, busy=2))
    with caplog.at_level(logging.WARNING):
        get(archives[:1], server, tmp_path)
    assert len(server.gets()) == 3
    waits = [float(seconds) for seconds in re.findall(r"Retrying .* in ([\d.]+) seconds", caplog.text)]
    assert waits == [0.01, 0.02]


def test_what_the_server_does_not_have_is_not_asked_for_again(serve, contents, tmp_path):
    server = serve(Server(contents))
    with pytest.raises(OSError, match=r"dev_data_pump\.zip: 404"):
        get([entry("dev", "dev_data_pump.zip", b"x")], server, tmp_path)
    assert len(server.gets()) == 1


def test_a_wrong_checksum_is_refused_and_nothing_kept(serve, contents, tmp_path):
    server = serve(Server(contents))
    archive = entry("dev", "dev_data_fan.zip", b"what DCASE 2020 published")
    with pytest.raises(ValueError, match=rf"dev_data_fan\.zip has md5 \w+, not {archive.md5}.*DCASE 2021"):
        get([archive], server, tmp_path)
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_archives_from_a_folder_are_verified_and_stay_there(contents, archives, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    paths = fetch(archives, tmp_path / "cache", str(folder), tmp_path / "raw")
    assert paths == [folder / name for name in contents]
    assert not (tmp_path / "cache").exists()
    (folder / "dev_data_fan.zip").write_bytes(b"DCASE 2021")
    with pytest.raises(ValueError, match=r"dev_data_fan\.zip has md5"):
        fetch(archives, tmp_path / "cache", str(folder), tmp_path / "raw")
    (folder / "dev_data_fan.zip").unlink()
    with pytest.raises(ValueError, match=r"disk does not hold dev_data_fan\.zip"):
        fetch(archives, tmp_path / "cache", str(folder), tmp_path / "raw")


def test_a_damaged_archive_in_the_store_is_named_and_fetched_again(serve, contents, archives, tmp_path, caplog):
    server = serve(Server(contents))
    paths = get(archives, server, tmp_path)
    paths[0].write_bytes(b"PK damaged")
    server.asked.clear()
    assert get(archives, server, tmp_path) == paths
    assert paths[0].read_bytes() == contents["dev_data_fan.zip"]
    assert f"{paths[0]} is damaged and will be fetched again" in caplog.text
    assert {file for _, file, _ in server.asked} == {"/dev_data_fan.zip"}
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted(path.name for path in paths)


# -------------------------------------------------------------------------------------------- a server that is hostile


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (
            {"redirects": {"dev_data_fan.zip": "file:///etc/passwd"}},
            "No connection adapters were found for 'file:///etc",
        ),
        ({"redirects": {"dev_data_fan.zip": "/dev_data_fan.zip"}}, "Exceeded 30 redirects"),
        ({"redirects": {"dev_data_fan.zip": "/nowhere.zip"}}, "404 Client Error"),
        ({"headers": {"Content-Encoding": "gzip"}}, "the server sends it as gzip, which was not asked for"),
        ({"says_length": False, "headers": {"Content-Length": "-5"}}, "the server gives the length '-5'"),
        ({"says_length": False, "headers": {"Content-Length": "many"}}, "the server gives the length 'many'"),
    ],
)
def test_what_will_never_pass_is_not_tried_again(serve, contents, archives, tmp_path, caplog, hostile, message):
    server = serve(Server(contents, **hostile))
    with pytest.raises(OSError) as caught:
        get(archives[:1], server, tmp_path)
    assert message in str(caught.value) and "dev_data_fan.zip" in str(caught.value) and "\n" not in str(caught.value)
    assert "Retrying" not in caplog.text
    assert list((tmp_path / "cache").glob("*.zip")) == []


def test_a_redirect_to_another_place_is_followed(serve, contents, archives, tmp_path):
    other = serve(Server(contents))
    server = serve(Server({}, redirects={name: other.address + name for name in contents}))
    assert [path.read_bytes() for path in get(archives, server, tmp_path)] == list(contents.values())


@pytest.mark.parametrize("known", [True, False])
def test_an_endless_body_ends_at_the_size_of_the_archive(
    serve, contents, archives, tmp_path, caplog, monkeypatch, known
):
    monkeypatch.setattr(dcase2020, "LARGEST", 500_000)
    size = 100_000 if known else 0
    server = serve(Server(contents, endless=True, says_length=False, claims=size))
    with pytest.raises(OSError, match=rf"dev_data_fan\.zip: sends more than the {size or 500_000} bytes"):
        get(archives[:1], server, tmp_path)
    assert "Retrying" not in caplog.text
    assert parts(tmp_path) == []


def test_a_drip_is_given_up_and_what_came_stays(serve, contents, archives, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(dcase2020, "RATE_TIME", 0.1)
    monkeypatch.setattr(dcase2020, "ATTEMPTS", 2)
    server = serve(Server(contents, drip=0.01))
    with pytest.raises(OSError, match=r"bytes came in 0 s; the next run goes on from [1-9]\d* bytes"):
        get(archives[:1], server, tmp_path)
    assert caplog.text.count("Retrying") == 1


@pytest.mark.parametrize("place", ["http://someone:secret@127.0.0.1:1/", "ftp://someone:secret@127.0.0.1/"])
def test_a_password_in_the_source_is_refused_and_printed_nowhere(archives, tmp_path, caplog, place):
    with pytest.raises(ValueError, match=r"corpus\.source") as caught:
        fetch(archives, tmp_path / "cache", place, tmp_path / "raw", 0.01)
    assert "secret" not in str(caught.value) + caplog.text


def test_a_password_of_netrc_is_used_and_printed_nowhere(serve, contents, archives, tmp_path, caplog, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server = serve(Server(contents, busy=1))
    get(archives, server, tmp_path)
    assert server.authorised == {"Basic " + base64.b64encode(b"someone:secret").decode()}
    assert "secret" not in caplog.text


# ----------------------------------------------------------------------------------------------------- room on disk


def test_it_does_not_start_without_the_room_and_says_how_much(serve, contents, archives, tmp_path):
    server = serve(Server(contents, claims=10**15))
    with pytest.raises(OSError, match=r"cache and .*raw need 8000000\.000 GB, \d+\.\d{3} GB are free"):
        get(archives, server, tmp_path)  # 2 archives of 1 PB, each once in the cache and three times unpacked
    assert server.gets() == []


def test_what_was_fetched_before_needs_no_room_again(serve, contents, archives, tmp_path, caplog):
    server = serve(Server(contents, claims=10**8))
    (tmp_path / "cache").mkdir()
    with (tmp_path / "cache" / f"{archives[0].md5}-{archives[0].file}.partial").open("wb") as file:
        file.truncate(5 * 10**7)
    with caplog.at_level(logging.INFO):
        get(archives, server, tmp_path)
        get(archives, server, tmp_path)
    needs = [float(need) for need in re.findall(r"need (\d+\.\d{3}) GB", caplog.text)]
    assert needs == [0.75, pytest.approx(3 * sum(map(len, contents.values())) / 1e9, abs=5e-4)]


def test_a_quota_that_fills_up_is_one_clear_error(serve, contents, archives, tmp_path):
    server = serve(Server(contents, says_length=False))
    full = r"dev_data_fan\.zip\.partial cannot be written: File too large: more"
    with largest_file(100_000), pytest.raises(OSError, match=full):
        get(archives[:1], server, tmp_path)
    assert len(server.gets()) == 1, "trying again would not help"
    assert list((tmp_path / "cache").glob("*.zip")) == []


def test_a_full_disk(serve, contents, archives, small_disk, tmp_path):
    server = serve(Server(contents))
    with pytest.raises(OSError, match=r"need 0\.\d+ GB, 0\.000 GB are free"):
        get(archives, server, small_disk)
    assert server.gets() == []
    server.says_length = False  # so it cannot know before
    with pytest.raises(OSError, match=r"dev_data_fan\.zip\.partial cannot be written: No space left on d"):
        get(archives, server, small_disk)
    assert list((small_disk / "cache").glob("*.zip")) == []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(OSError, match=r"unpacked need 0\.\d+ GB"):
        unpack([tmp_path / name for name in contents], small_disk / "unpacked")
    assert not (small_disk / "unpacked").exists()


# -------------------------------------------------------------------------------------------------------- unpacking


def link(name: str, target: str) -> tuple[zipfile.ZipInfo, str]:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = 0o120777 << 16
    return info, target


@pytest.mark.parametrize(
    "member",
    ["../evil.wav", "fan/../../evil.wav", "/evil.wav", "fan\\..\\..\\evil.wav", "C:\\evil.wav", "C:evil.wav", "link"],
)
def test_no_member_leaves_the_folder_and_no_link_is_made(contents, tmp_path, member):
    good, bad, target = tmp_path / "good.zip", tmp_path / "bad.zip", tmp_path / "inner" / "target"
    good.write_bytes(contents["dev_data_fan.zip"])
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("fan/train/normal_id_01_00000000.wav", b"first")
        archive.writestr(*link("fan/test", "/etc") if member == "link" else (member, b"evil"))
    with pytest.raises(ValueError, match=r"bad\.zip: '.+' (would be written outside the target folder|is a link)"):
        unpack([good, bad], target)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bad.zip", "good.zip"], "nothing was unpacked"


def test_a_file_that_is_no_archive_is_named(tmp_path):
    (tmp_path / "page.zip").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"page\.zip: File is not a zip file"):
        unpack([tmp_path / "page.zip"], tmp_path / "out")


def damaged(how: str) -> bytes:
    """An archive of two members, the second of which cannot be unpacked."""
    name = "fan/train/normal_id_00_00000001.wav"
    content = bytearray(zipped({"fan/train/normal_id_00_00000000.wav": b"whole", name: bytes(range(256)) * 100}))
    local, central = (content.rindex(mark) for mark in (b"PK\x03\x04", b"PK\x01\x02"))
    data = local + 30 + len(name)
    if how == "flipped":
        content[data + 50] ^= 1
    elif how == "checksum":
        content[central + 16] ^= 1
    elif how == "size":  # half of the true one
        content[central + 24 : central + 28] = (12800).to_bytes(4, "little")
    elif how == "encrypted":
        content[local + 6] |= 1
        content[central + 8] |= 1
    elif how == "compression":
        content[local + 8] = content[central + 10] = 97
    elif how == "cut":
        content[data + 20 : data + 60] = b""
    return bytes(content)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("flipped", "is damaged: "),
        ("checksum", "is damaged: Bad CRC-32"),
        ("size", "is damaged: "),
        ("encrypted", "is encrypted"),
        ("compression", "is compressed by method 97, unknown here"),
        ("cut", "is damaged: "),
    ],
)
def test_a_member_that_cannot_be_unpacked_is_named(tmp_path, how, reason):
    (tmp_path / "a.zip").write_bytes(damaged(how))
    with pytest.raises(ValueError) as caught:
        unpack([tmp_path / "a.zip"], tmp_path / "out")
    expected = f"{tmp_path}/a.zip: 'fan/train/normal_id_00_0000000[01].wav' {reason}"
    assert re.match(expected, str(caught.value)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("apart", [True, False])
def test_a_name_that_comes_twice_is_refused_before_anything_is_unpacked(tmp_path, apart):
    name = "fan/train/normal_id_00_00000000.wav"
    (tmp_path / "a.zip").write_bytes(zipped({"fan/": b"", name: b"first"}))
    if apart:
        (tmp_path / "b.zip").write_bytes(zipped({"fan/": b"", name: b"second"}))
    else:
        with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(name, b"second")
    archives = sorted(tmp_path.glob("*.zip"))
    with pytest.raises(ValueError, match=rf"{archives[-1]}: '{name}' is in {tmp_path}/a\.zip, too"):
        unpack(archives, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------- the table


def test_the_table_that_ships_lists_the_18_archives_of_2020():
    archives = read_archives(ROOT / "corpora" / "dcase2020.csv")
    assert len(archives) == len({archive.md5 for archive in archives}) == 18
    assert all(re.fullmatch("[0-9a-f]{32}", archive.md5) for archive in archives)
    records = {archive.subset: archive.zenodo_record for archive in archives}
    assert records == {"dev": "3678171", "additional": "3727685", "eval": "3841772"}
    prefix = {"dev": "dev_data", "additional": "eval_data_train", "eval": "eval_data_test"}
    assert all(archive.file == f"{prefix[archive.subset]}_{archive.machine_type}.zip" for archive in archives)
    assert {archive.machine_type for archive in archives} == {"fan", "pump", "slider", "valve", "ToyCar", "ToyConveyor"}
    assert archives[0].address("") == "https://zenodo.org/records/3678171/files/dev_data_fan.zip?download=1"


def test_a_table_of_something_else_is_refused(tmp_path):
    (tmp_path / "clips.csv").write_text("file,machine_type,machine_id\n")
    with pytest.raises(ValueError, match=r"clips\.csv, line 1: no column subset, zenodo_record, md5.*give the folder"):
        read_archives(tmp_path / "clips.csv")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            "dev;fan;1;../../a.zip;" + 32 * "0",
            r"line 2, column file: '\.\./\.\./a\.zip'; allowed are names of files with",
        ),
        ("dev;fan;1;a.zip;abc", "line 2, column md5: 'abc'; allowed are 32 digits 0 to 9 and a to f"),
        ("dev;fan;\u0661;a.zip;" + 32 * "0", "line 2, column zenodo_record: '\u0661'; allowed are the digits 0 to 9"),
        ("test;fan;1;a.zip;" + 32 * "0", "line 2, column subset: 'test'; allowed are dev, additional and eval"),
    ],
)
def test_a_wrong_cell_is_named_with_its_line(tmp_path, cells, message):
    (tmp_path / "list.csv").write_text(f"subset;machine_type;zenodo_record;file;md5\n{cells}\n", encoding="utf-8-sig")
    with pytest.raises(ValueError, match=r"list\.csv, " + message):
        read_archives(tmp_path / "list.csv")
