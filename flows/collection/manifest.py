"""Lists of scenes as people, spreadsheets and programs write them: lines of text, tables, or JSON."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.atomic import refuse_special_file

_COLUMN = "source"
_TABLES = (".csv", ".tsv")
_JSON_LINES = (".jsonl", ".ndjson")
_STATED = re.compile(r'"?sep=(.)"?\s*$', re.IGNORECASE)
_DELIMITERS = ",;\t|"
"""Between the columns of a table; the one that its head has most of counts, unless the file states one."""
_SPREADSHEETS = {b"PK\x03\x04": "an Excel or OpenDocument file", b"\xd0\xcf\x11\xe0": "an old Excel file"}


def read_manifest(manifest: Path) -> list[str]:
    """Return the sources that a file lists; relative paths count from the file's folder.

    Raises:
        InputError: the file is no such list.
    """
    refuse_special_file(manifest)
    try:
        sources = _parse_manifest(_decode_text(manifest.read_bytes()), manifest.suffix.lower())
    except (OSError, ValueError, LookupError, TypeError, RecursionError, csv.Error) as error:
        raise InputError(
            f"manifest {manifest}",
            got=" ".join(f"{type(error).__name__}: {error}".split()),
            expected="a source on each line, CSV with a column source, or a JSON list of sources",
            fix="correct it; save a spreadsheet as CSV",
        ) from error
    return [_resolve_source(manifest.parent, source) for source in sources]


def _decode_text(data: bytes) -> str:
    """Return the text of a file: in Unicode, or else what Windows writes in western Europe."""
    if kind := next((kind for mark, kind in _SPREADSHEETS.items() if data.startswith(mark)), None):
        raise ValueError(kind)
    encoding = json.detect_encoding(data)  # of Unicode, with and without a mark
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError:
        return data.decode("cp1252")


def _parse_manifest(text: str, suffix: str) -> list[str]:
    if suffix == ".json":
        return _list_sources(json.loads(text))
    lines = (line.strip() for line in text.splitlines())
    if suffix in _JSON_LINES:
        return _list_sources([json.loads(line) for line in lines if line])
    if suffix in _TABLES:
        return _parse_table(text)
    return [_drop_quotes(line) for line in lines if line and not line.startswith("#")]


def _list_sources(document: object) -> list[str]:
    """Return the sources in a list of texts, or of objects with a member "source"."""
    entries = document if isinstance(document, list) else [None]
    sources = [entry.get(_COLUMN) if isinstance(entry, dict) else entry for entry in entries]
    found = [source for source in sources if isinstance(source, str)]
    if len(found) < len(sources):
        raise ValueError('no list of texts, or of objects with a text "source"')
    return found


def _parse_table(text: str) -> list[str]:
    """Return the column "source", in whatever case, of a table.

    Before its head may be empty lines, comments, and a line of Excel that states the delimiter.
    """
    lines = text.splitlines(keepends=True)
    delimiter = None
    while lines and (not re.search(r"\w", lines[0]) or lines[0].startswith("#") or _STATED.match(lines[0])):
        if stated := _STATED.match(lines.pop(0)):
            delimiter = stated[1]
    head = lines[0] if lines else ""
    rows = csv.DictReader(lines, delimiter=delimiter or max(_DELIMITERS, key=head.count))
    names = rows.fieldnames or ()
    column = next((name for name in names if name.strip().casefold() == _COLUMN), None)
    if column is None:
        raise LookupError(f"the columns {', '.join(map(repr, names)) or 'of an empty file'}")
    cells = ((row[column] or "").strip() for row in rows)
    return [cell for cell in cells if cell]


def _drop_quotes(line: str) -> str:
    """Return a line without the quotes that file managers put around a path."""
    return line[1:-1] if len(line) > 1 and line[0] == line[-1] and line[0] in "\"'" else line


def _resolve_source(folder: Path, source: str) -> str:
    if "://" in source or source.startswith(("/", "~")):
        return source
    # os.path.exists is false for names that are longer than a file system allows; Path.exists raises.
    path, written_on_windows = str(folder / source), str(folder / source.replace("\\", "/"))
    exists = os.path.exists
    return written_on_windows if not exists(path) and exists(written_on_windows) else path
