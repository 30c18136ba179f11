"""Pictures of a Diagnosis: similar conditions, what moves the answer, recorded against predicted actions."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rv_eval.diagnosis.measure import Diagnosis, OpenLoop, cosine, similarities

DEMO_PREFIX = "open_loop_"


def write_plots(folder: Path | str, d: Diagnosis) -> list[Path]:
    """Write every figure of a Diagnosis as PNG into an existing folder; returns the paths. Older ones of demos go."""
    folder = Path(folder)
    for path in folder.glob(f"{DEMO_PREFIX}*.png"):
        path.unlink()
    figures = {"conditions.png": condition_figure(d), "answers.png": answer_figure(d)}
    for number, one in enumerate(d.open_loop):
        figures[f"{DEMO_PREFIX}{number:02d}_{one.demo}.png"] = open_loop_figure(one, d)
    for name, figure in figures.items():
        figure.savefig(folder / name)
    return [folder / name for name in figures]


def condition_figure(d: Diagnosis) -> Figure:
    """Cosines of the conditions of all pairs of frames, as they are and without their mean; of varied frames, too."""
    raw, centred, _ = similarities(d.conditions)
    mean = d.conditions.mean(axis=0)
    varied = [variant for variant in d.variants if variant.conditions is not None]
    rows = np.stack([cosine(d.conditions - mean, variant.conditions - mean) for variant in varied])
    figure = Figure(figsize=(13, 4.6), dpi=100, layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    lowest = min(raw.min(), 0.999)
    parts = (
        (panels[0], raw, "viridis", (lowest, 1), f"cosine, frame by frame ({lowest:.3f} to 1)"),
        (panels[1], centred, "RdBu_r", (-1, 1), "the same without the mean condition"),
        (panels[2], rows, "RdBu_r", (-1, 1), "changed against unchanged frame, without the mean"),
    )
    for panel, values, colours, (low, high), title in parts:
        image = panel.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        figure.colorbar(image, ax=panel, shrink=0.9, format=lambda value, _: f"{value:.4g}")
        panel.set_title(title, fontsize=10)
        _mark_demos(panel, d.frames.demo, both=panel is not panels[2])
    panels[2].set_yticks(range(len(varied)), [variant.name for variant in varied], fontsize=8)
    return figure


def answer_figure(d: Diagnosis) -> Figure:
    """How much every varied input changes the answers, dimension by dimension; not taken inputs are left white."""
    shares = np.full((len(d.variants), len(d.low)), np.nan)
    names = []
    for row, variant in enumerate(d.variants):
        names.append(variant.name + (f" ({variant.why_not})" if variant.why_not else ""))
        if not variant.why_not:
            shares[row] = d.share(variant.chunks - d.chunks)
    figure = Figure(figsize=(2.8 + 0.75 * len(d.low), 1.2 + 0.38 * len(names)), dpi=100, layout="constrained")
    panel = figure.subplots()
    highest = max(np.nanmax(shares), 0.01)
    image = panel.imshow(shares, cmap="viridis", vmin=0, vmax=highest, aspect="auto", interpolation="nearest")
    for (row, dim), share in np.ndenumerate(shares):
        if np.isfinite(share):
            colour = "black" if share > 0.6 * highest else "white"
            panel.text(dim, row, f"{share:.1%}", ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(image, ax=panel, shrink=0.9, format=lambda value, _: f"{100 * value:.3g} %")
    panel.set_xticks(range(len(d.low)), [f"dim {i}" for i in range(len(d.low))], fontsize=8)
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.set_title("mean change of the answer, share of the data's range", fontsize=10)
    return figure


def open_loop_figure(one: OpenLoop, d: Diagnosis) -> Figure:
    """A demo's recorded and predicted actions over its frames, one panel per dimension; a dot where a chunk begins."""
    steps, dim = np.arange(len(one.recorded)), len(d.low)
    columns = min(dim, 4)
    rows = -(-dim // columns)
    figure = Figure(figsize=(3.6 * columns, 0.7 + (2.25 if d.names else 2.1) * rows), dpi=100, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    errors, shares = np.abs(one.predicted - one.recorded).mean(axis=0), d.share(one.predicted - one.recorded)
    for i in range(dim):
        panel = panels[i]
        panel.axhspan(d.low[i], d.high[i], color="0.95")
        (recorded,) = panel.plot(steps, one.recorded[:, i], color="0.25", linewidth=1.4)
        (predicted,) = panel.plot(steps, one.predicted[:, i], color="tab:orange", linewidth=1.1)
        panel.plot(one.starts, one.predicted[one.starts, i], ".", color="tab:orange", markersize=4)
        share = f" = {shares[i]:.1%} of the range" if np.isfinite(shares[i]) else ""
        name = f"dim {i}, {d.names[i]}\n" if d.names else f"dim {i}: "
        panel.set_title(f"{name}off by {errors[i]:.3g}{share}", fontsize=9)
        panel.tick_params(labelsize=7)
    for panel in panels[dim:]:
        panel.axis("off")
    for panel in panels[max(0, dim - columns) : dim]:
        panel.set_xlabel("frame", fontsize=8)
        panel.tick_params(labelbottom=True)
    names = ["recorded", "predicted, chunk by chunk (a dot where one begins)"]
    figure.legend([recorded, predicted], names, loc="outside lower right", ncols=2, fontsize=9, frameon=False)
    figure.suptitle(f"{Path(one.file).name}, {one.demo}: {one.instruction}", fontsize=10)
    return figure


def _mark_demos(panel, demo, both):
    """Lines between the demos, their numbers in the middle of their frames."""
    edges = np.flatnonzero(np.diff(demo)) + 0.5
    middles = [np.flatnonzero(demo == number).mean() for number in np.unique(demo)]
    labels = [f"demo {number + 1}" for number in np.unique(demo)]
    for edge in edges:
        panel.axvline(edge, color="black", linewidth=0.8)
        if both:
            panel.axhline(edge, color="black", linewidth=0.8)
    panel.set_xticks(middles, labels, fontsize=8)
    if both:
        panel.set_yticks(middles, labels, fontsize=8, rotation=90, va="center")
