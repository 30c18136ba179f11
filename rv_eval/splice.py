"""Asking early: which actions are executed while the next chunk is computed, and where that one then begins.

All of it is counted in executed actions, never in seconds: a measured time is wrong after the first, slow answer and on
every busy machine; what was executed since the question is known. What stood still meanwhile has not aged: steps in
which nothing was executed do not count.
"""

import numpy as np

from libs.action_form import NO_ROTATIONS, Rotations
from libs.errors import BadInput
from rv_eval.agent import AgentSettings, Answering

SYNC, NAIVE, SPLICE, PREFIX = "sync", "naive", "splice", "prefix"
EXECUTIONS = (SYNC, NAIVE, SPLICE, PREFIX)


def check_execution(execution: str, policy: Answering) -> None:
    """BadInput: the policy (its `takes_prefix` and `folder`) cannot be executed so."""
    if execution == PREFIX and not policy.takes_prefix:
        raise BadInput(
            f"the policy {policy.folder} cannot begin its chunks with given actions, which execution {PREFIX} asks of "
            f"it (one that writes text can): take {SPLICE}"
        )


class Splicer:
    """One episode's chunks, of a policy whose answers take a while.

    execution: what happens between question and answer, and where the answer's chunk begins.
        sync: nothing is executed, the chunk begins with its first action.
        naive: the chunk before is executed on; the new one begins with its first action, though that was meant for
            where the robot was when the question was asked.
        splice: the same, but the actions that have been executed since the question are left out of the new chunk.
        prefix: the same, and the question says what will be executed until the answer is there (`coming`), so that the
            new chunk begins with it and what follows goes on from there.
    settings: as for ChunkAgent; n_action_steps: actions after which the next question is due, counted from the first
    of the chunk. An answer may be so late that the chunk is executed beyond them, to its end; then there is nothing to
    execute, and no action is ever repeated. rotations: the policy's.
    """

    def __init__(
        self,
        horizon: int,
        settings: AgentSettings,
        execution: str = SPLICE,
        rotations: Rotations = NO_ROTATIONS,
    ) -> None:
        if execution not in EXECUTIONS:
            raise BadInput(f"execution is one of {', '.join(EXECUTIONS)}, not {execution!r}")
        self.horizon, self.settings, self.execution = horizon, settings.resolve(horizon), execution
        self._ensembler = self.settings.make_ensembler(horizon, rotations)
        self.reset()

    def reset(self) -> None:
        """Forget everything: call at the start of an episode."""
        self._ensembler.reset()
        self._chunk: np.ndarray | None = None
        self.position = self.horizon  # of the next action in the chunk
        self._executed = 0
        self._asked_at: int | None = None  # actions executed before the question that is open
        self._begin = 0  # actions executed before the first one of the chunk was due

    @property
    def asked(self) -> bool:
        """Whether a question is open."""
        return self._asked_at is not None

    def due(self, delay: int) -> bool:
        """Whether to ask now. delay: actions that are executed before the answer is there, as far as is known: so early
        that they and the rest of the chunk end together. A delay of a whole chunk or more: when nothing is left."""
        if self.asked:
            return False
        last = self.settings.n_action_steps
        if self.execution != SYNC:
            last = min(last, self.horizon - delay) if delay < self.horizon else self.horizon
        return self.position >= last

    def coming(self, delay: int) -> list[np.ndarray]:
        """What a question that is asked now says of the actions (A,) that are executed until its answer is there, which
        takes `delay` of them; nothing unless execution is prefix."""
        if self.execution != PREFIX or self._chunk is None:
            return []
        return list(self._chunk[self.position : self.position + delay].astype(np.float64))

    def ask(self) -> None:
        """The question is asked now."""
        self._asked_at = self._executed

    def forget(self) -> None:
        """The question gets no answer that could be used."""
        self._asked_at = None

    def add_chunk(self, chunk: np.ndarray) -> bool:
        """The answer (H, A) to the open question. False: everything in it is over, it is not used."""
        begin = self._executed
        if self.execution in (SPLICE, PREFIX):
            assert self._asked_at is not None, "an answer has its question"
            begin = self._asked_at
        self._asked_at = None
        if self._executed - begin >= self.horizon:
            return False
        self._chunk = self._ensembler.add(chunk, begin - self._begin)
        self._begin, self.position = begin, self._executed - begin
        return True

    def next_action(self) -> np.ndarray | None:
        """(A,) float64, what to execute now; None: nothing, hold."""
        over = self.settings.n_action_steps if self.execution == SYNC else self.horizon
        if self._chunk is None or self.position >= over:
            return None
        action = self._chunk[self.position].astype(np.float64)
        self.position += 1
        self._executed += 1
        return action
