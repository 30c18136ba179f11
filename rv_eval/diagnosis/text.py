"""A Diagnosis as JSON, as a table and as verdicts: what is well, what is worth a look."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rv_eval.diagnosis.measure import SWAPPED, Diagnosis, cosine, pair_groups, relative_change, similarities

# Conditions: relative changes below are rounding (none), or so small that little can be learned from them (hardly).
NO_CONDITION, SMALL_CONDITION = 1e-4, 0.02
# Answers: mean changes, shares of the data's range.
NO_ANSWER, SMALL_ANSWER = 1e-4, 0.01
SLACK = 0.05  # of the range: predictions that far outside it are outside
FEW, NARROW, WIDE = 0.02, 0.2, 3.0  # share outside that is no alarm; predicted span as a multiple of the recorded
ROUNDING = 1e-6  # of a value: what a float32 copy of it may be off by
OK, LOOK, NONE = "ok", "LOOK", "-"


def report(d: Diagnosis) -> dict[str, Any]:
    """The Diagnosis as a tree for JSON: no NaN, no arrays."""
    raw, centred, change = similarities(d.conditions)
    groups = {name: mask for name, mask in pair_groups(d.frames.demo).items() if mask.any()}
    pairs = {
        name: {"cosine": raw[mask].mean(), "centred_cosine": centred[mask].mean(), "change": change[mask].mean()}
        for name, mask in groups.items()
    }
    same = np.argwhere(groups["frames of one demo"])
    tree = {
        "frames": d.frames.places,
        "conditions": pairs,
        "answers_of_one_demo": d.share(d.chunks[same[:, 0]] - d.chunks[same[:, 1]]),
        "variants": {v.name: _variant(d, v) for v in d.variants},
        "adapters": _adapters(d),
        "actions": _actions(d),
        "open_loop": _open_loop(d),
    }
    return plain({**tree, "verdicts": [{"level": level, "text": text} for level, text in verdicts(d, plain(tree))]})


def plain(tree: Any) -> Any:
    """Arrays and numbers of numpy become lists and Python's, NaN becomes None."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple, np.ndarray)):
        return [plain(value) for value in tree]
    if isinstance(tree, np.generic):
        tree = tree.item()
    return None if isinstance(tree, float) and not np.isfinite(tree) else tree


def _variant(d, variant):
    if variant.why_not:
        return {"input": variant.input, "why_not": variant.why_not}
    found = {"input": variant.input}
    if variant.conditions is not None:
        mean = d.conditions.mean(axis=0)
        found |= {
            "cosine": cosine(d.conditions, variant.conditions).mean(),
            "centred_cosine": cosine(d.conditions - mean, variant.conditions - mean).mean(),
            "change": relative_change(d.conditions, variant.conditions).mean(),
        }
    shares = d.share(variant.chunks - d.chunks)
    return {**found, "answer": np.nanmean(shares), "answer_per_dimension": shares}


def _adapters(d):
    if d.adapters is None:
        return None
    shares = d.share(d.adapters.chunks - d.chunks)
    norms = d.adapters.norms
    return {"b_norms": norms, "change": d.adapters.condition_change, "answer": np.nanmean(shares)}


def _actions(d):
    predicted = np.concatenate([one.predicted for one in d.open_loop])
    recorded = np.concatenate([one.recorded for one in d.open_loop])
    slack = SLACK * (d.high - d.low) + ROUNDING * np.maximum(np.abs(d.low), np.abs(d.high))
    outside = (predicted < d.low - slack) | (predicted > d.high + slack)
    return {
        "data_min": d.low,
        "data_max": d.high,
        "recorded_min": recorded.min(axis=0),  # in the demos that were played, as the predicted ones
        "recorded_max": recorded.max(axis=0),
        "predicted_min": predicted.min(axis=0),
        "predicted_max": predicted.max(axis=0),
        "known_min": d.known["min"],
        "known_max": d.known["max"],
        "outside": outside.mean(axis=0),
        # Over the demos that were played, between percentiles: a gripper that opens once too often is no other range.
        "spread": _width(predicted) / np.where(_width(recorded) > 0, _width(recorded), np.nan),
    }


def _width(actions):
    low, high = np.percentile(actions, (1, 99), axis=0)
    return high - low


