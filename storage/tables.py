"""Tables that people write: CSV from any spreadsheet or editor in, and cells that no spreadsheet takes for formulas.

Every message has the same form: file, line, column: what is wrong; what is allowed.
"""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SEPARATORS = ",;\t"
_MARKS = {  # byte order marks; UTF-32's begins with UTF-16's
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_CURE = "save it as CSV UTF-8"


@dataclass(frozen=True)
class Row:
    """A row of a table: its cells by column, without blanks at their ends, and where it stands."""

    table: Path
    line: int  # of the file, counted from 1
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]

    def wrong(self, column: str, what: str, allowed: str) -> ValueError:
        """The error to raise for a cell."""
        return ValueError(f"{self.table}, line {self.line}, column {column}: {what}; {allowed}")


def read_table(
    path: Path,
    needed: Iterable[str],
    optional: Mapping[str, str] | None = None,
    synonyms: Mapping[str, Iterable[str]] | None = None,
) -> list[Row]:
    """The rows of the table at `path`, which has the columns `needed`, may have those `optional`, and others.

    Its first line names the columns, in upper or lower case, with blanks or underscores. `optional` tells what stands
    in the cells of a column that the table does not have. `synonyms` are other names of a column, best first; the
    columns choose one after another from what is there. Cells are separated by commas, semicolons or tabs. UTF-8,
    UTF-16 with its mark and Windows' cp1252 are read; rows without any text are left out.

    Raises ValueError naming file and line for a file that cannot be read, columns that are missing or stand twice, rows
    with other numbers of cells than there are columns, quotes that are not closed, and where there are no rows.
    """
    optional = optional or {}
    lines = read_rows(path)
    number, header = next(lines, (1, []))
    found = _columns(header, [*needed, *optional], synonyms or {})
    where = f"{path}, line {number}"
    if missing := [name for name in needed if name not in found]:
        raise ValueError(f"{where}: no column {', '.join(missing)}; it has {', '.join(found) or 'none'}")
    if twice := [name for name, times in Counter(found).items() if times > 1]:
        raise ValueError(f"{where}: column {', '.join(twice)} stands twice; each is allowed once")
    rows = []
    for line, cells in lines:
        while len(cells) > len(found) and not cells[-1]:
            cells.pop()
        if len(cells) != len(found):
            hint = "text with a separator in it needs quotes" if len(cells) > len(found) else "none may be left out"
            raise ValueError(f"{path}, line {line}: {len(cells)} cells for {len(found)} columns; {hint}")
        rows.append(Row(path, line, {**optional, **dict(zip(found, cells, strict=True))}))
    if not rows:
        raise ValueError(f"{path}: no rows below the names of the columns; at least one is needed")
    return rows


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a table that does not name its columns: number and cells of each; read as `read_table` does.

    Raises ValueError naming file and line for a file that cannot be read, and for quotes that are not closed.
    """
    return _records(path, _text(path))


def safe_cell(text: str) -> str:
    """`text` as a cell that no spreadsheet takes for a formula; numbers stay as they are. `plain_cell` undoes it.

    >>> safe_cell("=1+2.wav"), safe_cell("-0.5"), safe_cell("pump.wav")
    ("'=1+2.wav", '-0.5', 'pump.wav')
    """
    if not text.startswith(("=", "+", "-", "@", "\t", "\r", "'")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def plain_cell(cell: str) -> str:
    """What `safe_cell` was given."""
    return cell.removeprefix("'")


def _text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: may not be read ({error.strerror})") from None
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return _decoded(path, content[len(mark) :], encoding)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return _decoded(path, content, "cp1252")


def _decoded(path: Path, content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(encoding, "replace")
        tried = "neither UTF-8 nor cp1252" if encoding == "cp1252" else f"not {encoding}, as its first bytes say"
        raise ValueError(f"{path}, line {before.count(chr(10)) + 1}: {tried}; {_CURE}") from None


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The lines of a table, each with its number and its cells, those without any text left out."""
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise ValueError(f"{path}, line {line}: a NUL character, so it is no text or of another encoding; {_CURE}")
    first = re.split("[\r\n]", text.lstrip(), maxsplit=1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(SEPARATORS, key=first.count), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            reason = (
                "a quote that is not closed" if "end of data" in str(error) or "limit" in str(error) else str(error)
            )
            raise ValueError(f"{path}, line {line}: {reason}; a quote within a text is written twice") from None
        if any(cells):
            yield line, cells


def _columns(header: list[str], names: Iterable[str], synonyms: Mapping[str, Iterable[str]]) -> list[str]:
    """The names of the columns: those of `names` where they or a synonym stand, the others in small letters."""
    found = ["_".join(cell.casefold().split()) for cell in header]
    while found and not found[-1]:  # of a separator at the end of the line
        found.pop()
    for name in names:
        written = next((each for each in (name, *synonyms.get(name, ())) if each in found), None)
        found = [name if cell == written else cell for cell in found]
    return found
