"""The grammars of shape expressions and of guards: torch evaluates the first with sympy and compiles the second.

Both are read as Python expressions, and each kind of syntax node is admitted by list. The lists were found from
exports with dynamic batches, lengths, heights and widths (``tests/hostile/networks.py``).
"""

import ast
import math
import re

from app.domain.errors import UnsafeFile

MAX_CHARACTERS = 8_000
MAX_EXPONENT = 8
_INTEGER_LIMIT = 1 << 63
SYMBOL = re.compile(r"(?:s|u|zf|zuf)[0-9]{1,9}")
"""Names torch gives to sizes: backed, unbacked and floating."""
_SHAPE_FUNCTIONS = frozenset(
    [
        "Add",
        "Mul",
        "Min",
        "Max",
        "Mod",
        "PythonMod",
        "FloorDiv",
        "CeilDiv",
        "CleanDiv",
        "ModularIndexing",
        "Where",
        "Identity",
        "ToFloat",
        "CeilToInt",
        "FloorToInt",
        "TruncToInt",
        "RoundToInt",
        "TruncToFloat",
        "IntTrueDiv",
        "FloatTrueDiv",
        "And",
        "Or",
        "Not",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "Equality",
        "Unequality",
        "StrictLessThan",
        "LessThan",
        "StrictGreaterThan",
        "GreaterThan",
        "Rational",
    ]
)
_GUARD_FUNCTIONS = frozenset(["max", "min", "abs", "int", "float", "FloorDiv", "Mod", "PythonMod", "Max", "Min"])
_GUARD_MATHEMATICS = frozenset(["ceil", "floor", "trunc", "sqrt"])
_TENSOR_METHODS = frozenset(["size", "stride", "storage_offset"])
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.Div)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_ASSUMPTIONS = frozenset(["positive", "nonnegative", "integer", "real", "negative", "nonzero"])
_INPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:[.\- ][A-Za-z0-9_]+)*")


def check_shape(expression: str, where: str) -> None:
    """Admit a shape expression such as ``Mul(Integer(2), Symbol('s77', positive=True, integer=True))``."""
    _Shape(expression, where).check()


def check_guard(expression: str, where: str) -> None:
    """Admit a guard such as ``L['x'].size()[0] >= 2``."""
    _Guard(expression, where).check()


class _Grammar:
    functions: frozenset[str]

    def __init__(self, text: str, where: str) -> None:
        self.text, self.where = text, where

    def check(self) -> None:
        if len(self.text) > MAX_CHARACTERS:
            raise UnsafeFile(f"The expression in {self.where} is longer than {MAX_CHARACTERS} characters.")
        try:
            tree = ast.parse(self.text, mode="eval")
            # Comments and line ends are no part of the tree; torch pastes the text itself into code.
            if not self.text.isascii() or not self.text.isprintable() or "#" in self.text:
                self.refuse(tree.body)
            self.visit(tree.body)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise UnsafeFile(f"The expression in {self.where} cannot be read: {self.text[:80]!r}.") from error

    def visit(self, node: ast.expr) -> None:  # noqa: C901 - one case a kind of syntax
        match node:
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=int() | float() as value) if math.isfinite(value) and abs(value) < _INTEGER_LIMIT:
                pass
            case ast.BinOp(op=ast.Pow(), left=base, right=exponent):
                self.power(base, exponent)
            case ast.BinOp(op=operator, left=left, right=right) if isinstance(operator, _OPERATORS):
                self.visit(left)
                self.visit(right)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not(), operand=operand):
                self.visit(operand)
            case ast.Compare(left=left, ops=ops, comparators=others) if all(isinstance(op, _COMPARISONS) for op in ops):
                for each in (left, *others):
                    self.visit(each)
            case ast.BoolOp(values=values):
                for each in values:
                    self.visit(each)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in self.functions:
                for each in arguments:
                    self.visit(each)
            case _:
                self.other(node)

    def power(self, base: ast.expr, exponent: ast.expr) -> None:
        """Admit small fixed powers of what holds no power, so that no number grows without bound."""
        match exponent:
            case ast.Constant(value=int(value)) if 0 <= value <= MAX_EXPONENT:
                pass
            case ast.Call(func=ast.Name(id="Integer"), args=[ast.Constant(value=int(value))], keywords=[]) if (
                0 <= value <= MAX_EXPONENT
            ):
                pass
            case _:
                self.refuse(exponent)
        for inner in ast.walk(base):
            if isinstance(inner, ast.Pow) or (isinstance(inner, ast.Name) and inner.id == "Pow"):
                self.refuse(base)
        self.visit(base)

    def other(self, node: ast.expr) -> None:
        self.refuse(node)

    def refuse(self, node: ast.expr) -> None:
        part = ast.unparse(node)[:80]
        raise UnsafeFile(
            f"The expression in {self.where} holds {part!r}, which is not admitted.",
            hint="Export the network again with torch.export.export and torch.export.save.",
        )


