"""Tables as spreadsheets and editors write them, and what is said of those that cannot be read."""

import csv
import io
import os

import pytest

from storage.tables import plain_cell, read_table, safe_cell

TEXT = 'file,machine,note\na.wav,Lüfter 1,"loud, hot"\nb.wav,Pump,\n'
ROWS = [{"file": "a.wav", "machine": "Lüfter 1", "note": "loud, hot"}, {"file": "b.wav", "machine": "Pump", "note": ""}]


@pytest.fixture
def table(tmp_path):
    def write(content: str | bytes):
        path = tmp_path / "table.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def cells(path, *needed, **options):
    return [dict(row.cells) for row in read_table(path, needed or ["file", "machine"], **options)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_any_encoding_and_line_end_is_the_same_table(table, encoding, line_end):
    assert cells(table(TEXT.replace("\n", line_end).encode(encoding))) == ROWS


def test_utf_16_of_either_order(table):
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        assert cells(table(mark + TEXT.encode(encoding))) == ROWS


@pytest.mark.parametrize("separator", [";", "\t"])
def test_semicolons_and_tabs_separate_too(table, separator):
    text = "".join(separator.join(row) + "\n" for row in csv.reader(io.StringIO(TEXT)))
    assert cells(table(text)) == ROWS  # "loud, hot" needs no quotes now


def test_columns_in_any_case_and_order_under_other_names_with_others_between(table):
    path = table("NOTE; File Name ;Colour;MACHINE;\n x ; a.wav ;red;Pump;\n;;;;\n\n")
    [row] = read_table(path, ["file", "machine"], {"note": "", "split": "train"}, {"file": ("file_name", "path")})
    assert (row["file"], row["machine"], row["note"], row.line) == ("a.wav", "Pump", "x", 2)
    assert row["split"] == "train"


def test_a_synonym_is_of_the_column_that_needs_it_first(table):
    synonyms = {"id": ["number", "machine"], "type": ["machine"]}
    for header, expected in (
        ("file,machine", {"file": "a", "id": "b", "type": "?"}),
        ("machine,number", {"type": "a", "id": "b"}),
        ("machine,type", {"id": "a", "type": "b"}),
    ):
        assert cells(table(f"{header}\na,b\n"), "id", optional={"type": "?"}, synonyms=synonyms) == [expected]


def test_rows_know_their_line_whatever_stands_before(table):
    rows = read_table(table('\n\nfile,machine\n"a\n\nb",x\n\nc,y\n'), ["file"])
    assert [(row.line, row["file"]) for row in rows] == [(4, "a\n\nb"), (8, "c")]
    assert str(rows[1].wrong("machine", "'y' is unknown", "allowed are x, z")).endswith(
        "table.csv, line 8, column machine: 'y' is unknown; allowed are x, z"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: no column file, machine; it has none"),
        (b"file,id\na,b\n", "line 1: no column machine; it has file, id"),
        (b"file,machine,FILE\na,b,c\n", "line 1: column file stands twice; each is allowed once"),
        (b"file,machine\n", "no rows below the names of the columns; at least one is needed"),
        (b"file,machine\na,b\na,b,c\n", "line 3: 3 cells for 2 columns; text with a separator in it needs quotes"),
        (b"file,machine,note\na,b\n", "line 2: 2 cells for 3 columns; none may be left out"),
        (b'file,machine\na,b\n"c,d\ne,f\n', "line 3: a quote that is not closed; a quote within a text is written twi"),
        (b'file,machine\n"c" d,e\n', "line 2: ',' expected after '\"'; a quote within a text is written twice"),
        (b'file,machine\n"' + b"long " * 40_000 + b"\n", "line 2: a quote that is not closed"),
        (b"file,machine\na,b\nc\0,d\n", "line 3: a NUL character, so it is no text or of another encoding; save it as"),
        (TEXT.encode("utf-16-le"), "line 1: a NUL character"),  # without its mark
        (b"file,machine\na,b\n\xe4\x81,c\n", "line 3: neither UTF-8 nor cp1252; save it as CSV UTF-8"),
        (b"\xff\xfea", "line 1: not utf-16-le, as its first bytes say; save it as CSV UTF-8"),
    ],
)
def test_what_is_wrong_is_one_line_with_file_and_place(table, content, message):
    path = table(content)
    with pytest.raises(ValueError) as error:
        read_table(path, ["file", "machine"])
    assert str(error.value).startswith(str(path)) and message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for name, reason in (("pipe.csv", "not a regular file"), (".", "not a regular file"), ("none.csv", "no such file")):
        with pytest.raises(ValueError, match=reason):
            read_table(tmp_path / name, ["file"])


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+2", "-2+3", "@SUM(A1)", "\t=1", "-x.wav", "'=quoted"])
def test_what_would_be_a_formula_is_text(text):
    assert safe_cell(text) == f"'{text}"
    assert plain_cell(safe_cell(text)) == text


@pytest.mark.parametrize("text", ["", "a.wav", "-0.5", "+3", "-1e-05", "a=b", "it's"])
def test_other_cells_stay_as_they_are(text):
    assert safe_cell(text) == text
    assert plain_cell(safe_cell(text)) == text


def test_tables_from_the_field(field_files):
    [row] = read_table(field_files / "clips_cp1252.csv", ["file", "machine_id"])
    assert (row["file"], row["machine_type"]) == ("Lüfter 1.wav", "Lüfter")
    rows = read_table(field_files / "clips_tabs.csv", ["file", "machine", "id"])
    assert [(row["id"], row["condition"]) for row in rows] == [("3A", "OK"), ("3A", "NOK")]
    first, second = read_table(field_files / "clips_backslashes.csv", ["file"])
    assert (first["file"], second["condition"]) == (r"fan\normal\a.wav", "anomaly")
