"""clips.csv as people write it: which recordings it lists, and the line and column of what is wrong with it."""

import unicodedata

import pytest

from audio.layouts.found import find_recordings
from audio.layouts.table import in_table
from audio.recordings import Recording, Refusal


@pytest.fixture
def corpus(tmp_path):
    """Writes clips.csv beside a.wav and b.wav, which no one opens to read the table; returns what it lists."""

    def write(text, encoding="utf-8"):
        for name in ("a.wav", "b.wav"):
            (tmp_path / name).write_bytes(b"sound")
        (tmp_path / "clips.csv").write_text(text, encoding=encoding)
        return in_table(tmp_path)

    return write


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_table_from_any_program(corpus, separator, encoding):
    lines = ["File,Machine,ID,Condition,Split", "a.wav,Lüfter,3A,OK,train", "b.wav,Lüfter,3A,NOK,test"]
    found = corpus("\n".join(lines).replace(",", separator), encoding)
    assert found == [
        Recording("a.wav", "Lüfter", "3A", "train", "normal"),
        Recording("b.wav", "Lüfter", "3A", "test", "anomaly"),
    ]


def test_columns_that_may_be_left_out_and_ids_that_are_numbers(corpus):
    first, second = corpus("path,machine\na.wav,0\nb.wav,id_01\n")
    assert (first.machine_id, second.machine_id, first.condition, first.split) == ("id_00", "id_01", "normal", "")
    first, second = corpus("path,machine\na.wav,0\nb.wav,press\n")
    assert (first.machine_id, second.machine_id) == ("0", "press")
    first, _ = corpus("path,machine\na.wav,\u0661\nb.wav,02\n")
    assert first.machine_id == "\u0661"  # no digit of ours


@pytest.mark.parametrize(
    ("cells", "wrong"),
    [
        ("a.wav,fan,0,normal,train", "column file: listed twice; each file is allowed once"),
        ("../a.wav,fan,0,normal,train", "column file: lies outside the corpus folder; paths in it are allowed"),
        ("C:\\a.wav,fan,0,normal,train", "column file: lies outside the corpus folder; paths in it are allowed"),
        ("b.wav,fan,0,maybe,train", "column condition: 'maybe'; allowed are, for normal: normal, normals, healthy"),
        ("b.wav,fan,0,normal,dev", "column split: 'dev'; allowed are train, test"),
    ],
)
def test_a_row_that_is_wrong_is_refused_with_its_line_and_column(corpus, tmp_path, cells, wrong):
    _, refusal = corpus(f"file,machine_type,machine_id,condition,split\na.wav,fan,0,normal,train\n\n{cells}\n")
    assert isinstance(refusal, Refusal)
    assert refusal.reason.startswith(f"{tmp_path / 'clips.csv'}, line 4, {wrong}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no column file, machine_id; it has none"),
        ("file,type\na.wav,fan\n", "line 1: no column machine_id; it has file, machine_type"),
        ("file,id\n", "no rows below the names of the columns"),
        ("file,id\na.wav,1,\nb.wav,2,3\n", "line 3: 3 cells for 2 columns"),
        ('file,id\n"a.wav,1\n', "line 2: a quote that is not closed"),
        ("file,id,split\na.wav,1,train\nb.wav,1,\n", "line 3, column split: given for some clips of"),
        ("file,id\nc.wav,1\nd.wav,1\n", "no such file: c.wav, d.wav; none of the 2 listed is there"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(corpus, text, message):
    with pytest.raises(ValueError, match=r"clips\.csv") as error:
        corpus(text)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_unicode_of_a_mac_and_backslashes_find_their_files(corpus, tmp_path):
    on_disk = unicodedata.normalize("NFD", "Lüfter 1.wav")
    (tmp_path / on_disk).write_bytes(b"sound")
    (tmp_path / "fan").mkdir()
    (tmp_path / "fan" / "c.wav").write_bytes(b"sound")
    first, second = corpus("file,id\nLüfter 1.wav,A\nfan\\c.wav,A\n")
    assert (first.file, second.file) == (on_disk, "fan/c.wav")


def test_files_that_the_table_does_not_list_are_told_of(corpus, tmp_path):
    corpus("file,id\na.wav,A\n")
    found = find_recordings(tmp_path)
    assert [one.file for one in found.recordings] == ["a.wav"]
    assert found.notes == ["1 sound files are not in clips.csv and are not taken"]


def test_tables_from_the_field(field_files, tmp_path):
    for name, machine, file in (
        ("tabs", ("fan", "3A"), "fan/a.wav"),
        ("backslashes", ("fan", "id_00"), "fan/bad/b.wav"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "clips.csv").write_bytes((field_files / f"clips_{name}.csv").read_bytes())
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_bytes(b"sound")
        [found] = [one for one in in_table(folder) if isinstance(one, Recording)]
        assert ((found.machine_type, found.machine_id), found.file) == (machine, file)
