"""Say what draws the simulator's pictures on this machine and why, or which Debian packages or settings it needs."""

from libs.cli import cli_errors
from libs.robosuite_sim import tell_gl


@cli_errors
def main() -> None:
    graphics = tell_gl()
    print(f"pictures are drawn by {graphics}: {graphics.reason}")
    print("simulators get " + " ".join(f"{name}={value}" for name, value in graphics.variables().items()), end="")
    others = ", ".join(map(str, graphics.devices[1:]))
    print(f", others MUJOCO_EGL_DEVICE_ID={others}" if others else "")


if __name__ == "__main__":
    main()