def _open_loop(d):
    demos = []
    for one in d.open_loop:
        shares = d.share(one.predicted - one.recorded)
        demos.append(
            {"file": one.file, "demo": one.demo, "mae_share": np.nanmean(shares), "unreadable": one.unreadable}
        )
    errors = np.concatenate([one.predicted - one.recorded for one in d.open_loop])
    constant = np.concatenate([d.mean - one.recorded for one in d.open_loop])
    return {
        "demos": demos,
        "queries": sum(len(one.starts) for one in d.open_loop),
        "unreadable": sum(one.unreadable for one in d.open_loop),
        "mae": np.abs(errors).mean(axis=0),
        "mae_share_per_dimension": d.share(errors),
        "mae_share": np.nanmean(d.share(errors)),
        "mae_share_of_mean_action": np.nanmean(d.share(constant)),
    }


# ------------------------------------------------------------------------------------------------ verdicts


def verdicts(d: Diagnosis, tree: Mapping[str, Any]) -> list[tuple[str, str]]:
    """[(OK, LOOK or NONE, sentence)] for a report without verdicts."""
    found = [_of_frames(tree["conditions"]["frames of one demo"]), _of_answers(tree["answers_of_one_demo"])]
    for name, variant in tree["variants"].items():
        found.append(_of_variant(name, variant, len(d.frames.instructions)))
    return [*found, _of_adapters(tree["adapters"]), *_of_actions(tree["actions"]), *_of_open_loop(tree["open_loop"])]


def _of_frames(pairs):
    size = f"by {pairs['change']:.2%} of its length (mean cosine {pairs['cosine']:.4f})"
    if pairs["change"] < NO_CONDITION:
        return LOOK, f"the condition is the same for all frames of a demo ({size}): pictures do not reach it"
    if pairs["change"] < SMALL_CONDITION:
        return LOOK, f"the condition hardly changes across the frames of a demo, {size}"
    return OK, f"the condition changes across the frames of a demo, {size}"


def _of_answers(shares):
    share = np.mean(_known(shares))
    text = f"across the frames of a demo, by {share:.2%} of the range"
    if share < NO_ANSWER:
        return LOOK, f"the answer does NOT change {text}"
    return (LOOK, f"the answer hardly changes {text}") if share < SMALL_ANSWER else (OK, f"the answer changes {text}")


def _of_variant(name, variant, num_instructions):
    if "why_not" in variant:
        return NONE, f"{name}: {variant['why_not']}"
    answer, change = variant["answer"], variant.get("change")
    sizes = f"the answer moves by {answer:.2%}" + ("" if change is None else f", the condition by {change:.2%}")
    if variant["input"] == "instruction" and num_instructions == 1:
        sizes += " (the data has but one)"
    if name == SWAPPED and answer < SMALL_ANSWER:
        return NONE, f"{name}: hardly noticed, {sizes} (told apart by what they show?)"
    if answer < NO_ANSWER:
        reached = "" if change is None or change < NO_CONDITION else " though it reaches the condition"
        return LOOK, f"{name}: BLIND to it{reached}, {sizes}"
    if answer < SMALL_ANSWER:
        return LOOK, f"{name}: hardly noticed, {sizes}"
    return OK, f"{name}: noticed, {sizes}"


def _of_adapters(adapters):
    if adapters is None:
        return NONE, "no adapters"
    norms = np.array(list(adapters["b_norms"].values()))
    what = f"{len(norms)} adapters, norms of B {norms.min():.2g} to {norms.max():.2g}"
    sizes = f"without them the answer changes by {adapters['answer']:.2%}, the condition by {adapters['change']:.2%}"
    if not norms.any():
        return LOOK, f"adapters NOT APPLIED: all {len(norms)} B are zero, as before training; {sizes}"
    if adapters["change"] < NO_CONDITION and adapters["answer"] < NO_ANSWER:
        return LOOK, f"adapters NOT APPLIED: {what}, but {sizes}"
    if not norms.all():
        return LOOK, f"adapters applied, but {int((norms == 0).sum())} B are zero: {what}; {sizes}"
    return OK, f"adapters applied: {what}; {sizes}"


