"""The simulator of the benchmarks: a LiberoEnv that knows where its time goes and can rebuild itself at every reset."""

from typing import Any

from libs.libero_sim import LiberoEnv
from libs.robosuite_sim.rendering import apply_render_setting, get_render_setting
from tools.dev.benchmarks.clock import PhaseClock


class TimedEnv(LiberoEnv):
    """Phases: "reset" (init state included), "physics" (a step, without its pictures), "rendering" (one picture)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.clock = PhaseClock()
        for method, phase in (("reset", "reset"), ("settle", "physics"), ("step", "physics")):
            self.clock.watch(self, method, phase)
        self._reset_robosuite = self.robosuite_env.reset
        self.robosuite_env.reset = self._reset_and_watch
        self._watch_renderer()

    def as_it_comes(self) -> None:
        """Step as robosuite does, and let it look at everything it observes: for the plain loop."""
        env = self.robosuite_env
        del env._pre_action, env.sim.step
        for observable in env._observables.values():
            observable._enabled = True

    def set_hard_reset(self, hard: bool) -> None:
        """Whether a reset builds the simulation anew, as LIBERO's env does unless told otherwise."""
        self.robosuite_env.hard_reset = hard

    def take_phases(self) -> dict:
        """What the clock took since the last call."""
        return self.clock.take()

    def _reset_and_watch(self):
        before = self.robosuite_env.sim
        observation = self._reset_robosuite()
        if self.robosuite_env.sim is not before:  # the setting and the watch went with the old one
            apply_render_setting(self.robosuite_env.sim, get_render_setting(self.render_setting))
            self._watch_renderer()
        return observation

    def _watch_renderer(self):
        self.clock.watch(self.robosuite_env.sim, "render", "rendering")
