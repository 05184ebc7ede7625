"""Check expressions of sizes and guards in exported programs before torch evaluates them.

Torch evaluates these texts as Python or sympy. Here they are parsed without being evaluated, every part of the syntax
tree must be of a known kind, and the text is written anew from the tree.
"""

from __future__ import annotations

import ast
import re

SYMBOL = re.compile(r"[a-z]{1,4}\d+", re.ASCII)
SIZE_FUNCTIONS = frozenset(
    (
        *("Integer", "Rational", "Symbol", "Identity", "Add", "Mul", "Max", "Min"),
        *("Pow", "PowByNatural", "Mod", "PythonMod", "ModularIndexing"),
        *("FloorDiv", "CeilDiv", "CleanDiv", "IntTrueDiv", "FloatTrueDiv"),
        *("CeilToInt", "FloorToInt", "TruncToInt", "TruncToFloat", "RoundToInt", "ToFloat"),
        *("Equality", "Unequality", "LessThan", "StrictLessThan", "GreaterThan", "StrictGreaterThan"),
        *("And", "Or", "Not"),
    )
)
"""Functions of sympy and torch with which torch writes sizes."""
GUARD_FUNCTIONS = frozenset(("max", "min", "abs", "int", "float"))
ASSUMPTIONS = frozenset(("positive", "integer", "nonnegative", "nonzero", "negative", "real", "finite"))
"""What torch may state of a symbol."""
ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.USub, ast.UAdd)
LOGIC = (ast.Not, ast.And, ast.Or, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
OPERATORS = (*ARITHMETIC, *LOGIC)
MAX_NUMBER = 1 << 63
MAX_LENGTH = 20_000
MAX_POWER = 16


def sanitize_size(text: str) -> str:
    """Return a size, as sympy's ``srepr`` or ``str`` writes it, if it is arithmetic with symbols such as ``s77``.

    Raises:
        ValueError: it is not.
    """
    tree = _parse(text)
    _check_size(tree)
    return ast.unparse(tree)


def sanitize_guard(text: str) -> str:
    """Return a condition on sizes of inputs, such as ``L['x'].size()[2] % 16 == 0``.

    Raises:
        ValueError: it is not one.
    """
    tree = _parse(text)
    _check_guard(tree)
    return ast.unparse(tree)


def _parse(text: str) -> ast.expr:
    if len(text) > MAX_LENGTH or not text.isascii():
        raise ValueError("too long, or not ASCII")
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError("no expression") from error


def _get_operands(node: ast.expr) -> list[ast.expr] | None:
    """Return the operands of an operation, an empty list for a number, and ``None`` for anything else."""
    match node:
        case ast.Constant(value=bool()):
            return []
        case ast.Constant(value=int() | float() as number) if abs(number) <= MAX_NUMBER:
            return []
        case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int(power))) if 0 <= power <= MAX_POWER:
            # Powers of numbers and of powers could grow without end when torch evaluates them.
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


def _check_size(node: ast.expr) -> None:
    """Refuse an expression that is not arithmetic with symbols, in the syntax of sympy or of Python."""
    operands: list[ast.expr] | None
    match node:
        case ast.Name(id=name) if SYMBOL.fullmatch(name) or name in ("true", "false"):
            operands = []
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))], keywords=keywords):
            operands = [] if SYMBOL.fullmatch(name) and all(map(_is_assumption, keywords)) else None
        case ast.Call(func=ast.Name(id="Pow" | "PowByNatural"), args=[base, exponent], keywords=[]):
            operands = [base] if _has_symbol(base) and _is_small(exponent) else None
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in SIZE_FUNCTIONS - {
            "Pow",
            "PowByNatural",
        }:
            operands = args
        case _:
            operands = _get_operands(node)
    if operands is None:
        raise ValueError(ast.dump(node)[:80])
    for operand in operands:
        _check_size(operand)


def _is_assumption(keyword: ast.keyword) -> bool:
    return keyword.arg in ASSUMPTIONS and isinstance(keyword.value, ast.Constant) and type(keyword.value.value) is bool


def _has_symbol(node: ast.expr) -> bool:
    return any(isinstance(part, ast.Name) and part.id == "Symbol" for part in ast.walk(node))


def _is_small(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="Integer"), args=[inner], keywords=[]):
            return _is_small(inner)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return _is_small(inner)
        case ast.Constant(value=int(power)):
            return power <= MAX_POWER
    return False


def _check_guard(node: ast.expr) -> None:
    """Refuse a condition that is not arithmetic with sizes of inputs, in the syntax of Python."""
    operands: list[ast.expr] | None
    match node:
        case ast.Subscript(
            value=ast.Call(func=ast.Attribute(value=tensor, attr="size" | "stride"), args=[], keywords=[]),
            slice=ast.Constant(value=int()),
        ):
            _check_input_reference(tensor)
            operands = []
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in GUARD_FUNCTIONS:
            operands = args
        case _:
            operands = _get_operands(node)
    if operands is None:
        raise ValueError(ast.dump(node)[:80])
    for operand in operands:
        _check_guard(operand)


def _check_input_reference(node: ast.expr) -> None:
    """Refuse what is no input: ``L['x']``, or a part of it."""
    match node:
        case ast.Name(id="L"):
            return None
        case ast.Subscript(value=value, slice=ast.Constant(value=int())):
            return _check_input_reference(value)
        case ast.Subscript(value=value, slice=ast.Constant(value=str(name))) if re.fullmatch(r"\w+", name, re.ASCII):
            return _check_input_reference(value)
    raise ValueError(ast.dump(node)[:80])
