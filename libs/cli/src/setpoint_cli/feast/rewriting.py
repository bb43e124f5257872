"""On-demand functions over frames, rewritten as functions over columns, where that is plain arithmetic.

A function of Feast takes a frame (or a dictionary) and returns several columns at once; a transformation takes
some columns and returns one. What assigns expressions of its inputs to names and columns can be taken
apart without running it: each output becomes its expression, everything it refers to put in its place.
Anything else is refused with the reason.
"""

import ast
import copy
import keyword
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.BitAnd, ast.BitOr)
_SIGNS = (ast.USub, ast.UAdd, ast.Invert)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_ELEMENTWISE = frozenset(
    (
        "abs",
        "absolute",
        "arctan",
        "ceil",
        "clip",
        "cos",
        "exp",
        "expm1",
        "floor",
        "log",
        "log10",
        "log1p",
        "log2",
        "maximum",
        "minimum",
        "power",
        "round",
        "sign",
        "sin",
        "sqrt",
        "square",
        "tan",
        "tanh",
        "where",
    )
)
"""Functions of numpy of which each value depends on the values of its own row alone."""
_METHODS = {"abs": "abs", "clip": "clip", "round": "round"}
"""Methods of a pandas column, and the functions of numpy that do the same."""
_TYPES = frozenset({"bool", "float", "float32", "float64", "int", "int32", "int64"})
_NUMPY, _PANDAS = frozenset({"np", "numpy"}), frozenset({"pd", "pandas"})


