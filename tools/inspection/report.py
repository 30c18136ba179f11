"""Demonstrations as one HTML page that loads nothing: pictures with a slider, actions and state as curves, the integers
that actions become, the range with its outliers, instructions, and what is odd. For any kind of data.

The skeleton, its style and its script lie in report_page/ (`libs.page`).
"""

import base64
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from libs.action_text import ActionTextCodec
from libs.files import make_folder, write_whole
from libs.manifest.pictures import encode_picture
from libs.page import fill, json_in_html
from rv_train.data.base import Demonstrations
from rv_train.data.stats import compute_action_stats
from tools.inspection.text import lengths_text, names_of

PAGE = Path(__file__).parent / "report_page"
NUM_BINS = 1000  # VLA-0's
SHOWN_DEMOS = 8
MAX_PICTURES = 600  # of all cameras and demos on the page, about 8 kB each
SIDE = 224  # longest side of a picture on the page, pixels
QUALITY = 80  # of JPEG
BARS = 30  # of a histogram


def write_report(
    path: Path,
    data: Demonstrations,
    files: Sequence[str],
    problems: Sequence[str],
    remarks: Sequence[str],
    demos: int | None,
) -> int:
    """Write the page; returns its size in bytes.

    files: what was named, the page's title. problems, remarks: lines of what is wrong and what should be known. demos:
    how many are shown, spread over the data; None: SHOWN_DEMOS.
    """
    shown = np.unique(
        np.linspace(0, len(data.demos) - 1, min(demos or SHOWN_DEMOS, len(data.demos))).round().astype(int)
    )
    stats = None if data.written_with else compute_action_stats(data)
    codec = ActionTextCodec(stats["min"], stats["max"], NUM_BINS) if stats else None
    lengths = [len(demo.actions) for demo in data.demos]
    stride = max(1, -(-sum(lengths[n] for n in shown) * len(data.views) // MAX_PICTURES))
    parts = {
        "title": escape(", ".join(Path(name).name for name in files)),
        "facts": _facts(data, lengths, files),
        "odd": _odd(problems, remarks),
        "range": _range_table(data, stats, codec) if stats else "<p>Actions are stored as integers.</p>",
        "instructions": _instructions(data),
        "note": f"{len(shown)} of {len(lengths)} demos; a picture every {stride} frames"
        if stride > 1
        else f"{len(shown)} of {len(lengths)} demos",
        "data": json_in_html([_demo(data, int(number), stride, codec) for number in shown]),
    }
    make_folder(path.parent)
    write_whole(path, fill(PAGE, parts))
    return path.stat().st_size


def _facts(data, lengths, files):
    sizes = data.facts.cameras
    cameras = [f"{view} {' × '.join(map(str, sizes[view]))}" if sizes.get(view) else view for view in data.views]
    rows = {
        "demos": len(lengths),
        "frames": lengths_text(lengths),
        "cameras": ", ".join(cameras),
        "rate": f"{data.facts.rate:g} frames a second" if data.facts.rate else "not stated",
        "state": ", ".join(f"{part} ({size})" for part, size in data.parts.items()) or "none",
        "actions": f"{data.facts.action_dim} numbers",
        "read from": ", ".join(files),
    }
    return "".join(f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>" for name, value in rows.items())


def _odd(problems, remarks):
    """Two lists: what keeps training from starting, and what does not."""
    said = ""
    for kind, lines, means in (
        ("problem", problems, "Training refuses this, or stops at it: mend it"),
        ("remark", remarks, "Training takes this as it is; each line says what follows"),
    ):
        if lines:
            listed = "".join(f'<li class="{kind}">{_text(line)}</li>' for line in lines)
            said += f"<h3>{means}</h3><ul>{listed}</ul>"
    return said or "<p>Nothing was found.</p>"


def _text(line):
    return escape(line).replace(" %", "&nbsp;%")


def _instructions(data):
    frames = Counter()
    demos = Counter()
    for demo in data.demos:
        frames[demo.instruction] += len(demo.actions)
        demos[demo.instruction] += 1
    rows = "".join(
        f"<tr><td>{escape(text)}</td><td>{demos[text]}</td><td>{count}</td></tr>"
        for text, count in frames.most_common()
    )
    rows += "".join(
        f'<tr><td>{escape(text)}</td><td colspan="2">from within demos on</td></tr>'
        for text in data.instructions
        if text not in demos
    )
    head = "".join(f"<th>{name}</th>" for name in ("instruction", "demos that begin so", "frames of these"))
    return f"<table><tr>{head}</tr>{rows}</table>"


def _range_table(data, stats, codec):
    """A row per number of an action: its range, the share beyond the 1 % quantiles, the bins in use, a histogram."""
    actions = np.concatenate([demo.actions for demo in data.demos])
    integers = codec.to_integers(actions)
    rows = []
    for dim, name in enumerate(map(str, names_of(actions.shape[1], data.facts.action_names))):
        column, bins = actions[:, dim], integers[:, dim]
        low, high, first, last = (stats[key][dim] for key in ("min", "max", "q01", "q99"))
        outside = np.mean((column < first) | (column > last))
        middle = bins[(column >= first) & (column <= last)]
        used = f"{middle.min()} to {middle.max()}" if len(middle) else "-"
        cells = [f"{low:.4g}", f"{first:.4g}", f"{last:.4g}", f"{high:.4g}", f"{100 * outside:.1f} %", used]
        squeezed = len(middle) and middle.max() - middle.min() < NUM_BINS / 10 and high > low
        rows.append(
            f"<tr{' class=squeezed' * bool(squeezed)}><th>{escape(name if name == str(dim) else f'{dim}: {name}')}</th>"
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + f"<td>{_histogram(column, low, high)}</td></tr>"
        )
    head = ["dimension", "min", "1&nbsp;%", "99&nbsp;%", "max", "beyond these"]
    head += [f"integers of the rest, 0 to {NUM_BINS}", "distribution"]
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{''.join(rows)}</table>"


def _histogram(column, low, high):
    counts, _ = np.histogram(column, BARS, (low, high) if high > low else (low - 1, low + 1))
    heights = 22 * np.sqrt(counts / counts.max())  # square root: rare values are seen
    bars = "".join(
        f'<rect x="{4 * n}" y="{22 - height:.1f}" width="3.4" height="{height:.1f}"/>'
        for n, height in enumerate(heights)
        if height
    )
    return f'<svg class="histogram" width="{4 * BARS}" height="22">{bars}</svg>'


def _demo(data: Demonstrations, number: int, stride: int, codec: ActionTextCodec | None) -> dict[str, Any]:
    """What the page's script shows of a demo."""
    demo = data.demos[number]
    times = list(range(0, len(demo.actions), stride))
    pictures = {view: [_picture(data.picture(number, t, view)) for t in times] for view in data.views}
    names = names_of(demo.actions.shape[1], data.facts.action_names)
    states = [f"{part} {n}" for part, size in data.parts.items() for n in range(size)]
    return {
        "name": f"{demo.file.path.name} {demo.name}",
        "instruction": demo.instruction,
        "rate": data.facts.rate or 20,
        "times": times,
        "pictures": pictures,
        "actions": {str(name): _numbers(demo.actions[:, n]) for n, name in enumerate(names)},
        "state": {name: _numbers(demo.proprio[:, n]) for n, name in enumerate(states)},
        "integers": [" ".join(map(str, row)) for row in codec.to_integers(demo.actions).tolist()] if codec else [],
    }


def _numbers(column):
    return [None if not np.isfinite(value) else float(f"{value:.5g}") for value in column]


def _picture(frame):
    scale = SIDE / max(frame.shape[:2])
    if scale < 1:
        size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return "data:image/jpeg;base64," + base64.b64encode(encode_picture(frame, "jpeg", QUALITY)).decode()
