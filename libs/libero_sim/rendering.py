"""Two ways to draw the same scene: LIBERO's own pictures, and a cheaper setting for CPUs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RenderSetting:
    """What the renderer draws. Pictures of two settings differ: never mix them between data and evaluation."""

    reflections: bool
    shadows: bool
    multisamples: int | None  # samples per pixel; None keeps the model's own value


RENDER_SETTINGS = {
    "standard": RenderSetting(reflections=True, shadows=True, multisamples=None),
    "fast": RenderSetting(reflections=False, shadows=True, multisamples=0),
}


def get_render_setting(name: str) -> RenderSetting:
    """The setting called `name`. ValueError, listing the names, if there is none."""
    if name not in RENDER_SETTINGS:
        raise ValueError(f"unknown render setting {name!r}: known are {', '.join(RENDER_SETTINGS)}")
    return RENDER_SETTINGS[name]


def apply_render_setting(sim, setting: RenderSetting) -> None:
    """Change robosuite's offscreen renderer of `sim` to `setting`, once, after the env was made."""
    import mujoco

    context = sim._render_context_offscreen
    if setting.multisamples is not None:
        sim.model.vis.quality.offsamples = setting.multisamples
        context.con.free()
        context._set_mujoco_context_and_buffers()
    context.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = setting.reflections
    context.scn.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = setting.shadows
