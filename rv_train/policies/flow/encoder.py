"""What a flow-matching policy learns from: the open prompt, the robot's state, the chunk, and noise to start from.

A batch holds, besides pictures and ids (`rv_train.policies.encoding`),
    proprio      (B, P) float32, the robot's state as it was recorded
and in training:
    actions      (B, H, A) float32, environment units
    noise        (B, R, H, A) float32, R draws per sample (FLOW.DRAWS)
    time         (B, R) float32 in 0..1, how far each draw has come from noise to actions
"""

import numpy as np
import torch

from libs.errors import BadInput
from libs.flow_matching import draw_noise, draw_times
from rv_train.data.sources import find_source
from rv_train.policies.encoding import ObservationEncoder


class FlowEncoder(ObservationEncoder):
    """For a model that generates actions from noise.

    Noise and times are drawn here, from the sample's own generator, so that a run can be repeated and resumed to the
    bit, and validation measures with the same noise every time.

    Args:
        horizon, action_dim: of a chunk.
        proprio: {name of a part of the robot's state: numbers in it}, in the model's order; empty: it is given none.
        stats: of the data, for the model's normalisation; None where there is none to be built.
        dropout: share of the training samples whose robot state is replaced by the mean of the data.
        draws: pairs of noise and time per sample.
        times: how times are drawn, see `libs.flow_matching.draw_times`.
    """

    def __init__(self, views, transform, prompt, reference, stats, horizon, action_dim, proprio, dropout, draws, times):
        super().__init__(views, transform, prompt, reference, stats)
        self.horizon, self.action_dim = horizon, action_dim
        self.proprio, self.dropout = dict(proprio), dropout
        self.draws, self.times = draws, times

    @classmethod
    def from_cfg(cls, cfg, tokenizer=None, stats=None):
        """stats: of the data, see `rv_train.data.stats`; without, its source says how long the state's parts are.

        BadInput: statistics without what FLOW.NORMALIZE or DATA.PROPRIO needs.
        """
        if stats:
            proprio = _parts_of(cfg, stats)
        else:
            known = find_source(cfg.DATA.SOURCE).look(cfg).proprio if cfg.DATA.PROPRIO else {}
            missing = [name for name in cfg.DATA.PROPRIO if name not in known]
            if missing:
                raise BadInput(f"DATA.PROPRIO: there is no {missing[0]!r} in the data; it has {', '.join(known)}")
            proprio = {name: known[name] for name in cfg.DATA.PROPRIO}
        more = {"dropout": cfg.FLOW.PROPRIO_DROPOUT if proprio else 0.0}
        more |= {"draws": cfg.FLOW.DRAWS, "times": cfg.FLOW.TIMES}
        more |= {"horizon": cfg.ACTION.HORIZON, "action_dim": cfg.ACTION.DIM}
        return super().from_cfg(cfg, tokenizer, proprio=proprio, stats=stats, **more)

    def encode(self, observation):
        """An observation dict (`views`, `instruction`, `proprio`) → features for `collate`.

        proprio is a dict of the parts, more than are needed may be there; or (P,) numbers, just these in their order.

        Raises:
            BadInput: a camera or a part that the model was trained with is missing, or has another length.
        """
        return {**super().encode(observation), "proprio": self._chosen(observation.get("proprio"))}

    def encode_training(self, sample, rng, augment=True):
        """A Sample → features with the chunk; `rng` draws the augmentation, then noise and times."""
        features = self._features(sample.views, sample.instruction, rng=rng if augment else None)
        proprio = torch.from_numpy(sample.proprio)
        if self.dropout and augment and rng.random() < self.dropout:
            proprio = torch.tensor(self.stats["proprio"]["mean"])
        return {
            **features,
            "proprio": proprio,
            "actions": torch.from_numpy(sample.actions),
            "noise": torch.from_numpy(draw_noise(rng, (self.draws, *sample.actions.shape))),
            "time": torch.from_numpy(draw_times(rng, (self.draws,), self.times)),
        }

    def outline(self, instruction):
        numbers = f"{self.horizon} x {self.action_dim} numbers"
        return self.prompt.encode(instruction), self.draws, f"{numbers} come out of the action expert"

    def target(self, features, _start):
        """What is learned of a sample, in words."""
        horizon, dim = features["actions"].shape
        state = f"robot state of {len(features['proprio'])} numbers; " if len(features["proprio"]) else ""
        return f"{state}a chunk of {horizon} x {dim} numbers is learned, from {self.draws} draws of noise"

    def collate(self, features, length=None):
        """See `ObservationEncoder.collate`."""
        batch = super().collate(features, length)
        for name in ("proprio", "actions", "noise", "time"):
            if name in features[0]:
                batch[name] = torch.stack([f[name] for f in features])
        return batch

    def _chosen(self, given):
        """(P,) float32 out of an observation's state."""
        if not self.proprio:
            return torch.zeros(0)
        wanted = ", ".join(f"{name} ({size})" for name, size in self.proprio.items())
        if given is None:
            raise BadInput(f"observation has no proprio; the model needs {wanted}")
        if isinstance(given, dict):
            missing = [name for name in self.proprio if name not in given]
            if missing:
                raise BadInput(f"observation's proprio has no {missing[0]}; the model needs {wanted}")
            wrong = [name for name, size in self.proprio.items() if np.shape(given[name]) != (size,)]
            if wrong:
                raise BadInput(f"proprio {wrong[0]} has shape {np.shape(given[wrong[0]])}; the model needs {wanted}")
            given = np.concatenate([given[name] for name in self.proprio])
        if np.shape(given) != (sum(self.proprio.values()),):
            raise BadInput(f"proprio has shape {np.shape(given)}; the model needs {wanted}, one after another")
        return torch.from_numpy(np.array(given, dtype=np.float32))


def _parts_of(cfg, stats):
    """{part of the robot's state: numbers in it} of statistics that have all that a model is to be built with."""
    for key in ("mean", "std") if cfg.FLOW.NORMALIZE == "mean_std" else ("min", "max"):
        if np.shape(stats.get(key)) != (cfg.ACTION.DIM,):
            raise BadInput(
                f"FLOW.NORMALIZE {cfg.FLOW.NORMALIZE}: the statistics have no {key} of {cfg.ACTION.DIM} action "
                f"dimensions, but {stats.get(key)!r}: write them with tools/compute_stats.py, or leave DATA.STATS empty"
            )
    parts = stats["proprio"]["parts"] if "proprio" in stats else {}
    if list(parts) != list(cfg.DATA.PROPRIO):
        raise BadInput(f"DATA.PROPRIO is {cfg.DATA.PROPRIO}, the statistics have proprio {list(parts)}")
    return parts
