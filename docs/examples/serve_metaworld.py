"""Meta-World's MT10 for this project's evaluations, from an environment of its own (Python 3.10 to 3.13):

    python -m venv .venv-metaworld
    .venv-metaworld/bin/pip install metaworld==3.1.1 mujoco==3.3.0 packaging numpy "websockets>=15" msgpack
    .venv/bin/python tools/eval_env.py --env_command ".venv-metaworld/bin/python docs/examples/serve_metaworld.py" ...

The tasks draw their goals: a ball, red to reach, green to push to, blue to place at. Three cameras: `left` and `right`
look down at the table from the robot's sides, so that doors, drawers and windows show their handles and two pictures
together tell depth, and `hand` looks between the fingers. Meta-World's own corner cameras show everything upside down
and a puck two pixels wide at this size.
"""

import os
import warnings
from importlib.metadata import version

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

import mujoco
import numpy as np
import serve_env
from metaworld import policies
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

# name -> (its scripted policy, what is asked)
TASKS = {
    "reach-v3": ("SawyerReachV3Policy", "move the gripper to the red ball"),
    "push-v3": ("SawyerPushV3Policy", "push the puck to the green ball"),
    "pick-place-v3": ("SawyerPickPlaceV3Policy", "pick up the puck and lift it to the blue ball"),
    "door-open-v3": ("SawyerDoorOpenV3Policy", "open the door of the safe"),
    "drawer-open-v3": ("SawyerDrawerOpenV3Policy", "pull the drawer open"),
    "drawer-close-v3": ("SawyerDrawerCloseV3Policy", "push the drawer shut"),
    "button-press-topdown-v3": ("SawyerButtonPressTopdownV3Policy", "press the red button from above"),
    "peg-insert-side-v3": ("SawyerPegInsertionSideV3Policy", "put the green peg into the hole of the box"),
    "window-open-v3": ("SawyerWindowOpenV3Policy", "slide the window open"),
    "window-close-v3": ("SawyerWindowCloseV3Policy", "slide the window shut"),
}
NUM_INIT_STATES = 50
RENDER = {  # shadows, reflections and samples per pixel: "fast" is a tenth of the time, and other pictures
    "standard": (True, True, 4),
    "fast": (False, False, 0),
}
LOOK_AT, DISTANCE, ELEVATION = (0.0, 0.68, 0.12), 1.05, -35.0
AZIMUTH = {"left": 145.0, "right": 35.0}  # degrees


class MetaWorld:
    @staticmethod
    def describe():
        tasks = [
            {"suite": "mt10", "task_id": number, "name": name, "instruction": instruction}
            for number, (name, (_, instruction)) in enumerate(TASKS.items())
        ]
        return {
            "name": "metaworld",
            "benchmark": "Meta-World",
            "views": [*AZIMUTH, "hand"],
            "proprio": {"position": 3, "opening": 1},  # of the hand
            "actions": [
                {"name": "position", "size": 3, "levels": None},
                {"name": "gripper", "size": 1, "levels": None},  # how strongly it is closed
            ],
            "control_hz": 80.0,
            "num_settle_steps": 0,
            "reported_render": None,  # nobody's results have these cameras
            "versions": {name: version(name) for name in ("metaworld", "mujoco")},
            "drawn_by": {"gl_backend": os.environ["MUJOCO_GL"]},
            "tasks": [{**task, "max_steps": 500, "num_init_states": NUM_INIT_STATES} for task in tasks],
        }

    def __init__(self, task, resolution, render):
        if render not in RENDER:
            raise serve_env.Refused(f"unknown render setting {render!r}: known are {', '.join(RENDER)}")
        warnings.filterwarnings("ignore")  # the scripted policies', of every step whose action is clipped
        self.env = ALL_V3_ENVIRONMENTS[task["name"]]()
        self.policy = getattr(policies, TASKS[task["name"]][0])()
        # As in the package's multi-task benchmarks: the place of things is drawn, the goal is known (to the policy).
        self.env._set_task_called, self.env._partially_observable = True, False
        self.env._freeze_rand_vec, self.env.seeded_rand_vec = False, True
        self.env.__dict__.pop("sawyer_observation_space", None)  # made while the goal was hidden, to which it clips it
        shadows, reflections, samples = RENDER[render]
        model = self.env.model
        model.vis.quality.offsamples = samples
        model.vis.global_.offwidth = model.vis.global_.offheight = resolution
        self.renderer = mujoco.Renderer(model, resolution, resolution)
        self.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        self.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = reflections
        self.cameras = {name: side_camera(azimuth) for name, azimuth in AZIMUTH.items()} | {"hand": "gripperPOV"}

    def reset(self, init_state, seed):
        np.random.seed(init_state)
        self.env.seed(init_state)
        mujoco.mj_resetData(self.env.model, self.env.data)  # the package's own reset begins where things lie
        mujoco.mj_forward(self.env.model, self.env.data)
        self.state, self.info = self.env.reset()

    def settle(self, steps):
        for _ in range(steps):
            self.act(np.zeros(4))

    def act(self, action):
        self.state, _, _, _, self.info = self.env.step(np.clip(action, -1.0, 1.0))

    def observe(self, views):
        pictures = {}
        for view in views:
            self.renderer.update_scene(self.env.data, self.cameras[view])
            pictures[view] = self.renderer.render()
        return pictures, {"position": self.state[:3], "opening": self.state[3:4]}

    def success(self):
        return self.info.get("success", 0.0) > 0

    def facts(self):
        return {"distance": float(self.info["obj_to_target"])} if self.info else {}

    def expert(self):
        return np.clip(self.policy.get_action(self.state), -1.0, 1.0)

    def close(self):
        self.renderer.close()


def side_camera(azimuth):
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = LOOK_AT, DISTANCE, azimuth, ELEVATION
    return camera


if __name__ == "__main__":
    serve_env.main(MetaWorld)
