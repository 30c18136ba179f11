"""What the simulators on robosuite are to an evaluation, all of them."""

import importlib.metadata

from libs.robosuite_sim import PACKAGES, tell_gl


class RobosuiteSimulator:
    """The part of a Simulator (see base.py) that is the same for all: what draws, and the packages."""

    def prepare(self) -> dict[str, str]:
        graphics = tell_gl()
        return {"gl_backend": graphics.backend, "gl_renderer": graphics.renderer}

    def versions(self) -> dict[str, str | None]:
        return {name: importlib.metadata.version(name) for name in PACKAGES}