class NotPlainError(Exception):
    """A function does more than arithmetic on its inputs; the text says what."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """One output of a function."""

    expression: str
    """Over parameters, and numpy as `np`."""
    parameters: Mapping[str, str]
    """Name to the input column that it stands for, in the order of their first use."""


def rewrite(source: str, outputs: Sequence[str]) -> dict[str, Rewritten]:
    """Takes a function apart.

    Args:
        source: Its text, decorators included.
        outputs: Columns that it is said to return.

    Raises:
        NotPlainError: It is not plain, or does not return one of them.
    """
    function = _function(source)
    walk = _Walk(function.args.args[0].arg)
    found = walk.body(function.body)
    missing = [name for name in outputs if name not in found]
    if missing:
        raise NotPlainError(f"where {missing[0]!r} comes from cannot be told")
    return {name: _finished(found[name]) for name in outputs}


def _function(source: str) -> ast.FunctionDef:
    try:
        tree = ast.parse(textwrap.dedent(source))
    except SyntaxError:
        raise NotPlainError("its source cannot be read") from None
    for each in tree.body:
        if isinstance(each, ast.FunctionDef):
            if len(each.args.args) != 1 or each.args.kwonlyargs or each.args.vararg:
                raise NotPlainError("it takes more than its inputs")
            return each
    raise NotPlainError("its source is not that of a function")


class _Walk:
    """Follows statements; every expression that it keeps is one of input columns alone."""

    def __init__(self, inputs: str) -> None:
        self._inputs = inputs
        self._names: dict[str, ast.expr] = {}
        self._frames: dict[str, dict[str, ast.expr]] = {}

    def body(self, statements: Sequence[ast.stmt]) -> dict[str, ast.expr]:
        """Returns the expressions of what a function returns."""
        for statement in statements:
            if isinstance(statement, ast.Return) and statement.value is not None:
                return self._returned(statement.value)
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue  # A docstring.
            if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
                raise _refused(statement)
            self._assign(statement.targets[0], statement.value)
        raise NotPlainError("it returns nothing")

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            columns = self._frame(value)
            if columns is not None:
                self._frames[target.id] = columns
            else:
                self._names[target.id] = self._expression(value)
            return
        column = _column(target)
        if column is None or column[0] not in self._frames:
            raise _refused(target)
        self._frames[column[0]][column[1]] = self._expression(value)

    def _frame(self, value: ast.expr) -> dict[str, ast.expr] | None:
        """Returns the columns of a frame that is made here, None when something else is."""
        if isinstance(value, ast.Dict):
            return self._columns(value)
        if isinstance(value, ast.Call) and _dotted(value.func, _PANDAS) == "DataFrame":
            if not value.args and not value.keywords:
                return {}
            if len(value.args) == 1 and isinstance(value.args[0], ast.Dict) and not value.keywords:
                return self._columns(value.args[0])
            raise _refused(value)
        return None

    def _columns(self, made: ast.Dict) -> dict[str, ast.expr]:
        columns = {}
        for key, value in zip(made.keys, made.values, strict=True):
            if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
                raise _refused(made)
            columns[key.value] = self._expression(value)
        return columns

    def _returned(self, value: ast.expr) -> dict[str, ast.expr]:
        if isinstance(value, ast.Name) and value.id in self._frames:
            return self._frames[value.id]
        made = self._frame(value)
        if made is None:
            raise _refused(value)
        return made

    def _expression(self, node: ast.expr) -> ast.expr:
        """Returns an expression with everything but input columns put in its place."""
        match node:
            case ast.Constant(value=bool() | int() | float() | str()):
                return node
            case ast.Name(id=name) if name in self._names:
                return copy.deepcopy(self._names[name])
            case ast.BinOp(left, operator, right) if isinstance(operator, _OPERATORS):
                return ast.BinOp(self._expression(left), operator, self._expression(right))
            case ast.UnaryOp(operator, operand) if isinstance(operator, _SIGNS):
                return ast.UnaryOp(operator, self._expression(operand))
            case ast.Compare(left, [operator], [right]) if isinstance(operator, _COMPARISONS):
                compared = self._expression(left), self._expression(right)
                return ast.Compare(compared[0], [operator], [compared[1]])
            case ast.Subscript():
                return self._subscript(node)
            case ast.Call():
                return self._call(node)
            case ast.ListComp():
                return self._row_by_row(node)
        raise _refused(node)

    def _subscript(self, node: ast.Subscript) -> ast.expr:
        column = _column(node)
        if column is not None and column[0] == self._inputs:
            return node
        if column is not None and column[1] in self._frames.get(column[0], {}):
            return copy.deepcopy(self._frames[column[0]][column[1]])
        raise _refused(node)

    def _call(self, node: ast.Call) -> ast.expr:
        if node.keywords:
            raise _refused(node)
        function = _dotted(node.func, _NUMPY)
        if function in _ELEMENTWISE:
            return _of_numpy(function, [self._expression(each) for each in node.args])
        if isinstance(node.func, ast.Attribute):
            owner, method = node.func.value, node.func.attr
            if method in _METHODS:
                given = [self._expression(each) for each in (owner, *node.args)]
                return _of_numpy(_METHODS[method], given)
            if method == "astype" and len(node.args) == 1:
                cast = _type(node.args[0])
                if cast is not None:
                    called = ast.Attribute(self._expression(owner), "astype", ast.Load())
                    return ast.Call(called, [ast.Constant(cast)], [])
        raise _refused(node)

    def _row_by_row(self, node: ast.ListComp) -> ast.expr:
        """Reads `[a + b for a, b in zip(inputs["a"], inputs["b"])]` as what it does to whole columns."""
        if len(node.generators) != 1 or node.generators[0].ifs:
            raise _refused(node)
        target, source = node.generators[0].target, node.generators[0].iter
        targets, sources = [target], [source]
        if isinstance(target, ast.Tuple):
            if not isinstance(source, ast.Call) or not isinstance(source.func, ast.Name):
                raise _refused(node)
            if source.func.id != "zip" or len(source.args) != len(target.elts):
                raise _refused(node)
            targets, sources = target.elts, source.args
        kept = dict(self._names)
        for name, column in zip(targets, sources, strict=True):
            if not isinstance(name, ast.Name):
                raise _refused(node)
            self._names[name.id] = self._expression(column)
        try:
            return self._expression(node.elt)
        finally:
            self._names = kept


def _column(node: ast.expr) -> tuple[str, str] | None:
    """Reads `frame["column"]`."""
    match node:
        case ast.Subscript(ast.Name(id=frame), ast.Constant(value=str() as column)):
            return frame, column
    return None


def _dotted(node: ast.expr, modules: frozenset[str]) -> str:
    """Reads `module.name`; empty when it is anything else."""
    match node:
        case ast.Attribute(ast.Name(id=module), name) if module in modules:
            return name
    return ""


def _type(node: ast.expr) -> str | None:
    match node:
        case ast.Name(id=name) | ast.Constant(value=str() as name) if name in _TYPES:
            return {"float": "float64", "int": "int64"}.get(name, name)
    name = _dotted(node, _NUMPY)
    return name if name in _TYPES else None


def _of_numpy(function: str, arguments: list[ast.expr]) -> ast.expr:
    called = ast.Attribute(ast.Name("np", ast.Load()), function, ast.Load())
    return ast.Call(called, arguments, [])


class _Parameters(ast.NodeTransformer):
    """Puts a parameter in the place of each input column."""

    def __init__(self) -> None:
        self.by_column: dict[str, str] = {}

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """Replaces `inputs["column"]`, which alone is left of subscripts."""
        found = _column(node)
        if found is None:
            raise AssertionError("only columns of the inputs have a subscript")
        column = found[1]
        if column not in self.by_column:
            self.by_column[column] = identifier(column, self.by_column.values())
        return ast.Name(self.by_column[column], ast.Load())


def _finished(expression: ast.expr) -> Rewritten:
    parameters = _Parameters()
    replaced = parameters.visit(copy.deepcopy(expression))
    if not parameters.by_column:
        raise NotPlainError("a column of it is the same for all rows")
    text = ast.unparse(ast.fix_missing_locations(replaced))
    return Rewritten(text, {name: column for column, name in parameters.by_column.items()})


def identifier(name: str, taken: Collection[str] = ()) -> str:
    """Returns a name as Python and a transformation can have it, other than those that are taken."""
    made = "".join(each if each.isascii() and each.isalnum() else "_" for each in name)
    if not made or made[0].isdigit() or keyword.iskeyword(made) or made == "np":
        made = f"_{made}"
    number, unique = 2, made
    while unique in taken:
        unique, number = f"{made}_{number}", number + 1
    return unique


def _refused(node: ast.AST) -> NotPlainError:
    text = ast.unparse(node)
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return NotPlainError(f"{shown!r} is more than arithmetic on columns")
