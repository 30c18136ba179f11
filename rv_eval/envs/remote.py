"""Environments that live elsewhere: another Python, another machine, whatever speaks rv_eval.envs.remote_messages."""

import multiprocessing.connection
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import numpy as np

from libs.cli import Numbers
from libs.errors import BadInput
from rv_eval.envs.base import CannotStart, Description, Episode, Reply, WorkerFailure
from rv_eval.envs.remote_line import Line, StandingServer, StartedServer
from rv_eval.envs.remote_messages import Greeting, RemoteTask, read_action, read_error, read_reply
from rv_eval.serving import wire

START_S = 180.0  # an environment that says nothing for so long does not start
# How long a standing environment is tried that does not answer, or has a client: at the beginning; and later, when it
# was there before and somebody may be starting it again.
FIRST_PATIENCE_S, PATIENCE_S = 5.0, 60.0


class RemoteEnvironment:
    """An Environment (see base.py) at the other end of a line; `hung_up` is called once, when it is closed."""

    def __init__(
        self,
        task: RemoteTask,
        description: Description,
        line: Line,
        resolution: int,
        render: str,
        hung_up: Callable[[], None],
    ) -> None:
        self.task, self.description = task, description
        self._line, self._resolution, self._hung_up = line, resolution, hung_up
        self._unanswered: deque[tuple[str, ...] | None] = deque()  # views of each reply, None: of the simulation's make
        self._closed = False
        about = {"suite": task.suite, "task_id": task.task_id, "resolution": resolution, "render": render}
        self._ask(None, {"do": "make", **about})

    @property
    def pid(self) -> int | None:
        """Of its process, where it was started here."""
        return getattr(self._line.server, "pid", None)

    def begin(self, episode: Episode, views: tuple[str, ...]) -> None:
        about = {"init_state": episode.init_state, "seed": episode.seed, "settle": episode.num_settle_steps}
        self._ask(views, {"do": "begin", "views": list(views), **about})

    def act(self, action: np.ndarray, views: tuple[str, ...]) -> None:
        self._ask(views, {"do": "act", "action": np.asarray(action, np.float64), "views": list(views)})

    def fileno(self) -> int:
        return self._line.fileno()

    def receive(self) -> Reply | None:
        answer = self._line.receive()
        if not self._unanswered:
            raise WorkerFailure("it answers what nobody has asked")
        views = self._unanswered.popleft()
        if views is None:
            read_error(answer)
            return None
        return read_reply(answer, self.description, self.task.instruction, views, self._resolution)

    def wait(self, timeout_s: float) -> Reply:
        """The next reply. WorkerFailure: none within `timeout_s`."""
        while True:
            self._await(timeout_s)
            if (reply := self.receive()) is not None:
                return reply

    def ask_expert(self, timeout_s: float) -> np.ndarray:
        """What the environment's own expert would do now, (A,) float64: when every other request is answered."""
        self._line.send(wire.pack({"do": "expert"}, wire.Form.TEXT_KEYS))
        self._await(timeout_s)
        return read_action(self._line.receive(), self.description)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._line.close()
            self._hung_up()

    def _ask(self, views, request):
        self._unanswered.append(views)
        self._line.send(wire.pack(request, wire.Form.TEXT_KEYS))

    def _await(self, timeout_s):
        if not multiprocessing.connection.wait([self.fileno()], timeout_s):
            raise WorkerFailure(f"no answer within {timeout_s:g} s")


class RemoteSimulator:
    """The Simulator that stands at some addresses, or that a command starts as often as there are to be environments.

    urls: ws://host:port, an environment each; else command, see StartedServer. One of them is asked at once what it is,
    and used for the first environment; `close`, or leaving a `with`, ends what was not used. BadInput: nobody there,
    none that can be started, none of this protocol, or one that is unlike the others.
    """

    seed_means = "given to every reset; what it decides is the simulator's own"

    def __init__(self, urls: Sequence[str] = (), command: str | None = None) -> None:
        self._command = command
        self._free = deque(StandingServer(url, FIRST_PATIENCE_S) for url in urls)
        self._spare: list[Line] = []
        if len(set(urls)) < len(urls):
            raise BadInput("--env names an address twice: one process is one environment")
        self.max_envs = len(urls) if urls else None
        self._greeting: Greeting | None = None
        try:
            for _ in range(self.max_envs or 1):
                self._spare.append(self._new_line())
            for place, line in enumerate(self._spare):
                self._greeting = line.wait(START_S)
                if self._greeting != self._spare[0].greeting:
                    raise BadInput(f"the environments at {urls[0]} and {urls[place]} are not the same")
                line.server.patience_s = max(line.server.patience_s, PATIENCE_S)
        except CannotStart as error:
            self.close()
            raise BadInput(f"the environment cannot be used: {error}") from error
        except BaseException:
            self.close()
            raise

    @property
    def description(self) -> Description:
        return self._told.description

    @property
    def tasks(self) -> tuple[RemoteTask, ...]:
        return self._told.tasks

    @property
    def has_expert(self) -> bool:
        return self._told.expert

    def add_task_arguments(self, add: Callable[..., Any]) -> None:
        add("--task_suite", nargs="+", metavar="NAME", help=f"of {', '.join(self._suites())} (default: all)")
        add("--task_ids", action=Numbers, help="tasks of each suite by number, or all (default)")
        add("--task_names", nargs="+", metavar="NAME", help="tasks by name")

    def choose_tasks(self, args: Any) -> list[RemoteTask]:
        if args.task_ids is not None and args.task_names is not None:
            raise BadInput("--task_ids and --task_names: give one of them")
        chosen = list(self.tasks)
        for flag, what, wanted in (
            ("--task_suite", "suite", args.task_suite),
            ("--task_ids", "task_id", args.task_ids),
            ("--task_names", "name", args.task_names),
        ):
            if wanted is not None:
                _check_known(flag, wanted, [getattr(task, what) for task in chosen])
                chosen = [task for task in chosen if getattr(task, what) in wanted]
        return chosen

    def prepare(self) -> dict[str, str]:
        return dict(self._told.drawn_by)

    def versions(self) -> dict[str, str | None]:
        return dict(self._told.versions)

    def make(self, task: RemoteTask, resolution: int, render: str) -> RemoteEnvironment:
        """See Simulator. BadInput: every address has an environment already."""
        line = self._spare.pop(0) if self._spare else self._new_line()

        def hung_up():
            if isinstance(line.server, StandingServer):
                self._free.append(line.server)

        return RemoteEnvironment(task, self.description, line, resolution, render, hung_up)

    def close(self) -> None:
        while self._spare:
            self._spare.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _new_line(self):
        if self._command is not None:
            return Line(StartedServer(self._command), self._greeting)
        if not self._free:
            raise BadInput(f"--num_envs: there are {self.max_envs} addresses, an environment each")
        return Line(self._free.popleft(), self._greeting)

    @property
    def _told(self) -> Greeting:
        assert self._greeting is not None, "the constructor has waited for it"
        return self._greeting

    def _suites(self):
        return dict.fromkeys(task.suite for task in self.tasks)


def _check_known(flag: str, wanted: Iterable, known: Sequence) -> None:
    for value in wanted:
        if value not in known:
            there = ", ".join(map(str, dict.fromkeys(known)))
            raise BadInput(f"{flag} {value}: there are {there}")
