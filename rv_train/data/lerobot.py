"""DATA.SOURCE lerobot: LeRobot data sets of versions 2.0, 2.1 and 3.0 (`libs.lerobot_data`).

Pictures come from the frame cache of DATA.CACHE where it has them, else they are read through: the same ones.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm
from yacs.config import CfgNode

from libs.errors import BadInput
from libs.lerobot_data import find_set, is_set
from rv_train.data import checks
from rv_train.data.base import Demo, Facts, Sample
from rv_train.data.trajectories import Trajectories

if TYPE_CHECKING:
    from libs.lerobot_data.layout import Layout

USUAL_ACTION = "action"  # what DATA.ACTION is unless a recipe says otherwise
BESIDE = "beside"  # what DATA.CACHE calls the folder NAME.frames beside a set


class OpenSet:
    """A set as a file of demonstrations: `path`, its episodes that have frames, and its frame cache if there is one.

    BadInput, naming the set: something that a recipe chooses is not there, or a file of it cannot be used.
    """

    def __init__(self, path: Path, cfg: CfgNode) -> None:
        from libs.lerobot_data import FrameCache, LeRobotSet, Plan, default_folder, read_layout

        data, layout = cfg.DATA, read_layout(path)
        self.path, self.facts = path, facts_of(layout, data.ACTION)
        checks.refuse(checks.choice_problems(self.facts, cfg, path))
        self.set, self._goal = LeRobotSet(path, [data.ACTION, *data.PROPRIO], data.VIEWS), data.INSTRUCTION
        self.cache = None
        if data.CACHE:
            plans = [Plan(view, jpeg_quality=data.CACHE_JPEG) for view in data.VIEWS]
            folder = default_folder(path.absolute()) if data.CACHE == BESIDE else data.CACHE
            self.cache = FrameCache(self.set, plans, folder)

    def read_demos(self, action: str, parts: list[str]) -> list[Demo]:
        """Every episode. The set lets go of their numbers, so that a process that is given the demos has them once."""
        demos = []
        for episode in self.set.episodes:
            nothing = np.zeros((self.set.num_frames(episode), 0), np.float32)
            state = np.concatenate([nothing, *(self.set.vector(episode, part) for part in parts)], axis=1)
            actions = self.set.vector(episode, action)
            demos.append(Demo(self, self.instruction(episode, 0), f"episode_{episode}", actions, state))
        self.set.rows = dataclasses.replace(self.set.rows, vectors={})
        return demos

    def instruction(self, episode: int, frame: int) -> str:
        """The language goal of a frame: DATA.INSTRUCTION, else the text of its task."""
        return self._goal or self.set.instruction(episode, frame)

    def goals(self, episode: int) -> list[tuple[int, str]]:
        """(first frame, language goal) of every stretch of an episode that has one task."""
        tasks = self.set.rows.task[self.set.rows.spans[episode]]
        firsts = [0, *(np.flatnonzero(np.diff(tasks)) + 1).tolist()]
        return [(frame, self.instruction(episode, frame)) for frame in firsts]

    def picture(self, episode: int, frame: int, view: str) -> np.ndarray:
        """(H, W, 3) uint8, upright."""
        if self.cache is None:
            return self.set.picture(episode, frame, view)
        return self.cache.picture_or_made(episode, frame, view)


class LeRobotDemos(Trajectories):
    """The episodes of some sets, set by set, as `Demonstrations`: every frame has the goal of its own task.

    BadInput: sets that are not alike in what is chosen of them; see also `OpenSet`.
    """

    def __init__(self, sets: list[OpenSet], cfg: CfgNode) -> None:
        action, parts = cfg.DATA.ACTION, list(cfg.DATA.PROPRIO)
        checks.refuse(checks.unlike_problems([(one.path, one.facts) for one in sets], cfg))
        demos = [rows for one in sets for rows in one.read_demos(action, parts)]
        checks.refuse(checks.number_problems(demos))
        checks.refuse(_goal_problems(demos))
        self._action = action
        super().__init__(demos, cfg.DATA.VIEWS, cfg.ACTION.HORIZON, sets[0].facts, parts)

    def __getitem__(self, index: int) -> Sample:
        number, frame = self._place(index)
        rows = self.demos[number]
        goal = rows.file.instruction(_episode(rows), frame)
        return dataclasses.replace(super().__getitem__(index), instruction=goal)

    def picture(self, number: int, frame: int, view: str) -> np.ndarray:
        """See `Demonstrations`."""
        rows = self.demos[number]
        return rows.file.picture(_episode(rows), frame, view)

    @property
    def instructions(self) -> list[str]:
        """The language goals, each once, in the order of the frames."""
        return list(dict.fromkeys(goal for goals in self.goals() for _, goal in goals))

    def goals(self) -> list[list[tuple[int, str]]]:
        """See `Trajectories`: of every episode with the frames from which each holds."""
        return [rows.file.goals(_episode(rows)) for rows in self.demos]

    def about(self) -> dict[str, Any]:
        """See `Demonstrations`."""
        return {"action": self._action}

    def remarks(self) -> list[str]:
        """See `Demonstrations`."""
        rates = {str(file.path): file.facts.rate for file in self.files}
        if len(set(rates.values())) < 2:
            return []
        said = ", ".join(f"{path} {rate:g}" for path, rate in rates.items())
        return [f"sets of several rates, so that an action lasts longer in some (frames a second): {said}"]

    def prepare(self, workers: int) -> None:
        """See `Demonstrations`: what the frame caches lack of these episodes is made; the same call goes on after an
        interruption. BadInput where the disk has no room for it, a picture cannot be read, or another process is at it.
        """
        for file in self.files:
            if file.cache is not None:
                _build(file.cache, [_episode(rows) for rows in self.demos if rows.file is file], workers)


class LeRobot:
    """The `Source`."""

    NUMBERS, PROPRIO = True, True
    ABOUT = "LeRobot data sets, folders that hold some, or their names OWNER/NAME on the Hugging Face hub"

    def fits(self, entry: Path) -> bool:
        """See `Source`."""
        return is_set(entry) or (entry.is_dir() and bool(_sets_in(entry)))

    def look(self, cfg: CfgNode) -> Facts:
        """See `Source`; of a set that has no DATA.ACTION it says which numbers look like actions."""
        from libs.lerobot_data import read_layout, suggest

        layout = read_layout(find_sets(cfg.DATA.FILES)[0])
        action = cfg.DATA.ACTION
        if action not in layout.vectors:
            action = suggest(layout)["action"] or action
        return facts_of(layout, action)

    def open(self, cfg: CfgNode) -> LeRobotDemos:
        """See `Source`."""
        return LeRobotDemos([OpenSet(path, cfg) for path in find_sets(cfg.DATA.FILES)], cfg)


def find_sets(entries: Sequence[Path | str]) -> list[Path]:
    """The folders of the sets that DATA.FILES lists, those of the hub fetched; BadInput: none, or nowhere."""
    if not entries:
        raise BadInput("DATA.FILES is empty; give LeRobot data sets: folders, or names on the hub (OWNER/NAME)")
    found = []
    for entry in entries:
        try:
            path = find_set(entry)
        except BadInput as error:
            raise BadInput(f"DATA.FILES: {error}") from None
        inside = [] if is_set(path) else _sets_in(path)
        found += inside or [path]  # what is no set will be said when it is opened
    return found


def facts_of(layout: "Layout", action: str) -> Facts:
    """What a set holds, with the numbers `action` as its actions and all others as parts of the robot's state."""
    try:
        layout.check_vectors([action])
    except BadInput as error:
        raise BadInput(f"DATA.ACTION: {error}") from None
    sizes = {name: (camera.height, camera.width) for name, camera in layout.cameras.items()}
    dims = {name: vector.dim for name, vector in layout.vectors.items()}
    needs = {} if action == USUAL_ACTION else {"DATA.ACTION": action}
    names = layout.vectors[action].names
    stated = () if names == tuple(f"{action}.{n}" for n in range(len(names))) else names  # else nothing named them
    return Facts(sizes, dims.pop(action), dims, layout.fps, needs, stated)


def _sets_in(folder):
    return sorted(path for path in folder.iterdir() if is_set(path))


def _episode(rows):
    return int(rows.name.removeprefix("episode_"))


def _goal_problems(demos):
    known = {}
    for rows in demos:
        for frame, goal in rows.file.goals(_episode(rows)):
            if goal not in known:
                known[goal] = checks.text_problem(goal)
                if known[goal]:
                    yield f"{rows.file.path}, {rows.name}, frame {frame}: the instruction {known[goal]}"


def _build(cache, episodes, workers):
    if not cache.missing(episodes):
        return
    estimate = cache.check_disk(episodes)
    print(
        f"frame cache {cache.folder}: {estimate.missing_frames:,} of {estimate.frames:,} pictures are missing, about "
        f"{estimate.missing_bytes / 1e6:,.1f} MB; {estimate.free / 1e9:,.1f} GB are free",
        file=sys.stderr,
        flush=True,
    )
    with tqdm(total=estimate.missing_frames, unit="picture", dynamic_ncols=True) as bar:
        cache.build(workers, lambda job: bar.update(cache.data.num_frames(job.episode)), episodes)
