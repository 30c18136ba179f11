"""Which texts may be the line of a `BadInput`, from the code: what stands in its argument, and what comes there from
helpers' results, tables, lists, loops, the arguments of callers, and other exceptions of the project.

Names are followed as somebody does who searches for them: nothing is run, and types are not known.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

ERROR = "BadInput"
HOLE = "{…}"
HOLES = re.compile(r"{\w*…?}")  # and those that have a name
FEWEST_WORDS = 3  # of a text that is filled into a message: fewer are a word in it, no sentence
PASS_ON = {"str", "next", "sorted", "list", "tuple", "set", "min", "max", "join", "items", "values"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
ASSIGNMENTS = (ast.Assign, ast.AnnAssign)


def find_messages(root: Path, packages: Sequence[str]) -> dict[Path, list[str]]:
    """{file: its messages in their order} of the packages under the folder `root`; `{…}` is what is filled in."""
    paths = [path for package in packages for path in sorted((root / package).rglob("*.py"))]
    found = _Reader(root, paths).read()
    return {path: sorted(found[path], key=found[path].__getitem__) for path in paths if path in found}


def words(text: str) -> list[str]:
    """The words of a message that stand in the code."""
    return [word for word in HOLES.sub(" ", text).split() if any(map(str.isalpha, word))]


class _Reader:
    def __init__(self, root, paths):
        self._found = defaultdict(dict)  # file -> {text: its line}
        self._seen = set()
        self._path, self._function = {}, {}  # of every node; the outermost function around it, or None
        self._defined, self._calls = defaultdict(list), defaultdict(list)  # by name: definitions in modules and classes
        self._imported = defaultdict(dict)  # file -> {name: the module or folder that it comes from}
        self._root = root
        for path in paths:
            self._index(ast.parse(path.read_text()), path, None)

    def read(self):
        errors = (ERROR, *self._derived(ERROR))
        self._follow([call.args[0] for error in errors for call in self._calls[error] if call.args], whole=True)
        return self._found

    def _index(self, node, path, function):
        self._path[node], self._function[node] = path, function
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                self._defined[name].append(node)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)) if not function:
                self._defined[name].append(node)
            case ast.Call(func=func):
                self._calls[_name(func)].append(node)
            case ast.ImportFrom(module=str(module), names=names):
                place = self._root.joinpath(*module.split("."))
                self._imported[path] |= {one.asname or one.name: place for one in names}
        function = function or (node if isinstance(node, FUNCTIONS) else None)
        for child in ast.iter_child_nodes(node):
            self._index(child, path, function)

    def _derived(self, name):
        """Classes whose base has this name, and those below them."""
        for node in [node for nodes in self._defined.values() for node in nodes if isinstance(node, ast.ClassDef)]:
            if name in map(_name, node.bases):
                yield from (node.name, *self._derived(node.name))

    def _meant(self, name, kinds):
        """The definitions that a name (`f`, `self.f`, `module.f`) may stand for where it is."""
        found = [one for one in self._defined[_name(name)] if isinstance(one, kinds)]
        here = [one for one in found if self._path[one] == self._path[name]]
        owner = name.value if isinstance(name, ast.Attribute) else name
        place = self._imported[self._path[name]].get(_name(owner))
        if owner is not name:
            if _name(owner) == "self" or not place:  # a method of an object: which one, only a rare name says
                return here or (found if len(found) == 1 else [])
            place = place / _name(owner)
        return here or [
            one for one in found if place and place in (self._path[one].with_suffix(""), *self._path[one].parents)
        ]

    def _follow(self, nodes, whole=False, passed=False):
        """Note the texts that these expressions may be.

        whole: they are messages, however short. passed: they are what callers filled into one.
        """
        for node in nodes:
            if node is not None and (node, whole, passed) not in self._seen:
                self._seen.add((node, whole, passed))
                self._read(node, whole, passed)

    def _read(self, node, whole, passed):
        match node:
            case ast.Constant(value=str()) | ast.JoinedStr() | ast.BinOp(op=ast.Add()):
                text = " ".join(_raw(node).split())
                if len(words(text)) >= (1 if whole else FEWEST_WORDS):
                    self._found[self._path[node]].setdefault(text, node.lineno)
                self._follow(_filled_in(node), False, passed)
            case ast.Name():
                self._follow_name(node, whole, passed)
            case ast.Call(func=func, args=args):
                if _name(func) in PASS_ON:
                    self._follow([*args, getattr(func, "value", None)], whole, passed)
                for function in self._meant(func, FUNCTIONS):
                    self._follow(_results(function), whole, passed)
            case ast.IfExp(body=body, orelse=orelse):
                self._follow([body, orelse], whole, passed)
            case ast.List(elts=values) | ast.Tuple(elts=values) | ast.Set(elts=values) | ast.BoolOp(values=values):
                self._follow(values, False, passed)
            case ast.Dict(values=values):
                self._follow(values, False, passed)
            case ast.ListComp(elt=value) | ast.GeneratorExp(elt=value) | ast.SetComp(elt=value):
                self._follow([value], False, passed)
            case ast.Subscript(value=value) | ast.NamedExpr(value=value) | ast.Starred(value=value):
                self._follow([value], whole, passed)

    def _follow_name(self, node, whole, passed):
        """What a name stands for: what is assigned, added, looped over, passed or caught, else a constant."""
        name, function = node.id, self._function[node]
        local = False
        for part in ast.walk(function) if function else ():
            match part:
                case ast.FunctionDef(args=ast.arguments(args=args)) if name in [arg.arg for arg in args]:
                    if whole or not passed:  # what comes from further away is data
                        self._follow(self._given(part, name, [arg.arg for arg in args]), whole, True)
                    local = True
                case _ if (found := self._bound(part, name)) is not None:
                    self._follow(found, whole, passed)
                    local = True
        if not local:
            self._follow([one.value for one in self._meant(node, ASSIGNMENTS)], whole, passed)

    def _bound(self, part, name):
        """What a statement makes this name stand for; None: it does not."""
        match part:
            case ast.Assign(targets=[target], value=value) if _binds(target, name):
                return [value]
            case (
                ast.AugAssign(target=target, value=value)
                | ast.AnnAssign(target=target, value=value)
                | ast.NamedExpr(target=target, value=value)
                | ast.For(target=target, iter=value)
                | ast.comprehension(target=target, iter=value)
            ) if _binds(target, name):
                return [value]
            case ast.Call(func=ast.Attribute(value=ast.Name(id=id), attr="append" | "extend"), args=added) if (
                id == name
            ):
                return added
            case ast.ExceptHandler(name=caught, type=kind) if caught == name:
                return self._said(kind)
        return None

    def _said(self, kind):
        """What exceptions of the project say. kind: which ones, after `except`."""
        errors = {_name(one) for one in getattr(kind, "elts", [kind])} - {ERROR}
        errors = {name for error in errors if self._defined[error] for name in (error, *self._derived(error))}
        return [call.args[0] for error in errors for call in self._calls[error] if call.args]

    def _given(self, function, name, names):
        """What callers give for an argument. names: of all arguments."""
        place = names.index(name) - (names[0] in ("self", "cls"))
        for call in self._calls[function.name]:
            if function in self._meant(call.func, FUNCTIONS):
                yield from call.args[place : place + 1]
                yield from [keyword.value for keyword in call.keywords if keyword.arg == name]


def _name(node):
    return getattr(node, "attr", getattr(node, "id", ""))


def _results(function):
    parts = [part for part in ast.walk(function) if isinstance(part, (ast.Return, ast.Yield, ast.YieldFrom))]
    return [part.value for part in parts]


def _binds(target, name):
    return any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(target))


def _filled_in(node):
    """The expressions whose text is a part of this text."""
    match node:
        case ast.JoinedStr(values=parts):
            return [part.value for part in parts if isinstance(part, ast.FormattedValue)]
        case ast.BinOp(left=left, right=right):
            return [*_filled_in(left), *_filled_in(right)]
        case ast.Constant():
            return []
    return [node]


def _raw(node):
    match node:
        case ast.Constant(value=str(text)):
            return text.replace("`", "'")
        case ast.JoinedStr(values=parts):
            return "".join(map(_raw, parts))
        case ast.FormattedValue(value=ast.Name(id=name)):
            return f"{{{name}}}"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _raw(left) + _raw(right)
        case ast.IfExp(body=body, orelse=orelse):
            return f"{_raw(body)} / {_raw(orelse)}"
    return HOLE