class _Shape(_Grammar):
    functions = _SHAPE_FUNCTIONS

    def other(self, node: ast.expr) -> None:
        match node:
            case ast.Name(id="true" | "false"):
                pass
            case ast.Name(id=name) if SYMBOL.fullmatch(name):
                pass
            case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))], keywords=keywords) if (
                SYMBOL.fullmatch(name)
            ):
                for keyword in keywords:
                    if keyword.arg not in _ASSUMPTIONS or not _is_bool(keyword.value):
                        self.refuse(node)
            case ast.Call(func=ast.Name(id="Integer"), args=[argument], keywords=[]):
                self.number(argument)
            case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(value=str(text))], keywords=keywords) if (
                re.fullmatch(r"-?[0-9]{1,20}(\.[0-9]{1,40})?(e[+-]?[0-9]{1,3})?", text)
            ):
                if [(each.arg, ast.unparse(each.value)) for each in keywords] not in ([], [("precision", "53")]):
                    self.refuse(node)
            case ast.Call(func=ast.Name(id="Pow"), args=[base, exponent], keywords=[]):
                self.power(base, exponent)
            case _:
                self.refuse(node)

    def number(self, node: ast.expr) -> None:
        match node:
            case ast.Constant(value=int()) | ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int())):
                self.visit(node)
            case _:
                self.refuse(node)


class _Guard(_Grammar):
    functions = _GUARD_FUNCTIONS

    def other(self, node: ast.expr) -> None:
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="math"), attr=name), args=arguments, keywords=[]) if (
                name in _GUARD_MATHEMATICS
            ):
                for each in arguments:
                    self.visit(each)
            case ast.Subscript(value=ast.Call(func=ast.Attribute(attr="size" | "stride")) as call, slice=index):
                self.method(call)
                self.index(index)
            case ast.Call(func=ast.Attribute(attr="storage_offset")) as call:
                self.method(call)
            case ast.Subscript():
                self.source(node)
            case _:
                self.refuse(node)

    def method(self, call: ast.Call) -> None:
        if call.args or call.keywords or not isinstance(call.func, ast.Attribute):
            self.refuse(call)
        elif call.func.attr in _TENSOR_METHODS:
            self.source(call.func.value)
        else:
            self.refuse(call)

    def source(self, node: ast.expr) -> None:
        """Admit ``L['name']`` with further names or numbers in brackets behind it."""
        depth = 0
        while isinstance(node, ast.Subscript):
            self.index(node.slice)
            node, depth = node.value, depth + 1
        if not depth or not isinstance(node, ast.Name) or node.id != "L":
            self.refuse(node)

    def index(self, node: ast.expr) -> None:
        match node:
            case ast.Constant(value=bool()):
                self.refuse(node)
            case ast.Constant(value=int(value)) if 0 <= value < 100_000:
                pass
            case ast.Constant(value=str(name)) if _INPUT_NAME.fullmatch(name):
                pass
            case _:
                self.refuse(node)


def _is_bool(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, bool)
