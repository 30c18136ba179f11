"""Merging values into a yacs tree, and comparing trees. A leaf is named by its dotted key: "TRAIN.lr"."""

import ast
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from yacs.config import CfgNode

from libs.errors import BadInput


def merge(defaults: CfgNode, tree: object, opts: Sequence[Any], origin: str, list_items: Mapping[str, type]) -> CfgNode:
    """A copy of `defaults` with a nested dict, and then command-line pairs, set over it.

    Args:
        defaults: CfgNode; the type of a default is the type of its key.
        tree: nested dict, as YAML gives it.
        opts: flat list [KEY, VALUE, KEY, VALUE, ...], values as text or as Python values.
        origin: where `tree` comes from, for errors.
        list_items: {key of a list: type of its items}; where the default is no list, either may be given.

    Returns:
        CfgNode, not frozen.

    Raises:
        BadInput: an unknown key, a value of the wrong type, a key without a value.
    """
    cfg = defaults.clone()
    if not isinstance(tree, dict):
        raise BadInput(f"{origin}: a config holds sections, not {type(tree).__name__}")
    for key, value in leaves(tree):
        _set_leaf(cfg, key, value, origin, list_items)
    opts = list(opts)
    if len(opts) % 2:
        raise BadInput(f"overrides come in pairs KEY VALUE; {opts[-1]!r} has no value")
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        _set_leaf(cfg, key, value, "command line", list_items)
    return cfg


def to_dict(cfg: CfgNode) -> dict[str, Any]:
    """The tree as plain nested dicts and lists, ready for YAML or JSON."""
    return {key: to_dict(value) if isinstance(value, CfgNode) else value for key, value in cfg.items()}


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of a nested dict."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value


def get_leaf(cfg: CfgNode, key: str) -> Any:
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def pair(value: Any) -> tuple[Any, Any]:
    """What a key holds that takes one number or two → (first, second): one number stands for both."""
    first, second = value if isinstance(value, (list, tuple)) else (value, value)
    return first, second


def differences(cfg: CfgNode, other: CfgNode, free: Collection[str] = ()) -> list[tuple[str, Any, Any]]:
    """The keys whose values differ between two trees, as (key, value, other value), None where a tree has no such key;
    keys in `free` may differ."""
    mine, theirs = (dict(leaves(to_dict(tree))) for tree in (cfg, other))
    pairs = ((key, mine.get(key), theirs.get(key)) for key in {**mine, **theirs})
    return [(key, a, b) for key, a, b in pairs if a != b and key not in free]


def _set_leaf(cfg, key, value, origin, list_items):
    *parents, name = key.split(".")
    node = cfg
    for parent in parents:
        node = node.get(parent) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or name not in node or isinstance(node[name], CfgNode):
        close = difflib.get_close_matches(key, [known for known, _ in leaves(cfg)], n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise BadInput(f"{origin}: unknown config key {key}{hint}")
    node[name] = _typed(key, value, node[name], origin, list_items)


def _typed(key, value, default, origin, list_items):
    wanted = type(default)
    if wanted is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)  # a name that is a number
    if wanted is not str and isinstance(value, str):
        value = _literal(value)
    if wanted is float and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 5e-6 as text
        except (TypeError, ValueError):
            pass
    if wanted is list or (key in list_items and isinstance(value, (list, tuple))):
        item = list_items[key]
        values = [value] if item is str and isinstance(value, str) else value
        fits = isinstance(values, (list, tuple)) and all(
            type(v) in (item, int if item is float else item) for v in values
        )
        if not fits:
            raise BadInput(f"{origin}: {key} must be a list of {item.__name__}, got {value!r}")
        return [item(v) for v in values]
    if type(value) is not wanted:
        spelled = wanted is str and isinstance(value, bool)  # AMP: {mode: off}
        quotes = "; YAML reads on, off, yes and no so: write the word in quotes" if spelled else ""
        raise BadInput(f"{origin}: {key} must be {wanted.__name__}, got {value!r} ({type(value).__name__}){quotes}")
    return value


def _literal(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
