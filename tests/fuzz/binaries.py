"""Changes of binary files at the places that decide: tags of a TIFF, headers of weights, nodes of a graph, columns."""

from __future__ import annotations

import io
import struct

from tests.fuzz.documents import damage_json
from tests.fuzz.mutations import Chance

_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}
_LARGE = (0, 1, 2, 7, 255, 256, 65535, 65536, 1_000_000, 2**31 - 1, 2**31, 2**32 - 1)
_SHORTS = (0, 1, 2, 8, 16, 32, 64, 1024, 2048, 3072, 4326, 32620, 32767, 65535)
_DOUBLES = tuple(map(float, ("nan", "inf", "-inf", "0", "1", "-1", "1e-300", "1e300", "-30", "180", "1e7")))


def damage_tags(content: bytes, chance: Chance) -> bytes:
    """Change one to three entries of the directory of a little-endian TIFF: value, count, type or tag."""
    changed = bytearray(content)
    (start,) = struct.unpack_from("<I", changed, 4)
    (count,) = struct.unpack_from("<H", changed, start)
    for _ in range(1 + chance.below(3)):
        at = start + 2 + 12 * chance.below(count)
        _tag, kind, length = struct.unpack_from("<HHI", changed, at)
        size = _TYPE_SIZES.get(kind, 1) * length
        (offset,) = struct.unpack_from("<I", changed, at + 8)
        choice = chance.below(10)
        if choice == 0:
            struct.pack_into("<H", changed, at, chance.of((254, 256, 257, 258, 259, 262, 273, 277, 278, 284, 317, 339)))
        elif choice == 1:
            struct.pack_into("<H", changed, at + 2, 1 + chance.below(18))
        elif choice == 2:
            struct.pack_into("<I", changed, at + 4, chance.of(_LARGE))
        elif size <= 4:
            struct.pack_into("<I", changed, at + 8, chance.of(_LARGE))
        elif kind == 12 and offset + size <= len(changed):
            struct.pack_into("<d", changed, offset + 8 * chance.below(length), chance.of(_DOUBLES))
        elif kind == 3 and offset + size <= len(changed):
            value = chance.of((*_SHORTS, chance.below(65536)))
            struct.pack_into("<H", changed, offset + 2 * chance.below(length), value)
        elif offset + size <= len(changed) and chance.happens(0.5):
            struct.pack_into("<B", changed, offset + chance.below(size), chance.below(256))
        else:
            struct.pack_into("<I", changed, at + 8, chance.of(_LARGE))
    return bytes(changed)


def damage_safetensors(content: bytes, chance: Chance) -> bytes:
    """Change the header of a file of safetensors, and its length to fit; sometimes numbers among the weights."""
    (length,) = struct.unpack_from("<Q", content)
    header, weights = content[8 : 8 + length], content[8 + length :]
    if chance.happens(0.3):
        changed = bytearray(weights)
        number = struct.pack("<f", chance.of((float("nan"), float("inf"), 1e38, -1e38)))
        at = 4 * chance.below(len(changed) // 4)
        changed[at : at + 4] = number
        return content[: 8 + length] + bytes(changed)
    header = damage_json(header, chance)
    return struct.pack("<Q", len(header)) + header + weights


def damage_graph(content: bytes, chance: Chance) -> bytes:
    """Change nodes, attributes, sizes and weights of an ONNX graph."""
    import onnx

    model = onnx.load_from_string(content)
    graph = model.graph
    for _ in range(1 + chance.below(2)):
        node, tensor = chance.of(graph.node), chance.of(graph.initializer)
        match chance.below(8):
            case 0:
                node.op_type = chance.of(("Loop", "If", "Resize", "Relu", "Conv", "NoSuchOperator", "Gather", "Expand"))
            case 1:
                del node.input[chance.below(len(node.input)) :]
            case 2 if node.attribute:
                attribute = chance.of(node.attribute)
                attribute.ints[:] = [chance.of((-1, 0, 1, 2, 1000, 2**31, 2**62)) for _ in attribute.ints]
            case 3:
                tensor.dims[:] = [chance.of((-1, 0, 1, 3, 1000, 2**31, 2**62)) for _ in tensor.dims]
            case 4:
                tensor.data_type = chance.below(30)
            case 5:
                for size in graph.input[0].type.tensor_type.shape.dim:
                    if chance.happens(0.5):
                        size.dim_value = chance.of((-1, 0, 1, 2, 64, 10**6, 2**62))
            case 6:
                tensor.data_location = 1
                entry = tensor.external_data.add()
                entry.key, entry.value = "location", chance.of(("../../outside/secret.tif", "/dev/zero", "x", ""))
            case _:
                if node.input:
                    node.input[chance.below(len(node.input))] = node.output[0]  # a circle
    return bytes(model.SerializeToString())


def damage_table(content: bytes, chance: Chance) -> bytes:
    """Drop, rename or retype columns of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.ParquetFile(io.BytesIO(content)).read()
    place = chance.below(table.num_columns)
    name = table.column_names[place]
    match chance.below(5):
        case 0:
            table = table.drop_columns([name])
        case 1:
            table = table.rename_columns(["links" if n == name else n for n in table.column_names])
        case 2:
            column = pa.array([chance.of((1, -1, 2**62))] * table.num_rows)
            table = table.set_column(place, name, column)
        case 3:
            column = pa.array([chance.of(("", "./../../outside/item.json", "x" * 100_000))] * table.num_rows)
            table = table.set_column(place, name, column)
        case _:
            table = table.set_column(place, name, pa.nulls(table.num_rows))
    written = io.BytesIO()
    pq.write_table(table, written)
    return written.getvalue()
