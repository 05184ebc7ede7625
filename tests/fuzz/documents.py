"""Changes of JSON, YAML, XML and plain text that respect the syntax and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from tests.fuzz.mutations import Chance

DEEP = 100_000
"""Levels of a document that is nested too deep."""
LONG = 2**20
"""Characters of a text that is too long."""
ADDRESSES = (
    "../../outside/secret.tif",
    "@OUTSIDE@/secret.tif",
    "file://@OUTSIDE@/secret.tif",
    "/vsizip/@OUTSIDE@/secret.zip/secret.tif",
    "http://canary.invalid/scene.tif",
    "/vsicurl/http://canary.invalid/scene.tif",
    "s3://canary/scene.tif",
    "GTIFF_DIR:1:@OUTSIDE@/secret.tif",
    "vrt://@OUTSIDE@/secret.tif",
    "/dev/zero",
    "/dev/stdin",
    ".",
    "..",
    "",
    "link.tif",
    "scene.vrt",
    "other.vrt",
    "a" * 300 + ".tif",
    "\0.tif",
    "%00.tif",
    "http://[::1",
    "http://canary.invalid:99999/scene.tif",
)
"""Names of what lies outside of the folder of the mutation, and of what cannot be opened."""
_NUMBERS = ("0", "-1", "1", "1e308", "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "0.1", "255", "65536", "1e-320")
_WHOLE_NUMBERS = (str(2**31), str(2**63), str(-(2**63)), str(2**64), "1" + "0" * 30, "9" * 5000)
_TEXTS = (
    "",
    " ",
    "\n",
    "a\nb\r\nc",
    "\x1b[31mred\x1b[0m",
    "\0",
    "\x7f\x85\u2028",
    "\ud800",
    "\U0001f6f0",
    "é" * 300,
    "'; DROP TABLE items; --",
    "%s%n{0}{}",
    "9999-12-31T23:59:59Z",
    "0000-00-00T00:00:00Z",
    "2026-11-22T12:00:00+99:99",
    "EPSG:4326",
    "EPSG:999999999",
    "x" * LONG,
    *ADDRESSES,
)


@dataclass(frozen=True)
class Raw:
    """Text that is written into a document as it is."""

    text: str


class Pairs(list[list[Any]]):
    """A JSON object as pairs of key and value, so that keys may be there twice."""


def damage_json(content: bytes, chance: Chance) -> bytes:
    """Change one to three values or keys of a JSON document."""
    root = [json.loads(content, object_pairs_hook=lambda pairs: Pairs([key, value] for key, value in pairs))]
    for _ in range(1 + chance.below(3)):
        places = list(_walk(root))
        if places:
            chance.of(_JSON_DAMAGES)(*chance.of(places), chance)
    return "".join(map(_write, root[:1])).encode("utf-8", "surrogatepass")


def _walk(part: list[Any]) -> Iterator[tuple[list[Any], int]]:
    """Yield every list or pair that holds a value, and the value's place in it."""
    for place, value in enumerate(part):
        holder, at = (value, 1) if isinstance(part, Pairs) else (part, place)
        if at < len(holder):
            yield holder, at
            if isinstance(holder[at], list):
                yield from _walk(holder[at])


def _write(value: Any) -> str:
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{json.dumps(pair[0])}: {_write(pair[1])}" for pair in value if len(pair) > 1) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_write, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _make_value(chance: Chance) -> Any:
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: Raw(chance.of(_NUMBERS)),
        lambda: Raw(chance.of(_NUMBERS)),
        lambda: Raw(chance.of(_WHOLE_NUMBERS)),
        lambda: chance.of(_TEXTS),
        lambda: chance.of(_TEXTS),
        lambda: chance.of((None, True, False, [], Pairs())),
        lambda: [chance.of((None, 1, "x", [], Pairs()))] * chance.of((1, 2, 1000)),
        lambda: Pairs([["a", 1], ["b", None]]),
        lambda: Raw(chance.of(("[", '{"a":')) * DEEP + "1"),
        lambda: Raw("[" * DEEP + "]" * DEEP),
        lambda: Raw("[" * 500 + "]" * 500),
    )
    return chance.of(kinds)()


def _replace(holder: list[Any], place: int, chance: Chance) -> None:
    holder[place] = _make_value(chance)


def _nudge(holder: list[Any], place: int, chance: Chance) -> None:
    """Replace a value by a similar one: a number by a number, a text by a text."""
    value = holder[place]
    if isinstance(value, str):
        holder[place] = chance.of(_TEXTS)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        holder[place] = Raw(chance.of(_NUMBERS + _WHOLE_NUMBERS))
    elif isinstance(value, list) and value:
        if chance.happens(0.5):
            times = chance.of((1, 300)) if len(value) < 20 else 0
            value.extend(value * times if len(_write(value)) < 10_000 else value[:1])
        else:
            del value[chance.below(len(value))]
    else:
        holder[place] = _make_value(chance)


def _drop(holder: list[Any], place: int, chance: Chance) -> None:
    del holder[place]  # a pair without a value is not written


def _rename(holder: list[Any], place: int, chance: Chance) -> None:
    if place == 1 and isinstance(holder[0], str):
        holder[0] = chance.of((*_TEXTS[:12], "href", "type", "id", "properties", "geometry", "links", "assets"))
    else:
        _replace(holder, place, chance)


def _wrap(holder: list[Any], place: int, chance: Chance) -> None:
    holder[place] = chance.of(([holder[place]], Pairs([["a", holder[place]], ["a", 1]])))


def _twice(holder: list[Any], place: int, chance: Chance) -> None:
    value = holder[place]
    if isinstance(value, Pairs) and value:
        value.append([chance.of([pair[0] for pair in value if pair]), _make_value(chance)])
    else:
        _nudge(holder, place, chance)


