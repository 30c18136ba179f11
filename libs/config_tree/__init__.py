"""A yacs tree with types: errors name the key and where the value came from."""

from libs.config_tree.tree import differences, get_leaf, leaves, merge, pair, to_dict

__all__ = ["differences", "get_leaf", "leaves", "merge", "pair", "to_dict"]
