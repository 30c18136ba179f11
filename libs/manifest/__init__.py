"""Training sets as text: a JSON line per supervised sample, its pictures beside."""

from libs.manifest.lines import HIDDEN, BadLine, Line, Rules, numbered_lines, read_line
from libs.manifest.pictures import read_picture

__all__ = ["HIDDEN", "BadLine", "Line", "Rules", "numbered_lines", "read_line", "read_picture"]
