"""What episodes are asked instead of their tasks' own instructions: other wordings of them, or other tasks'."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from libs.files import shipped
from libs.wordings import Wording
from rv_eval.envs.base import Episode, Request, Task

Wordings = Mapping[str, Sequence[Wording]]  # by instruction


def reword(episodes: Iterable[Episode], wordings: Wordings, known: set[str]) -> list[Episode]:
    """The episodes, that of init state n asked in wording n modulo their number of its task's instruction.

    known: the words that were trained on. KeyError for an instruction without wordings: read_wordings refuses it.
    """
    return [
        replace(episode, request=_reworded(episode, wordings[episode.task.instruction], known)) for episode in episodes
    ]


def ask_all(episodes: Iterable[Episode], requests: Callable[[Task], Sequence[Request]]) -> list[Episode]:
    """Each episode once with every request of its task, so that a simulator stays with its task."""
    return [replace(episode, request=request) for episode in episodes for request in requests(episode.task)]


def words_of(wordings: Wordings) -> set[str]:
    """The words of all instructions and of their wordings."""
    return {
        word for said, others in wordings.items() for text in (said, *(o.text for o in others)) for word in _words(text)
    }


def wordings_setting(path) -> str:
    """What results say about the file of wordings that they were asked in: its name and the beginning of its hash."""
    return f"in the wordings of {Path(path).name} {hashlib.sha256(shipped(path).read_bytes()).hexdigest()[:12]}"


def _reworded(episode: Episode, wordings: Sequence[Wording], known: set[str]) -> Request:
    wording = wordings[episode.init_state % len(wordings)]
    new_words = tuple(word for word in dict.fromkeys(_words(wording.text)) if word not in known)
    return Request(wording.text, episode.task.task_id, wording.axes, new_words)


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()
