"""What a trained policy takes from what it is shown, measured on recorded demos. Sentences about it: `diagnosis_text`.

Nothing here knows what kind of model it is: all it asks for are answers (`predict_detailed`) and their condition (the
model's `condition`: what an answer is computed from). What is random in an answer is the same for all frames and their
variants, so that two answers differ because their inputs do.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from libs.action_text import is_constant
from libs.errors import BadInput
from rv_train.data.base import Demonstrations, Sample
from rv_train.validate import spread

if TYPE_CHECKING:
    from rv_eval.policy import Policy
    from rv_train.policies.base import Policy as TrainedPolicy


OTHER_INSTRUCTION = "push the plate to the front of the stove"  # where the data has one instruction only
SWAPPED = "views swapped"
FAR = 0.5  # frames of a demo are far apart where they are half of the chosen ones apart


@dataclass(frozen=True)
class Frames:
    """The frames that are looked at, demo by demo.

    observations: n of them; demo: (n,) number of the demo among the chosen ones;
    places: n texts for people; instructions: all of the data, each once.
    """

    observations: list
    demo: np.ndarray
    places: list
    instructions: list


@dataclass(frozen=True)
class Variant:
    """The frames with one input changed.

    name: what was done. input: "pictures", "instruction" or "proprio". why_not: "" or why the policy was not asked.
    conditions: (n, D), None where this input is no part of the condition; chunks: (n, H, A) environment units,
    rotations in the numbers nearest to those of the frames as they are.
    """

    name: str
    input: str
    why_not: str = ""
    conditions: np.ndarray | None = None
    chunks: np.ndarray | None = None


@dataclass(frozen=True)
class Adapters:
    """What LoRA adapters do. norms: {layer: Frobenius norm of its B}, which is 0 when training starts.

    condition_change: mean relative change of the condition without them; chunks: (n, H, A) without them.
    """

    norms: dict
    condition_change: float
    chunks: np.ndarray


@dataclass(frozen=True)
class OpenLoop:
    """A demo's recorded actions against those answered to its frames, chunk by chunk; both (T, A), environment units,
    rotations (ACTION.ROTATION) answered in the numbers nearest to the recorded ones.

    starts: the frames that were asked about. unreadable: how many of the answers were no actions (the middle of the
    range stands for them).
    """

    file: str
    demo: str
    instruction: str
    recorded: np.ndarray
    predicted: np.ndarray
    starts: list
    unreadable: int


@dataclass(frozen=True)
class Diagnosis:
    """All measurements. names: of the numbers of an action, () where nothing names them; low, high, mean: (A,) of every
    recorded action of the data; known: {"min", "max"} that the checkpoint was trained with; conditions (n, D) and
    chunks (n, H, A) of the frames as they are."""

    frames: Frames
    names: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    known: dict
    conditions: np.ndarray
    chunks: np.ndarray
    variants: list
    adapters: Adapters | None
    open_loop: list

    @property
    def span(self) -> np.ndarray:
        """(A,) width of the recorded range, NaN for an action that never changes: no share of it can be told."""
        return np.where(is_constant(self.low, self.high), np.nan, self.high - self.low)

    def share(self, differences: np.ndarray) -> np.ndarray:
        """Differences of actions (..., A), environment units -> (A,) their mean size as a share of the range."""
        return np.abs(differences).reshape(-1, len(self.low)).mean(axis=0) / self.span


def diagnose(
    policy: "Policy",
    dataset: Demonstrations,
    known: dict[str, Any],
    num_demos: int,
    num_frames: int,
    seed: int,
    among: Sequence[int] | None = None,
) -> Diagnosis:
    """Measure a policy; returns the Diagnosis.

    Args:
        policy: a Policy on weights of this machine, not a served one.
        dataset: `Demonstrations`, read with the policy's views and parts of the robot's state.
        known: {"min", "max"} of the recorded actions that the checkpoint was trained with.
        num_demos: demos to play open loop, evenly spaced over those to choose from, and to take frames of.
        num_frames: frames whose inputs are varied, in all; evenly spaced over those demos, at least two of each.
        seed: of what is random in answers.
        among: numbers of the demos to choose from; None: all.

    Raises:
        BadInput: data that does not fit the policy, or whose actions are all the same.
    """
    actions = np.concatenate([rows.actions for rows in dataset.demos]).astype(np.float64)
    if actions.shape[1] != policy.action_dim:
        raise BadInput(f"the policy writes {policy.action_dim} numbers per action, the data has {actions.shape[1]}")
    if np.isnan(actions).any():
        raise BadInput(f"{dataset.files[0].path} hides digits of its actions: nothing can be compared with them")
    if is_constant(actions.min(axis=0), actions.max(axis=0)).all():
        raise BadInput(f"{dataset.files[0].path}: all recorded actions are the same, nothing can be compared with them")
    pool = range(len(dataset.demos)) if among is None else among
    chosen = [pool[place] for place in spread(len(pool), num_demos)]
    frames = choose_frames(dataset, chosen, num_frames, seed)
    chunks = answer(policy, frames.observations)
    conditions = condition(policy, frames.observations)
    return Diagnosis(
        frames=frames,
        names=dataset.facts.action_names,
        low=actions.min(axis=0),
        high=actions.max(axis=0),
        mean=actions.mean(axis=0),
        known=known,
        conditions=conditions,
        chunks=chunks,
        variants=[
            measure(policy, *variant, frames.observations, chunks)
            for variant in variants(policy, frames, list(dataset.facts.cameras))
        ],
        adapters=measure_adapters(policy, frames.observations, conditions, chunks),
        open_loop=[play(policy, dataset, number, seed) for number in chosen],
    )


def choose_frames(dataset: Demonstrations, demos: Sequence[int], num_frames: int, seed: int) -> Frames:
    """The Frames of some demos (numbers in the dataset). What is random in their answers is the same for all."""
    each = max(2, -(-num_frames // len(demos)))
    where = [(number, t) for number in demos for t in spread(len(dataset.demos[number].actions), each)]
    return Frames(
        observations=[observation(dataset[dataset.index(number, t)], dataset.views, (seed,)) for number, t in where],
        demo=np.array([demos.index(number) for number, _ in where]),
        places=[f"{dataset.demos[number].name} frame {t}" for number, t in where],
        instructions=list(dict.fromkeys(rows.instruction for rows in dataset.demos)),
    )


def observation(sample: Sample, views: list[str], random_key: tuple[int, ...]) -> dict:
    """A sample as the environment would show it."""
    return {
        "views": dict(zip(views, sample.views, strict=True)),
        "instruction": sample.instruction,
        "proprio": sample.proprio,
        "random_key": random_key,
    }


# ------------------------------------------------------------------------------------------------ asking the policy


def answer(policy: "Policy", observations: Sequence[dict], origins: Sequence[dict] | None = None) -> np.ndarray:
    """(n, H, A) float64, environment units. origins: see `Policy.predict_detailed`."""
    chunk = policy.predict_detailed(list(observations), list(origins) if origins is not None else None).chunk
    return chunk.astype(np.float64)


def condition(policy: "Policy", observations: Sequence[dict]) -> np.ndarray:
    """(n, D) float64. Every call has equally many rows, so that equal observations are computed alike."""
    features, found = [policy.encoder.encode(observation) for observation in observations], []
    for start in range(0, len(features), policy.batch_rows):
        part = features[start : start + policy.batch_rows]
        batch = policy.encoder.collate(part + part[-1:] * (policy.batch_rows - len(part)))
        batch = {name: tensor.to(policy.device) for name, tensor in batch.items()}
        found.append(policy.model.condition(batch)[: len(part)].double().cpu().numpy())
    return np.concatenate(found)


def play(policy: "Policy", dataset: Demonstrations, number: int, seed: int) -> OpenLoop:
    """The OpenLoop of a demo: asked at frames 0, H, 2H ..., as if every chunk were executed whole."""
    rows, horizon = dataset.demos[number], policy.horizon
    chunks, valid, recorded = [], [], []
    starts = list(range(0, len(rows.actions), horizon))
    for first in range(0, len(starts), policy.batch_rows):  # few pictures in memory at a time
        times = starts[first : first + policy.batch_rows]
        samples = [dataset[dataset.index(number, t)] for t in times]
        asked = [observation(one, dataset.views, (seed, number, t)) for one, t in zip(samples, times, strict=True)]
        recorded += [one.actions for one in samples]
        prediction = policy.predict_detailed(asked)
        chunks.append(policy.encoder.form.beside(prediction.chunk, np.stack(recorded[-len(times) :])))
        valid.append(prediction.valid)
    return OpenLoop(
        file=str(rows.file.path),
        demo=rows.name,
        instruction=rows.instruction,
        recorded=np.concatenate(recorded)[: len(rows.actions)].astype(np.float64),
        predicted=np.concatenate(chunks).reshape(-1, policy.action_dim)[: len(rows.actions)].astype(np.float64),
        starts=starts,
        unreadable=int((~np.concatenate(valid)).sum()),
    )


# ------------------------------------------------------------------------------------------------ varying the input


def variants(
    policy: "Policy", frames: Frames, file_views: Iterable[str]
) -> Iterator[tuple[str, str, list[dict] | None, str]]:
    """Yields (name, input, changed observations or None, "" or why not) for everything that may be taken away.

    file_views: the cameras of the data, of which the policy may look at some.
    """
    shown = frames.observations
    partners = [
        shown[(i + len(shown) // 2) % len(shown)] for i in range(len(shown))
    ]  # of another demo, if there is one

    def pictures(change):
        return [
            {**one, "views": change(one["views"], other["views"])} for one, other in zip(shown, partners, strict=True)
        ]

    for view in file_views:
        taken = view in policy.views
        black = pictures(lambda own, _, view=view: {**own, view: np.zeros_like(own[view])}) if taken else None
        yield f"{view} black", "pictures", black, "" if taken else "not taken"
    yield "all pictures black", "pictures", pictures(lambda own, _: {k: np.zeros_like(v) for k, v in own.items()}), ""
    several = len(policy.views) > 1
    turned = dict(zip(policy.views, (*policy.views[1:], policy.views[0]), strict=True))
    swapped = pictures(lambda own, _: {view: own[turned[view]] for view in own}) if several else None
    yield SWAPPED, "pictures", swapped, "" if several else "one view only"
    yield "pictures of another frame", "pictures", pictures(lambda _, other: other), ""

    yield "no instruction", "instruction", [{**one, "instruction": ""} for one in shown], ""
    known = frames.instructions if len(frames.instructions) > 1 else [*frames.instructions, OTHER_INSTRUCTION]
    after = dict(zip(known, (*known[1:], known[0]), strict=True))
    yield "another instruction", "instruction", [{**one, "instruction": after[one["instruction"]]} for one in shown], ""

    taken, why = bool(policy.proprio), "" if policy.proprio else "not taken"
    zero = [{**one, "proprio": np.zeros_like(one["proprio"])} for one in shown] if taken else None
    yield "proprio zero", "proprio", zero, why
    moved = [{**one, "proprio": other["proprio"]} for one, other in zip(shown, partners, strict=True)]
    yield "proprio of another frame", "proprio", moved if taken else None, why


def measure(
    policy: "Policy",
    name: str,
    kind: str,
    observations: list[dict] | None,
    why_not: str,
    shown: Sequence[dict],
    chunks: np.ndarray,
) -> Variant:
    """The Variant of what `variants` yields; shown: the observations as they are, chunks: the answers to them. Another
    state may change what the policy writes: differences are read from where the robot really is, else they would change
    of themselves."""
    if observations is None:
        return Variant(name, kind, why_not)
    # The robot's state reaches the answer beside the condition, which is of pictures and instruction.
    conditions = None if kind == "proprio" else condition(policy, observations)
    changed = policy.encoder.form.beside(answer(policy, observations, shown), chunks)
    return Variant(name, kind, why_not, conditions, changed)


def measure_adapters(
    policy: "Policy", observations: Sequence[dict], conditions: np.ndarray, chunks: np.ndarray
) -> Adapters | None:
    """The Adapters, None where the model has none; conditions, chunks: with them."""
    matrices = {name: p for name, p in policy.model.named_parameters() if ".lora_B." in name}
    if not matrices:
        return None
    with adapters_off(policy.model):
        change = relative_change(conditions, condition(policy, observations)).mean()
        without = policy.encoder.form.beside(answer(policy, observations), chunks)
    norms = {name.partition(".lora_B.")[0]: p.detach().float().norm().item() for name, p in matrices.items()}
    return Adapters(norms, float(change), without)


@contextlib.contextmanager
def adapters_off(model: "TrainedPolicy") -> Iterator[None]:
    """The weights below the adapters alone; those that were on are on again afterwards."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer) and not m.disable_adapters]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


