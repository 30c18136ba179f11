"""Spellings of the release before. They work, and a line on stderr says what is written now; the next release empties
this file."""

import sys
from collections.abc import Collection, Sequence

# Where a command has an option of the new name, and none of the old one.
NAMES = {
    "--task_id": "--task_ids",
    "--task_name": "--task_names",
    "--suite": "--task_suite",
    "--demos": "--num_demos",
    "--samples": "--num_samples",
    "--robot": "--robot_type",
}
WITH_COMMAS = ("--task_ids", "--views", "--proprio", "--devices")  # were one word, "0,3"


def say(old: str, new: str) -> None:
    """The line that tells of an old spelling."""
    print(f"warning: {old} is written {new} now; the old form goes with the next release", file=sys.stderr)


def without_set(words: Sequence[str], known: Collection[str]) -> list[str]:
    """Arguments in which `--set KEY VALUE` is KEY VALUE, where a command takes such pairs."""
    if "--set" in known or "--set" not in words:
        return list(words)
    say("--set KEY VALUE", "KEY VALUE")
    return [word for word in words if word != "--set"]


def as_written_now(words: Sequence[str], known: Collection[str]) -> list[str]:
    """Arguments of a command line, old spellings replaced, each told of once.

    known: the options that the command has.
    """
    front, out, option, told = [], [], "", dict[str, str]()
    behind_commas = False  # words after a list with commas never belonged to it
    for place, word in enumerate(words):
        if word == "--":
            out += words[place:]
            break
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            option, behind_commas = _now(name, known), False
            if option != name:
                told[name] = option
            word = option + equals + value
        else:
            equals, value = "", word
        if option in WITH_COMMAS and option in known and "," in value and not behind_commas:
            entries = [entry for entry in value.split(",") if entry]
            told[f"{option} {value}"] = f"{option} {' '.join(entries)}"
            out += [option, *entries] if equals else entries
            behind_commas = True
        else:
            (front if behind_commas else out).append(word)
    for old, new in told.items():
        say(old, new)
    return [*front, *out]


def _now(name: str, known: Collection[str]) -> str:
    """An option's name as it is now; what is no old name comes back."""
    new = NAMES.get(name, f"--no_{name[5:]}" if name.startswith("--no-") else name)
    return new if name not in known and new in known else name
