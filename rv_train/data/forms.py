"""What ACTION.MODE and ACTION.ROTATION say of a config tree: how its actions are written (`libs.action_form`)."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from yacs.config import CfgNode

from libs.action_form import FORMS, ActionForm, is_form, written_dim
from libs.errors import BadInput
from rv_train.data.base import Demo
from rv_train.data.sources import SOURCES, find_source
from rv_train.data.trajectories import chunk_steps

ABSOLUTE, DELTA = "absolute", "delta"
STATE, ACTION = "state", "action"  # ACTION.DELTA_TO


def dim_written(cfg: CfgNode) -> int:
    """Numbers of an action as the model writes it: ACTION.DIM, unless rotations are written in another form."""
    turns = cfg.ACTION.ROTATION
    return written_dim(cfg.ACTION.DIM, len(turns.DIMS), turns.RECORDED, turns.WRITTEN)


def action_form(cfg: CfgNode, parts: Mapping[str, int], stats: Mapping[str, Any] | None = None) -> ActionForm:
    """The ActionForm of a config tree.

    parts: {part of the robot's state that comes with a sample: numbers in it}, DATA.PROPRIO's in its order. stats: of
    the data, which know how rotations are recorded; None: nothing is to be read.
    BadInput: as `check_form`; a part or a number of it that is not there; numbers that an action does not have.
    """
    check_form(cfg)
    action, turns = cfg.ACTION, cfg.ACTION.ROTATION
    origin = [place for entry in action.STATE for place in _places(entry, parts)]
    try:
        return ActionForm(
            dim=action.DIM,
            relative=tuple(action.DELTA),
            origin=tuple(origin),
            to_before=action.DELTA_TO == ACTION,
            rotations=tuple(turns.DIMS),
            recorded=turns.RECORDED,
            written=turns.WRITTEN,
            usual=stats["recorded"]["usual"] if stats and "form" in stats else True,
        )
    except BadInput as error:
        raise BadInput(
            f"ACTION.DELTA {action.DELTA}, STATE {action.STATE}, ROTATION.DIMS {turns.DIMS}: {error}"
        ) from None


def check_form(cfg: CfgNode) -> None:
    """BadInput where keys of ACTION contradict each other, the data's source, or do not apply."""
    action, turns = cfg.ACTION, cfg.ACTION.ROTATION
    for key in ("RECORDED", "WRITTEN"):
        if not is_form(turns[key]):
            raise BadInput(f"ACTION.ROTATION.{key} is {turns[key]!r}; choose one of {', '.join(FORMS)}")
    if action.MODE == DELTA:
        _check_delta(cfg)
    else:
        unused = [key for key in ("DELTA", "STATE") if action[key]]
        unused += ["DELTA_TO"] if action.DELTA_TO != STATE else []
        if unused:
            raise BadInput(f"ACTION.{unused[0]} {action[unused[0]]} is for ACTION.MODE {DELTA}: set it, or leave this")
    if turns.DIMS and turns.RECORDED == turns.WRITTEN and not set(turns.DIMS) & set(action.DELTA):
        raise BadInput(
            f"ACTION.ROTATION: rotations that are no ACTION.DELTA and stay {turns.WRITTEN} are written as they are: "
            "set DIMS to []"
        )
    if not turns.DIMS and turns.RECORDED != turns.WRITTEN:
        raise BadInput("ACTION.ROTATION: RECORDED and WRITTEN are for the rotations of DIMS, which names none")
    if (turns.DIMS or action.MODE == DELTA) and not find_source(cfg.DATA.SOURCE).NUMBERS:
        able = " or ".join(source for source in SOURCES if find_source(source).NUMBERS)
        raise BadInput(
            f"DATA.SOURCE {cfg.DATA.SOURCE} holds actions as integers, which stay what they are: ACTION.MODE {DELTA} "
            f"and ACTION.ROTATION are for DATA.SOURCE {able}"
        )


def written_actions(rows: Demo, form: ActionForm, horizon: int) -> np.ndarray:
    """All that is written of a demo of T frames, (n, B) float32, equally many rows for each frame: its actions, or
    where differences depend on the chunk, those of every chunk of `horizon` actions."""
    if form.plain:
        return rows.actions
    length = len(rows.actions)
    steps = chunk_steps(np.arange(length)[:, None], horizon if form.relative else 1, length)
    return form.write(rows.actions[steps], rows.proprio).reshape(-1, form.written_dim)


def form_problems(demos: Iterable[Demo], form: ActionForm) -> Iterator[str]:
    """Actions and states in which what should be a rotation is none."""
    for rows in demos if form.rotations else ():
        bad = np.flatnonzero(form.faults(rows.actions, rows.proprio))
        if len(bad):
            action = np.round(rows.actions[bad[0]], 4).tolist()
            yield (
                f"{rows.file.path}, {rows.name}, frame {bad[0]}: no {form.recorded} stands at ACTION.ROTATION.DIMS "
                f"{[*form.rotations]} of the action {action}, or in the state it starts from ({len(bad)} such frames): "
                "is the rotation recorded in another form, or elsewhere?"
            )


def describe_form(form: ActionForm, horizon: int) -> dict[str, Any]:
    """What statistics of written actions depend on, as JSON; {} where actions are written as they are recorded."""
    if form.plain:
        return {}
    found: dict[str, Any] = {"dim": form.dim}
    if form.relative:
        to = ACTION if form.to_before else STATE
        found |= {"delta": list(form.relative), "state": list(form.origin), "to": to, "horizon": horizon}
    if form.rotations:
        found |= {"rotations": list(form.rotations), "recorded": form.recorded, "written": form.written}
    return found


def form_text(form: ActionForm) -> str:
    """The same in words, "" where actions are written as they are recorded."""
    said = []
    if form.relative:
        to = "the action before" if form.to_before else "the robot's state at the chunk's start"
        said.append(f"numbers {_spans(form.relative)} as differences to {to}")
    if form.rotations:
        first = ", ".join(map(str, form.rotations))
        said.append(f"the rotations from number {first} on, recorded as {form.recorded}, as {form.written}")
    return " and ".join(said)


def _check_delta(cfg):
    action, parts = cfg.ACTION, cfg.DATA.PROPRIO
    if not action.DELTA:
        raise BadInput(
            f"ACTION.MODE {DELTA} needs ACTION.DELTA, the numbers of an action that are differences: [0, 1, 2]"
        )
    if not action.STATE:
        raise BadInput(
            f"ACTION.MODE {DELTA} needs ACTION.STATE, what of DATA.PROPRIO says where the robot is in each of the "
            f"numbers of ACTION.DELTA {action.DELTA}: a part, or some of its numbers as PART[0:6]"
        )
    for entry in action.STATE:
        name, _ = _parsed(entry)
        if name not in parts:
            raise BadInput(
                f"ACTION.STATE {entry}: DATA.PROPRIO {parts} does not name it, and differences need it with every "
                "observation: add it there"
            )


def _parsed(entry):
    """ "part[2:5]" → (part, (2, 5)), "part[2]" → (part, (2, 3)), "part" → (part, None: all of it)."""
    found = re.fullmatch(r"(.+?)(?:\[(\d+)(?::(\d+))?\])?", entry)
    if not found:
        raise BadInput("ACTION.STATE holds an empty name: give a part of DATA.PROPRIO, or PART[0:6]")
    name, first, end = found.groups()
    return name, None if first is None else (int(first), int(end) if end else int(first) + 1)


def _places(entry: str, parts: Mapping[str, int]) -> Iterable[int]:
    """Where the numbers of an entry of ACTION.STATE stand in the state."""
    name, span = _parsed(entry)
    if name not in parts:
        raise BadInput(f"ACTION.STATE {entry}: there is no {name!r} in {', '.join(parts) or 'DATA.PROPRIO []'}")
    first, end = span or (0, parts[name])
    if not first < end <= parts[name]:
        raise BadInput(f"ACTION.STATE {entry}: {name} has the numbers 0 to {parts[name] - 1}")
    start = list(parts).index(name)
    before = sum(list(parts.values())[:start])
    return range(before + first, before + end)


def _spans(numbers):
    """ "0-2, 6" """
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else f"{span[0]}" for span in found)
