"""Lists of scenes as programs of others write them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seamline.flows.collection.manifest import read_manifest
from seamline.pipeline.common.errors import InputError

LISTS = {
    "bom.csv": "\ufeffsource,note\r\none.tif,x\r\n\r\n".encode(),
    "semicolon.csv": b"note;source\r\nx;one.tif\r\n",
    "tab.csv": b"note\tsource\nx\tone.tif\n",
    "utf16.csv": "source,note\r\none.tif,x\r\n".encode("utf-16"),
    "utf16.txt": "one.tif\r\n".encode("utf-16-be").join([b"\xfe\xff", b""]),
    "capitals.csv": b"Source , Note\none.tif,x\n",
    "quoted.csv": b'source,note\r\n"one.tif","a\r\nb"\r\n',
    "quoted.txt": b'"one.tif"\r\n',
    "windows.txt": b".\\one.tif\r\n# a comment\r\n",
    "mac.txt": b"one.tif\r",
    "list.json": b'["one.tif"]',
    "objects.json": b'[{"source": "one.tif", "note": 1}]',
    "list.jsonl": b'{"source": "one.tif"}\n\n',
    "texts.ndjson": b'"one.tif"\r\n',
    "list.tsv": b"note\tsource\nx, y\tone.tif\n",
    "excel.csv": b"sep=;\r\nnote, x;source\r\na, b, c;one.tif\r\n",
    "tabs.csv": b"\xef\xbb\xbfsep=\t\r\n\r\nnote\tsource\r\na\tone.tif\r\n",
    "blank.csv": b"\r\n\r\nsource,note\r\none.tif,x\r\n",
    "comment.csv": b"# made by hand\nsource\none.tif\n",
    "pipe.csv": b"source|note\none.tif|x\n",
    "unmarked.csv": "source,note\r\none.tif,x\r\n".encode("utf-16-le"),
    "utf32.csv": "source\none.tif\n".encode("utf-32"),
    "spaces.csv": b" \n,\nsource,note\none.tif,x\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_read_as_it_is_meant(tmp_path: Path, name: str) -> None:
    (tmp_path / "one.tif").touch()
    (tmp_path / name).write_bytes(LISTS[name])
    assert [Path(source) for source in read_manifest(tmp_path / name)] == [tmp_path / "one.tif"]


def test_letters_of_an_old_code_page_are_those_of_western_europe(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("source\nÜberflug/drei ü.tif\n".encode("cp1252"))
    assert read_manifest(tmp_path / "list.csv") == [str(tmp_path / "Überflug/drei ü.tif")]


def test_a_name_with_a_backslash_stays_one_where_no_other_file_is_meant(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a\\b.tif\ns3://bucket/c\\d.tif")
    assert read_manifest(tmp_path / "list.txt") == [str(tmp_path / "a\\b.tif"), "s3://bucket/c\\d.tif"]


def test_folders_are_written_as_on_windows(tmp_path: Path) -> None:
    for name in ("sub/two.tif", "sub/deep/three.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "list.csv").write_text("source\nsub\\two.tif\nsub\\deep\\three.tif\n")
    found = read_manifest(tmp_path / "list.csv")
    assert found == [str(tmp_path / name) for name in ("sub/two.tif", "sub/deep/three.tif")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("list.csv", b"scene,note\na,b\n", "the columns 'scene', 'note'"),
        ("list.csv", b"", "the columns of an empty file"),
        ("list.json", b"[" * 100_000, "RecursionError"),
        ("list.json", b'{"source": 1}', "no list of texts"),
        ("list.json", b'[{"path": "x"}]', "no list of texts"),
        ("list.jsonl", b'{"path": "x"}', "no list of texts"),
        ("list.txt", b"\x81\x8d", "UnicodeDecodeError"),
        ("list.xlsx", b"PK\x03\x04\0\0", "an Excel or OpenDocument file.*save a spreadsheet as CSV"),
        ("list.csv", b"PK\x03\x04\0\0", "an Excel or OpenDocument file.*save a spreadsheet as CSV"),
        ("list.xls", b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel file.*save a spreadsheet as CSV"),
    ],
)
def test_what_is_no_list_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as refused:
        read_manifest(tmp_path / name)
    assert "\n" not in str(refused.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(InputError, match="got a pipe, socket or device"):
        read_manifest(tmp_path / "list.txt")
