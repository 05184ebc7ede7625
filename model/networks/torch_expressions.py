"""Sizes and guards in exported programs: expressions that torch evaluates, so they are read as syntax first."""

from __future__ import annotations

import ast
import re

SYMBOL = re.compile(r"[a-z]{1,4}\d+", re.ASCII)
SIZES = frozenset(
    [
        "Integer",
        "Rational",
        "Symbol",
        "Add",
        "Mul",
        "Pow",
        "Max",
        "Min",
        "FloorDiv",
        "CeilDiv",
        "CleanDiv",
        "Mod",
        "PythonMod",
        "ModularIndexing",
        "IntTrueDiv",
        "FloatTrueDiv",
        "CeilToInt",
        "FloorToInt",
        "TruncToInt",
        "TruncToFloat",
        "RoundToInt",
        "ToFloat",
        "PowByNatural",
        "Identity",
        "Equality",
        "Unequality",
        "LessThan",
        "StrictLessThan",
        "GreaterThan",
        "StrictGreaterThan",
        "And",
        "Or",
        "Not",
    ]
)
"""Of sympy and torch: what torch writes sizes with."""
GUARDS = frozenset(("max", "min", "abs", "int", "float"))
ASSUMPTIONS = frozenset(("positive", "integer", "nonnegative", "nonzero", "negative", "real", "finite"))
OPERATORS = (
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.USub, ast.UAdd, ast.Not, ast.And, ast.Or,
    ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Load,
)  # fmt: skip
MOST = 1 << 63
LONGEST = 20_000
LARGEST_POWER = 16


def checked_size(text: str) -> str:
    """An expression as sympy's ``srepr`` or ``str`` writes it, if it is arithmetic with symbols such as ``s77``.

    Raises:
        ValueError: it is not.
    """
    tree = _parsed(text)
    _size(tree)
    return ast.unparse(tree)


def checked_guard(text: str) -> str:
    """A condition on sizes of inputs such as ``L['x'].size()[2] % 16 == 0``.

    Raises:
        ValueError: it is not one.
    """
    tree = _parsed(text)
    _guard(tree)
    return ast.unparse(tree)


def _parsed(text: str) -> ast.expr:
    if len(text) > LONGEST or not text.isascii():
        raise ValueError("too long, or not ASCII")
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError("no expression") from error


def _arithmetic(node: ast.expr) -> list[ast.expr] | None:
    """The operands of an operation or the nothing of a number; None if it is neither."""
    match node:
        case ast.Constant(value=bool()):
            return []
        case ast.Constant(value=int() | float() as number) if abs(number) <= MOST:
            return []
        case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int(power))) if 0 <= power <= LARGEST_POWER:
            if isinstance(left, ast.Constant) or any(isinstance(n, ast.Pow) for n in ast.walk(left)):
                return None
            return [left]
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, OPERATORS):
            return [left, right]
        case ast.UnaryOp(op=op, operand=operand) if isinstance(op, OPERATORS):
            return [operand]
        case ast.BoolOp(values=values):
            return values
        case ast.Compare(left=left, ops=ops, comparators=rest) if all(isinstance(op, OPERATORS) for op in ops):
            return [left, *rest]
    return None


def _size(node: ast.expr) -> None:
    match node:
        case ast.Name(id=name) if SYMBOL.fullmatch(name) or name in ("true", "false"):
            return None
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))], keywords=keywords):
            known = all(k.arg in ASSUMPTIONS and isinstance(k.value, ast.Constant) for k in keywords)
            if SYMBOL.fullmatch(name) and known and all(type(k.value.value) is bool for k in keywords):  # type: ignore[attr-defined]
                return None
        case ast.Call(func=ast.Name(id="Pow" | "PowByNatural"), args=[base, exponent], keywords=[]):
            if _has_symbol(base) and _small(exponent):
                return _size(base)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in SIZES - {"Pow", "PowByNatural"}:
            for part in args:
                _size(part)
            return None
        case _:
            operands = _arithmetic(node)
            if operands is not None:
                for part in operands:
                    _size(part)
                return None
    raise ValueError(ast.dump(node)[:80])


def _has_symbol(node: ast.expr) -> bool:
    return any(isinstance(part, ast.Name) and part.id == "Symbol" for part in ast.walk(node))


def _small(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="Integer"), args=[inner], keywords=[]):
            return _small(inner)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return _small(inner)
        case ast.Constant(value=int(power)):
            return power <= LARGEST_POWER
    return False


def _guard(node: ast.expr) -> None:
    match node:
        case ast.Subscript(
            value=ast.Call(func=ast.Attribute(value=place, attr="size" | "stride"), args=[], keywords=[]),
            slice=ast.Constant(value=int()),
        ):
            _place(place)
            operands: list[ast.expr] | None = []
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in GUARDS:
            operands = args
        case _:
            operands = _arithmetic(node)
    if operands is None:
        raise ValueError(ast.dump(node)[:80])
    for part in operands:
        _guard(part)


def _place(node: ast.expr) -> None:
    """An input: ``L['x']``, or deeper in it."""
    match node:
        case ast.Name(id="L"):
            return None
        case ast.Subscript(value=value, slice=ast.Constant(value=int())):
            return _place(value)
        case ast.Subscript(value=value, slice=ast.Constant(value=str(name))) if re.fullmatch(r"\w+", name, re.ASCII):
            return _place(value)
    raise ValueError(ast.dump(node)[:80])
