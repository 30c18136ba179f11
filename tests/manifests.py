"""Manifests for tests: built by the tool, or as somebody else would write them."""

import json

import numpy as np

from libs.manifest.pictures import encode_picture
from tools.build_manifest import main


def build(out, *demos, horizon=2, num_bins=100, workers=1, **more):
    """A manifest of demonstration files, of the size that tests/tiny.py's models are for; returns its folder."""
    options = {"out": out, "horizon": horizon, "num_bins": num_bins, "workers": workers, **more}
    main([*map(str, demos), *(part for name, value in options.items() for part in (f"--{name}", str(value)))])
    return out


def edit_lines(folder, edit):
    """Rewrite manifest.jsonl: `edit` gets the list of lines (str) and changes it."""
    path = folder / "manifest.jsonl"
    lines = path.read_text().splitlines()
    edit(lines)
    path.write_text("".join(line + "\n" for line in lines))


def write_foreign(folder, runs, text="50 " * 13 + "50", with_stats=True):
    """As the documents write it: one picture a line, absolute paths, nothing that names a demo.

    runs: list of (instruction, number of lines); text: of every line, or a function of the line's number.
    """
    folder.mkdir(parents=True)
    rng, lines = np.random.default_rng(0), []
    for instruction, count in runs:
        for _ in range(count):
            picture = folder / f"frame_{len(lines):06d}.png"
            picture.write_bytes(encode_picture(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), "png", 0))
            lines.append(
                {
                    "image_path": str(picture),
                    "instruction": instruction,
                    "target_action_text": text(len(lines)) if callable(text) else text,
                    "H": 2,
                    "D": 7,
                }
            )
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if with_stats:
        np.savez(folder / "action_stats.npz", action_mins=np.full(7, -1.0), action_maxs=np.ones(7))
    return folder
