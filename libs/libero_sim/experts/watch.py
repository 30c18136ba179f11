"""Whether a motion looks like a robot's: speeds and penetrations, noted after every step of a LiberoEnv."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from libs.libero_sim.env import LiberoEnv


class Watch:
    """Make it after settling; call `step` after every env.step.

    Speeds are mean speeds over one step (50 ms). A penetration is how deep two bodies of which one can move stand
    in each other; pairs that were deeper than that already when the watch began are not the expert's.
    """

    def __init__(self, env: "LiberoEnv") -> None:
        self._env = env.robosuite_env
        model = self._env.sim.model
        bodies = self._env.obj_body_id
        self._movable = {name: body for name, body in bodies.items() if model.body_dofnum[body] == 6}
        self._before = self._positions()
        self._at_start = self._penetrations()
        self._fastest, self._deepest, self._hand = (0.0, ""), (0.0, ("", "")), 0.0

    def step(self) -> None:
        now = self._positions()
        speeds = {name: float(np.linalg.norm(now[name] - self._before[name])) * self._env.control_freq for name in now}
        self._hand = max(self._hand, speeds.pop("hand"))
        self._before = now
        if speeds:
            fastest = max(speeds, key=speeds.__getitem__)
            self._fastest = max(self._fastest, (speeds[fastest], fastest))
        for pair, depth in self._penetrations().items():
            if depth > self._at_start.get(pair, 0.0):
                self._deepest = max(self._deepest, (depth, pair))

    def record(self) -> dict[str, Any]:
        """The extremes so far: metres per second and millimetres."""
        return {
            "object_speed": round(self._fastest[0], 3),
            "fastest_object": self._fastest[1],
            "hand_speed": round(self._hand, 3),
            "penetration_mm": round(1000 * self._deepest[0], 2),
            "deepest_pair": list(self._deepest[1]),
        }

    def _positions(self):
        data = self._env.sim.data
        hand = {"hand": np.array(data.site_xpos[self._env.robots[0].eef_site_id])}
        return {name: np.array(data.body_xpos[body]) for name, body in self._movable.items()} | hand

    def _penetrations(self):
        """{pair of geom names: metres}, of the present contacts."""
        data, model = self._env.sim.data, self._env.sim.model
        depths: dict[tuple[str, ...], float] = {}
        for contact in data.contact[: data.ncon]:
            pair = tuple(sorted(model.geom_id2name(geom) or "?" for geom in (contact.geom1, contact.geom2)))
            depths[pair] = max(depths.get(pair, 0.0), -float(contact.dist))
        return depths
