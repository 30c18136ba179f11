"""A control step without what robosuite computes several times: the same states and pictures, to the bit."""

from typing import Any


def compute_once(env: Any) -> None:
    """Let a robosuite environment with one robot ask MuJoCo once, not three times, for what follows from the positions
    and velocities of a simulation step.

    robosuite's step calls `mj_forward`, its controller calls it again before the new torques are known, and `mj_step`
    begins with a third. All that follows from positions and velocities (poses, contacts, inertia) is the same in all
    three; what differs are forces and accelerations. Those alone are computed in the second and third: the solver
    begins its next solution with them, so that to leave them out would change last bits. MuJoCo begins by normalising
    the quaternions of the positions; where that moves one by a last bit once more, everything is computed again.
    """
    import mujoco

    assert env.sim.model.opt.integrator != mujoco.mjtIntegrator.mjINT_RK4, "its steps have positions in between"
    assert len(env.robots) == 1

    def positions_stand() -> bool:
        before = env.sim.data._data.qpos
        mujoco.mj_normalizeQuat(env.sim.model._model, after := before.copy())
        return bool((after == before).all())

    def forward():
        model, data = env.sim.model._model, env.sim.data._data
        if positions_stand():
            mujoco.mj_forwardSkip(model, data, int(mujoco.mjtStage.mjSTAGE_VEL), False)
        else:
            mujoco.mj_forward(model, data)

    def pre_action(action, policy_step=False):
        env.sim.forward = forward  # the controller's
        try:
            env.robots[0].control(action, policy_step=policy_step)
        finally:
            del env.sim.forward

    def step(with_udd=True):
        finish = mujoco.mj_step2 if positions_stand() else mujoco.mj_step
        finish(env.sim.model._model, env.sim.data._data)

    env._pre_action, env.sim.step = pre_action, step
