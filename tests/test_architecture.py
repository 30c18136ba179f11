"""Who may import whom, and who may know whose name: what keeps a room for everything that will come."""

import ast
import subprocess
from pathlib import Path

import pytest

from rv_train.backbones import FAMILIES
from rv_train.policies import POLICIES

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("libs", "rv_train", "rv_eval", "tools")  # each may import those before it
# Within rv_train: what a room may import of it; everything else is the rest, which may import all.
ROOMS = {
    "rv_train.backbones": ("rv_train.backbones",),
    "rv_train.data": ("rv_train.data",),
    "rv_train.policies": ("rv_train.policies", "rv_train.backbones", "rv_train.data"),
}
# Names of things that are registered: where they may stand in a comparison, their own folders apart.
REGISTRIES = {
    "rv_train/backbones/__init__.py": FAMILIES,
    "rv_train/policies/__init__.py": POLICIES,
}
KEYS = ("MODEL.NAME", "MODEL.BACKBONE")  # config keys that hold such a name


def sources():
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in listed.stdout.split() if (ROOT / name).exists()]
    return {name: ast.parse((ROOT / name).read_text()) for name in names if name.split("/")[0] in PACKAGES}


@pytest.fixture(scope="module")
def trees():
    return sources()


def module_of(name):
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def of_types_only(tree):
    """The imports under `if TYPE_CHECKING`, which only hints need: they are never run."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    return {part for block in blocks if ast.unparse(block.test) == "TYPE_CHECKING" for part in block.body}


def imported(tree, modules, run=False):
    """Own modules that a file imports, at any depth of its code. run: without what stands there for hints only."""
    left_out = of_types_only(tree) if run else set()
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            found = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            continue
        yield from (name for name in found if name in modules)


def within(module, rooms):
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def outlaws(graph):
    """Imports against the law: (module, what it imports)."""
    for module, found in graph.items():
        place = PACKAGES.index(module.split(".")[0])
        room = next((room for room in ROOMS if within(module, [room])), None)
        for other in found:
            above = PACKAGES.index(other.split(".")[0]) > place
            outside = room and within(other, ["rv_train"]) and not within(other, ROOMS[room])
            if above or outside:
                yield module, other


def circles(graph):
    """Groups of modules that import each other, by Tarjan's algorithm: those of two and more."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def import_graph(trees, run=False):
    modules = {module_of(name) for name in trees}
    graph = {}
    for name, tree in trees.items():
        module = module_of(name)
        # A package's __init__ runs before what lies in it: that is no import of ours.
        graph[module] = {other for other in imported(tree, modules, run) if not module.startswith(f"{other}.")} - {
            module
        }
    return graph


def branches(tree, names):
    """Lines that compare with a name, or look at a key that holds one in order to choose."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Match):
            sides = [node.subject, *node.cases]
        elif isinstance(node, ast.Subscript):
            sides = [node.slice]
        else:
            continue
        for side in sides:
            for part in ast.walk(side):
                constant = isinstance(part, ast.Constant) and part.value in names
                key = isinstance(part, ast.Attribute) and ast.unparse(part).endswith(KEYS)
                if (constant and not isinstance(node, ast.Subscript)) or key:
                    yield node.lineno


def test_the_import_law(trees):
    assert list(outlaws(import_graph(trees))) == []


def test_nothing_imports_in_a_circle(trees):
    """What only hints need is never run, so two modules may name each other's classes."""
    assert circles(import_graph(trees, run=True)) == []


def test_no_branch_on_a_name_outside_its_own_room(trees):
    homes = {f"{package.replace('.', '/')}/": name for names in REGISTRIES.values() for name, package in names.items()}
    for name, tree in trees.items():
        if name in REGISTRIES:
            continue
        own = {homes[home] for home in homes if name.startswith(home)}
        others = {one for names in REGISTRIES.values() for one in names} - own
        assert list(branches(tree, others)) == [], name


def test_a_family_and_a_policy_are_reached_by_their_registries(trees):
    """Proofs may look inside; the program does not."""
    for registry, names in REGISTRIES.items():
        home = registry.removesuffix("__init__.py")
        for module, found in import_graph(trees).items():
            if module.startswith(("tools.dev.", home.replace("/", "."))):
                continue
            inside = [other for other in found if within(other, names.values())]
            assert inside == [], (module, inside)


# ---------------------------------------------------------------------------- that these tests can fail


def test_what_is_against_the_law_is_found():
    graph = {
        "libs.a": {"rv_train.data.b"},
        "rv_train.backbones.c": {"rv_train.optim", "libs.a"},
        "rv_train.data.b": {"rv_train.backbones.c"},
        "rv_train.policies.d": {"rv_train.data.b", "rv_train.backbones.c"},
        "rv_train.optim": {"rv_train.policies.d"},
    }
    assert set(outlaws(graph)) == {
        ("libs.a", "rv_train.data.b"),
        ("rv_train.backbones.c", "rv_train.optim"),
        ("rv_train.data.b", "rv_train.backbones.c"),
    }
    assert [len(group) for group in circles(graph)] == [5]


def test_hints_make_no_circle_but_keep_the_law():
    tree = ast.parse("if TYPE_CHECKING:\n    from tools.a import b\nimport libs.c\n")
    modules = {"tools.a", "libs.c"}
    assert set(imported(tree, modules)) == modules
    assert set(imported(tree, modules, run=True)) == {"libs.c"}


@pytest.mark.parametrize(
    "line",
    [
        'x = cfg.MODEL.NAME == "anything"',
        'if kind != "flow_expert": pass',
        'if kind in ("vla0", "other"): pass',
        "y = TABLE[cfg.MODEL.BACKBONE]",
        'match kind:\n    case "qwen2_5_vl":\n        pass',
    ],
)
def test_a_branch_is_found(line):
    assert list(branches(ast.parse(line), {*FAMILIES, *POLICIES})) != []