# ------------------------------------------------------------------------------------------------ comparing conditions


def relative_change(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distance of vectors (..., D) as a share of their mean length -> (...)."""
    lengths = (np.linalg.norm(first, axis=-1) + np.linalg.norm(second, axis=-1)) / 2
    return np.linalg.norm(first - second, axis=-1) / np.maximum(lengths, 1e-300)


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine similarities of vectors (..., D) -> (...); 0 where one is all zeros."""
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return (first * second).sum(axis=-1) / np.where(lengths > 0, lengths, 1.0)


def similarities(conditions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """((n, n) cosines, (n, n) cosines without the mean condition, (n, n) relative changes) of all pairs.

    Hidden states share a large common part, which keeps their cosines near 1; what tells frames apart is the rest. How
    large that rest is, only the relative change says.
    """
    centred = conditions - conditions.mean(axis=0)
    pairs = [(c[:, None], c[None]) for c in (conditions, centred)]
    return cosine(*pairs[0]), cosine(*pairs[1]), relative_change(*pairs[0])


def pair_groups(demo: np.ndarray) -> dict[str, np.ndarray]:
    """{name: (n, n) bool} of pairs of frames, each once: of one demo, neighbours and far apart in it, of two demos."""
    n = len(demo)
    one, two = np.triu_indices(n, k=1)
    same, gap = demo[one] == demo[two], two - one
    per_demo = np.bincount(demo).max()
    groups = {
        "frames of one demo": same,
        "neighbouring frames": same & (gap == 1),
        "frames far apart": same & (gap >= max(2, FAR * per_demo)),
        "frames of two demos": ~same,
    }
    masks = {}
    for name, members in groups.items():
        masks[name] = np.zeros((n, n), bool)
        masks[name][one[members], two[members]] = True
    return masks
