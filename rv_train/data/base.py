"""The contract of a data set: what training, validation, statistics and the tools ask of demonstrations.

It has two sides. A `Source` is what DATA.SOURCE names: it knows one kind of files, says what they hold and opens them.
`Demonstrations` are what it opens: demos, every frame of which is a sample. Nothing else in this project opens files of
demonstrations to train on, so a new kind works everywhere by being registered (`rv_train.data.sources`); how to write
one: docs/adding_dataset.md. What holds its demos' numbers in memory inherits nearly all of it
(`rv_train.data.trajectories`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from yacs.config import CfgNode


@dataclass(frozen=True)
class Sample:
    """One supervised example, before any augmentation.

    views: one (H, W, 3) uint8 upright frame per camera; instruction: the language goal;
    actions: (horizon, A) float32, environment units; proprio: (P,) float32, the chosen parts of the robot's state one
    after another, empty where none are chosen; file, demo, frame: where it came from; action_text: the actions as
    integers, where the data holds them so (a manifest): an X in them is a digit that nobody knows, and its action NaN.
    """

    views: list[np.ndarray]
    instruction: str
    actions: np.ndarray
    proprio: np.ndarray
    file: str
    demo: str
    frame: int
    action_text: str | None = None


class HasPath(Protocol):
    """A file of demonstrations: whatever a source keeps of it, what it is told apart by is its path."""

    path: Path


class Demo(NamedTuple):
    """A recorded trajectory of T frames. Index t belongs to the state before action t.

    file: what it lies in; name: its name there, "demo_3"; instruction: the language goal, of its first frame where it
    changes (every `Sample` has its own);
    actions: (T, A) float32, environment units; proprio: (T, P) float32, the chosen parts of the robot's state one after
    another, P may be 0.
    """

    file: Any  # HasPath, and what else its source keeps of it
    instruction: str
    name: str
    actions: np.ndarray
    proprio: np.ndarray


@dataclass(frozen=True)
class Facts:
    """What data holds, whatever of it a recipe chooses.

    cameras: {name: (height, width) of its stored pictures, pixels}, the main one first; a size is None where only the
    data would tell, and there is none yet. action_dim: numbers per action. proprio: {part of the robot's state: numbers
    in it}. rate: frames a second, None where nothing says so. needs: {key of a recipe: value} of what cannot be
    otherwise for this data, beside ACTION.DIM. action_names: of the numbers of an action, () where nothing names them.
    """

    cameras: Mapping[str, tuple[int, int] | None]
    action_dim: int
    proprio: dict[str, int]
    rate: float | None = None
    needs: dict[str, Any] = field(default_factory=dict)
    action_names: tuple[str, ...] = ()


class Block(NamedTuple):
    """A set of a mixture, whose samples and demos come behind those of the sets before.

    weight: as stated, 0 where none is: every frame is then drawn as often as any other. share: of what is drawn.
    samples, demos: how many it has.
    """

    name: str
    weight: float
    share: float
    samples: int
    demos: int


class Demonstrations(Protocol):
    """Demos, every frame of which is a sample. It can be pickled: a rank or a loader process gets it whole.

    views: cameras that samples show, in the model's order.
    horizon: actions per chunk; a chunk that runs over the demo's end repeats its last action.
    parts: {chosen part of the robot's state: numbers in it}, in the order of `Sample.proprio`.
    facts: what the data holds. render: how its pictures were made, "standard" where nothing says so.
    files: what the demos lie in, each once. demos: in a fixed order; in memory, or read when asked for.
    instructions: the language goals of the data, each at least once.
    written_with: (statistics, where they lie) where actions are stored as integers, which mean nothing without them;
        None where they are numbers.
    mix: of a mixture its sets; empty for every other data.
    """

    views: list[str]
    horizon: int
    parts: dict[str, int]
    facts: Facts
    render: str
    written_with: tuple[dict, str] | None

    @property
    def mix(self) -> Sequence[Block]: ...

    @property
    def files(self) -> Sequence[Any]: ...

    @property
    def demos(self) -> Sequence[Demo]: ...

    @property
    def instructions(self) -> list[str]: ...

    def __len__(self) -> int:
        """Samples."""

    def __getitem__(self, index: int) -> Sample:
        """The sample of 0 <= index < len. BadInput where its file is damaged there, or no longer the one it was."""

    def index(self, number: int, frame: int) -> int:
        """The sample of a frame of demo `number` of `demos`."""

    def where(self, index: int) -> str:
        """ "path/file.hdf5, demo_3, frame 17": for messages."""

    def picture(self, number: int, frame: int, view: str) -> np.ndarray:
        """(H, W, 3) uint8, upright: one camera of `views` at a frame of demo `number`, without reading the others."""

    def own_split(self) -> list[str | None]:
        """Of every demo "train", "valid" or "neither", where lists of the data say so, else None.

        BadInput where the lists make no sense.
        """

    def split(self, val_share: float, seed: int) -> tuple["Demonstrations", "Demonstrations | None"]:
        """Hold whole demos out: (what to train on, what is held out, None where nothing is). Nothing is read again.

        By the data's own lists where it has some; else round(val_share * demos) of every file, drawn from (seed, number
        of the file), at least one where there are two or more; files of a single demo and the same instruction count as
        one. val_share 0 holds nothing out.

        BadInput: nothing is left to train on, or as `own_split`.
        """

    def first(self, count: int) -> "Demonstrations":
        """The first demos alone; BadInput where there are fewer."""

    def fingerprint(self) -> str:
        """What a run's data is known by: sha256 in hexadecimal, the same wherever the files lie.

        It covers whatever would make it another run: actions, chosen state, instructions, which cameras and how their
        pictures were made, and one picture of every demo.
        """

    def prepare(self, workers: int) -> None:
        """Make what reads these demos faster (a frame cache), with so many processes; samples are the same without. A
        run calls it once before its ranks start, a look at data never. BadInput where it cannot be made."""

    def about(self) -> dict[str, Any]:
        """What run.json and checkpoints say of this kind of data beside what they say of any, as JSON."""

    def remarks(self) -> list[str]:
        """What somebody should know before a run and only this kind of data has: lines."""


class Source(Protocol):
    """A kind of data, what DATA.SOURCE names. It is made without arguments and holds nothing.

    NUMBERS: actions are stored as numbers, so that any policy can learn from them; False: as integers, for text only.
    PROPRIO: the robot's state is there to be chosen from. ABOUT: what DATA.FILES lists, for people.
    """

    NUMBERS: bool
    PROPRIO: bool
    ABOUT: str

    def fits(self, entry: Path) -> bool:
        """Whether a file or folder looks like this kind of data; False where it does not exist."""

    def look(self, cfg: CfgNode) -> Facts:
        """What the data of a config tree holds, at the price of opening its first file.

        Without DATA.FILES what the config alone says. BadInput where neither says anything.
        """

    def open(self, cfg: CfgNode) -> Demonstrations:
        """The data of a config tree: what DATA and ACTION choose of DATA.FILES. Statistics, DATA.STATS and the split
        are not its business.

        BadInput, naming file and demo, for what cannot be trained on: a camera or part that is not there (naming those
        that are), actions of another size than ACTION.DIM, numbers that are not finite, no instruction.
        """
