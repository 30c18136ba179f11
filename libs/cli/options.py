"""What every command line here shares: how its options read, and what --help says.

- Options are written out: no abbreviations. Words that form a list stand apart: `--task_ids 0 3`.
- `Switch` is for what may be on by itself, `--drafts` and `--no_drafts`; for what is asked for, `--force`, it is
  argparse's store_true.
- The description is the command's docstring. Its indented paragraphs of commands become the examples at the end.
"""

import argparse
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from libs.cli.old import as_written_now, without_set
from libs.errors import BadInput
from libs.files import short_path

_EXAMPLES = re.compile(r"^    python \S.*\n(?:    .*\n)*", re.M)
ALL = "all"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser of a docstring, see above. `examples`: the commands of the docstring, a line each as it stands
    there, or several that end in a backslash."""

    def __init__(self, description: str | None = None, **kwargs: Any) -> None:
        text = f"{(description or '').strip()}\n"
        paragraphs = _EXAMPLES.findall(text)
        kwargs = {"formatter_class": _Help, "allow_abbrev": False, **kwargs}
        super().__init__(description=re.sub(r"\n{3,}", "\n\n", _EXAMPLES.sub("", text)).strip(), **kwargs)
        commands = textwrap.dedent("".join(paragraphs))
        self.examples = [command for command in re.split(r"(?<!\\)\n", commands) if command]
        self._key: re.Pattern[str] | None = None

    def add_pairs(self, sections: Iterable[str], help: str) -> None:
        """KEY VALUE pairs, the arguments' `opts`. They may stand anywhere, also behind an option that takes several
        words. sections: what a KEY begins with, "TRAIN" of TRAIN.lr; a path of this form is written ./TRAIN.lr."""
        self._key = re.compile(rf"(?:{'|'.join(map(re.escape, sections))})(?:\.\w+)+")
        self.add_argument("opts", nargs="*", metavar="KEY VALUE", help=help)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        words = list(sys.argv[1:] if args is None else args)
        if self._key is None:
            return super().parse_args(words, namespace)
        pairs, words = self._split_pairs(without_set(words, self._option_string_actions), self._key)
        parsed = self.parse_intermixed_args(as_written_now(words, self._option_string_actions), namespace)
        parsed.opts = [*pairs, *parsed.opts]
        return parsed

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(as_written_now(words, self._option_string_actions), namespace)

    def _split_pairs(self, words: list[str], key: re.Pattern[str]) -> tuple[list[str], list[str]]:
        pairs, rest, place, wanted = [], [], 0, False  # wanted: the word is the value of the option before it
        while place < len(words):
            word = words[place]
            if word == "--":
                return pairs, rest + words[place:]
            if not wanted and key.fullmatch(word):
                pair = words[place : place + 2]
                pair = pair[: 1 if pair[-1].startswith("--") else 2]
                pairs += pair
                place += len(pair)
                continue
            action = self._option_string_actions.get(word)
            wanted = action is not None and action.nargs is None
            rest.append(word)
            place += 1
        return pairs, rest

    def format_help(self) -> str:
        """Options, then the examples, as the program was called: `vla0 train` or `python -m rv_train.train`."""
        lines = self.examples
        if lines and self.prog.startswith("vla0 "):
            called = " ".join(lines[0].split()[: 3 if " -m " in lines[0] else 2])
            lines = [line.replace(called, self.prog, 1) if line.startswith(called) else line for line in lines]
        shown = textwrap.indent("\n".join(lines), "  ")
        return super().format_help() + (f"\nexamples:\n{shown}\n" if lines else "")

    def error(self, message: str) -> NoReturn:
        names = [str(action.metavar) for action in self._actions if not action.option_strings and action.metavar]
        if "required" in message and any(name in message for name in names):
            message += " (write what has no name before the options: a list takes all words behind it)"
        super().error(message)


class Switch(argparse.Action):
    """`--x` and `--no_x`: True and False; neither: the default, None where somebody else decides."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        both = [name for yes in option_strings for name in (yes, f"--no_{yes.removeprefix('--')}")]
        super().__init__(both, dest, nargs=0, **kwargs)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, not str(option_string).startswith("--no_"))

    def format_usage(self) -> str:
        return " | ".join(self.option_strings)


class Numbers(argparse.Action):
    """A list of whole numbers, `0 3`; "all" is None. BadInput: other words."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, **{"nargs": "+", "metavar": "N", **kwargs})

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        try:
            numbers = None if values == [ALL] else [int(value) for value in values]
        except ValueError:
            raise BadInput(f"{option_string} {' '.join(values)}: whole numbers such as 0 3, or {ALL}") from None
        setattr(namespace, self.dest, numbers)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Tells every default that the text does not tell, and paths as they read from here."""

    def _get_help_string(self, action):
        text, default = action.help or "", action.default
        nothing = default is None or default is False or default in ("", argparse.SUPPRESS, [], ())
        if "default" in text or action.required or not action.option_strings or nothing:
            return text.replace("%(default)s", _shown(default))
        return f"{text} (default: {_shown(default)})".strip()


def _shown(default):
    if isinstance(default, (list, tuple)):
        return " ".join(map(_shown, default))
    text = "yes" if default is True else str(short_path(default)) if isinstance(default, Path) else f"{default}"
    return text.replace("%", "%%")
