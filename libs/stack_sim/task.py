"""The cube-stacking task and the seeds of its placements. Needs no simulator."""

from dataclasses import dataclass

from libs.errors import BadInput

NUM_INIT_STATES = 50
_DEMO_SEEDS = 2**31  # seeds from here on are the demos', those below the evaluation's


@dataclass(frozen=True)
class StackTask:
    """robosuite's Stack: the red cube (side 4 cm) is to rest on the green one (5 cm).

    An init state is a numbered reset: the seed that `init_seed` names. max_steps: 20 are a second; the scripted
    expert needs about 90.
    """

    suite: str = "stack"
    task_id: int = 0
    name: str = "stack_the_red_cube_on_the_green_cube"
    instruction: str = "stack the red cube on the green cube"
    max_steps: int = 300
    num_init_states: int = NUM_INIT_STATES


def init_seed(init_state: int) -> int:
    """The seed of the reset that is evaluation init state `init_state`; no demo has it. BadInput: there is none."""
    if not 0 <= init_state < NUM_INIT_STATES:
        raise BadInput(f"stack has init states 0 to {NUM_INIT_STATES - 1}, not {init_state}")
    return init_state


def demo_seed(number: int) -> int:
    """The seed of a reset for a demonstration, of any 32-bit number; no init state has it."""
    return _DEMO_SEEDS + number % _DEMO_SEEDS