_JSON_DAMAGES: tuple[Callable[[list[Any], int, Chance], None], ...] = (
    *(_replace, _replace, _nudge, _nudge, _nudge, _drop, _rename, _wrap, _twice),
)

# --- YAML -----------------------------------------------------------------------------------------------

_LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
_YAML_TEXTS = (
    "!!python/object/apply:os.system [false]",
    "&a [*a]",
    "*nothing",
    "2026-02-31",
    "190:20:30",
    ".nan",
    "-.inf",
    "!!binary x",
    "{<<: 1}",
    "? [a]\n: b",
    "0x" + "f" * 300,
    "1_000",
    "%YAML 9.9",
    "[" * 3000,
)


def damage_yaml(content: bytes, chance: Chance) -> bytes:
    """Change a YAML document that is written as JSON, or put what only YAML knows into it."""
    if chance.happens(0.7):
        return damage_json(content, chance)
    text = content.decode()
    if chance.happens(0.2):
        keys = re.findall(r'"(\w+)": ', text)
        return f"{_LAUGHS}{chance.of(keys)}: *a{chance.below(10)}\n".encode() + b""
    found = chance.of(list(re.finditer(r': ("[^"]*"|[\d.]+|\[[^\[\]]*\])', text)))
    return (text[: found.start(1)] + chance.of(_YAML_TEXTS) + text[found.end(1) :]).encode()


# --- lines ----------------------------------------------------------------------------------------------


def damage_lines(content: bytes, chance: Chance) -> bytes:
    """Change lines and the words in them."""
    lines = content.decode().split("\n")
    for _ in range(1 + chance.below(3)):
        place = chance.below(len(lines))
        words = re.split(r"([\s,;=]+)", lines[place])
        words[chance.below(len(words))] = chance.of((*_TEXTS, *_NUMBERS, *_WHOLE_NUMBERS))
        new = chance.of(("".join(words), "".join(words), "", lines[place] + "," * 1000, '"' + lines[place]))
        lines[place : place + 1] = [new] * chance.of((0, 1, 1, 1, 1, 2, 1000 if len(new) < 1000 else 2))
        lines = lines or [""]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


# --- XML ------------------------------------------------------------------------------------------------

_ENTITIES = '<!DOCTYPE a [<!ENTITY x SYSTEM "file://@OUTSIDE@/secret.txt"><!ENTITY b "&x;&x;">]>'
_XML_TEXTS = (
    *(*_NUMBERS, *_WHOLE_NUMBERS[:4], *_TEXTS[:6], *_TEXTS[9:13], *_TEXTS[15:17], *ADDRESSES),
    "Python",
    "Complex64",
    "Float64",
    "1,2,3,4,5,6",
    "nan,nan,nan,nan,nan,nan",
    "1e300,1,0,0,0,1",
    "0,0,0,0,0,0",
)
_PYTHON_BAND = (
    '<VRTRasterBand dataType="UInt16" band="7" subClass="VRTDerivedRasterBand"><PixelFunctionType>f</PixelFunctionType>'
    "<PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionCode>open('@OUTSIDE@/secret.tif')"
    "</PixelFunctionCode></VRTRasterBand>"
)


def damage_xml(content: bytes, chance: Chance) -> bytes:
    """Change elements, attributes and texts of an XML document."""
    root = ElementTree.fromstring(content)
    for _ in range(1 + chance.below(3)):
        parents = [element for element in root.iter() if len(element)]
        parent = chance.of(parents) if parents else root
        chance.of(_XML_DAMAGES)(parent, chance.of(list(root.iter())), chance)
    text = ElementTree.tostring(root, encoding="unicode")
    if chance.happens(0.05):
        text = _ENTITIES + text
    if chance.happens(0.1) and "</VRTDataset>" in text:
        text = text.replace("</VRTDataset>", _PYTHON_BAND + "</VRTDataset>")
    return text.encode("utf-8", "surrogatepass")


def _set_text(parent: ElementTree.Element, element: ElementTree.Element, chance: Chance) -> None:
    leaves = [leaf for leaf in parent.iter() if not len(leaf)]
    (chance.of(leaves) if leaves else element).text = _drop_controls(chance.of(_XML_TEXTS))


def _set_attribute(parent: ElementTree.Element, element: ElementTree.Element, chance: Chance) -> None:
    if element.attrib:
        element.set(chance.of(sorted(element.attrib)), _drop_controls(chance.of(_XML_TEXTS)))
    else:
        _set_text(parent, element, chance)


def _drop_element(parent: ElementTree.Element, element: ElementTree.Element, chance: Chance) -> None:
    if len(parent):
        del parent[chance.below(len(parent))]


def _copy_element(parent: ElementTree.Element, element: ElementTree.Element, chance: Chance) -> None:
    if element is not parent and parent not in element.iter():
        parent.extend([element] * chance.of((1, 2, 200)))


def _rename_element(parent: ElementTree.Element, element: ElementTree.Element, chance: Chance) -> None:
    element.tag = chance.of(("VRTDataset", "SimpleSource", "GDALWarpOptions", "a", parent.tag))


def _nest(parent: ElementTree.Element, element: ElementTree.Element, chance: Chance) -> None:
    for _ in range(chance.of((3, 300))):
        parent.append(ElementTree.Element(element.tag))
        parent = parent[-1]


def _drop_controls(text: str) -> str:
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]", "?", text)


_XML_DAMAGES: tuple[Callable[[ElementTree.Element, ElementTree.Element, Chance], None], ...] = (
    *(_set_text, _set_text, _set_text, _set_attribute, _set_attribute, _set_attribute),
    *(_drop_element, _copy_element, _rename_element, _nest),
)