def _of_actions(actions):
    outside = [(i, share) for i, share in enumerate(actions["outside"]) if share > FEW]
    if outside:
        listed = ", ".join(f"dim {i} {share:.0%}" for i, share in outside)
        yield LOOK, f"actions outside the data's range by more than {SLACK:.0%} of it: {listed}; are they in its units?"
    spreads = [(i, value) for i, value in enumerate(actions["spread"]) if value is not None]
    odd = [f"dim {i} {value:.2f} x" for i, value in spreads if not NARROW <= value <= WIDE]
    if odd:
        yield LOOK, f"actions spread otherwise than the recorded ones (1st to 99th percentile): {', '.join(odd)}"
    if not outside and not odd:
        widths = [value for _, value in spreads]  # none where no action changes in the played demos
        beside = f" (spread {min(widths):.2f} to {max(widths):.2f} x the recorded one)" if widths else ""
        yield OK, f"actions have the data's range{beside}"
    low, high, known_low, known_high = (
        np.array(actions[name]) for name in ("data_min", "data_max", "known_min", "known_max")
    )
    slack = SLACK * (known_high - known_low) + ROUNDING * np.maximum(np.abs(known_low), np.abs(known_high))
    beyond = np.flatnonzero((low < known_low - slack) | (high > known_high + slack))
    if len(beyond):
        listed = ", ".join(f"dim {i}" for i in beyond)
        yield LOOK, f"the data leaves the range that the checkpoint was trained with: {listed}"


def _of_open_loop(loop):
    error, constant = loop["mae_share"], loop["mae_share_of_mean_action"]
    sizes = f"off by {error:.2%} of the range on average; the mean action would be off by {constant:.2%}"
    if error < 0.5 * constant:
        yield OK, f"open loop follows the demos: {sizes}"
    elif error < 0.9 * constant:
        yield LOOK, f"open loop follows the demos loosely: {sizes}"
    else:
        yield LOOK, f"open loop does NOT follow the demos: {sizes}"
    if loop["unreadable"]:
        yield (
            LOOK,
            f"{loop['unreadable']} of {loop['queries']} answers were no actions; the middle of the range stands in",
        )


# ------------------------------------------------------------------------------------------------ table


def table(tree: Mapping[str, Any]) -> list[str]:
    """Lines for people, at most 120 columns wide where there are seven actions."""
    width = max(26, *map(len, tree["variants"]))  # views may have long names
    lines = ["", f"{'condition':{width + 2}}{'cosine':>9}{'centred':>9}{'change':>9}{'answer':>12}"]
    for name, pairs in tree["conditions"].items():
        lines.append(f"  {name:{width}}{_similar(pairs)}")
    lines[-len(tree["conditions"])] += f"{np.mean(_known(tree['answers_of_one_demo'])):12.2%}"
    for name, variant in tree["variants"].items():
        rest = f"  {variant['why_not']}" if "why_not" in variant else f"{_similar(variant)}{variant['answer']:12.2%}"
        lines.append(f"  {name:{width}}{rest}")
    if tree["adapters"]:
        lines.append(
            f"  {'without adapters':{width}}{'':18}{tree['adapters']['change']:9.2%}{tree['adapters']['answer']:12.2%}"
        )
    actions, loop = tree["actions"], tree["open_loop"]
    lines += ["", f"{'actions':28}" + "".join(f"{f'dim {i}':>9}" for i in range(len(loop["mae"])))]
    order = ("data_min", "recorded_min", "predicted_min", "predicted_max", "recorded_max", "data_max")
    rows = {key.replace("_", " "): actions[key] for key in order}
    for name, values in rows.items():
        lines.append(f"  {name:26}" + "".join(f"{value:9.3f}" for value in values))
    lines.append(f"  {'predicted outside':26}" + "".join(f"{value:9.1%}" for value in actions["outside"]))
    lines.append(f"  {'open-loop error':26}" + "".join(f"{value:9.3f}" for value in loop["mae"]))
    shares = "".join(f"{value:9.2%}" if value is not None else f"{'-':>9}" for value in loop["mae_share_per_dimension"])
    lines.append(f"  {'  share of the range':26}{shares}")
    lines += ["", "verdicts"]
    return [*lines, *(f"  {one['level']:5}{one['text']}" for one in tree["verdicts"])]


def _similar(values):
    if "cosine" not in values:
        return f"{'':27}"
    return f"{values['cosine']:9.4f}{values['centred_cosine']:9.3f}{values['change']:9.2%}"


def _known(values):
    return [value for value in values if value is not None]
