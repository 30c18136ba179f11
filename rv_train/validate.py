"""Validation on held-out demos: the loss, and what the model would do, against what the demonstrator did.

Nothing here changes by chance: the same evenly spaced samples every time, without augmentation, with the same noise for
who needs it, and none of the run's generators is drawn from, so it trains the same whether it validates or not.
"""

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from rv_train.data.base import Block
from rv_train.data.stats import recorded_range
from rv_train.data.training_set import TrainingSet
from rv_train.distributed import Rank, ignore_signals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rv_train.data.base import Demonstrations
    from rv_train.optim import Precision
    from rv_train.policies.base import Encoder, Policy


FIGURE_SAMPLES = 4
BUCKET = 64  # tokens, of which prompts are padded to a multiple on a GPU, as they are when a policy is evaluated


class Validation:
    """Measures a model on a fixed choice of held-out samples; every rank takes its share and knows the result.

    Args:
        cfg: the config tree (VALID, TRAIN.batch_size, DATA.NUM_WORKERS).
        dataset: the held-out `Demonstrations`.
        encoder: from `rv_train.policies.build_encoder`.
        stats: of the actions, see `rv_train.data.stats`.
        rank: a distributed.Rank. A process group must exist.
    """

    def __init__(
        self, cfg: CfgNode, dataset: "Demonstrations", encoder: "Encoder", stats: Mapping[str, Any], rank: Rank
    ) -> None:
        self.dataset, self.encoder, self.rank, self.seed = dataset, encoder, rank, cfg.EXP.SEED
        self.low, self.high = map(np.array, recorded_range(stats, cfg.ACTION.RANGE))
        self.batch_size, self.num_workers = cfg.TRAIN.batch_size, cfg.DATA.NUM_WORKERS
        self.features = TrainingSet(dataset, encoder, cfg.EXP.SEED, augment=False)
        self.blocks, mine = dataset.mix or [whole_of(dataset)], slice(rank.rank, None, rank.world_size)
        chosen = spread_over(self.blocks, cfg.VALID.loss_batches * self.batch_size)
        self.loss_samples = [places[mine] for places in chosen]  # of every block
        self.gen_samples = [*itertools.chain(*spread_over(self.blocks, cfg.VALID.gen_samples))][mine]
        # Every rank passes as many batches, because the ranks of a sharded run compute each pass together.
        self.rounds = sum(-(-len(places[:: rank.world_size]) // self.batch_size) for places in chosen)

    def loss(self, model: "Policy", precision: "Precision") -> dict[str, float]:
        """The training loss (of text: cross-entropy per learned token), over the samples of all ranks.

        Args:
            model: the bare model; its training flag is left as found.
            precision: a Precision, for its autocast.

        Returns:
            {"val/loss"}, and of a mixture {"val/loss_NAME"} of each set; the first is then their mean by shares, as the
            training loss is.
        """
        # Of every block: summed loss, what it is a mean over.
        total = torch.zeros(len(self.blocks), 2, dtype=torch.float64, device=self.rank.device)
        batches = [
            (number, one) for number, all in enumerate(self.loss_samples) for one in _pieces(all, self.batch_size)
        ]
        # What a rank with fewer passes besides counts nowhere.
        batches += [(len(self.blocks), [0])] * (self.rounds - len(batches))
        with _evaluating(model):
            loader = self._loss_batches([one for _, one in batches])
            for (number, _), batch in zip(batches, loader, strict=True):
                with precision.autocast():
                    result = model(self._to_device(batch))
                if number == len(self.blocks):
                    continue
                count = result["count"]
                total[number] += torch.stack([result["loss"].double() * count, total.new_tensor(count)])
        dist.all_reduce(total)
        means = (total[:, 0] / total[:, 1]).tolist()
        together = sum(block.share * mean for block, mean in zip(self.blocks, means, strict=True))
        each = {f"val/loss_{block.name}": mean for block, mean in zip(self.blocks, means, strict=True)}
        return {"val/loss": together, **(each if self.dataset.mix else {})}

    def generate(self, model: "Policy") -> "tuple[dict[str, float], Figure | None]":
        """Let the model answer, and compare its chunks with the demonstrated ones, in environment units.

        A text that cannot be read counts as the mid-range chunk, which is what the robot would execute. The true
        chunk is the recorded one, so even a perfect answer keeps the rounding to bins. Of an answered rotation
        (ACTION.ROTATION) the numbers nearest to the recorded ones are compared, which may be others than a robot gets.
        Numbers that the data hides (X in a manifest) are left out, and counted.

        Args:
            model: the bare model; its training flag is left as found.

        Returns:
            ({"val/mse", "val/mae", "val/parse_rate", "val/dim{i}_mae": over the samples of all ranks, and, where there
            are any, "val/hidden_targets": share of the numbers that are not known},
            a matplotlib Figure of a few of rank 0's samples; None on the other ranks).
        """
        shape = (0, self.dataset.horizon, len(self.low))
        answers, truths, valid = [np.empty(shape)], [np.empty(shape)], [np.empty(0, dtype=bool)]
        with _evaluating(model):
            for indices in _pieces(self.gen_samples, self.batch_size):
                samples = [self.dataset[index] for index in indices]
                shown = [self._observation(sample) for sample in samples]
                prompts = [self.encoder.encode(one) for one in shown]
                batch = self.encoder.collate(prompts, self._padded_length(prompts))
                generators = [np.random.default_rng([self.seed, index]) for index in indices]  # for who needs noise
                prediction = model.predict(self._to_device(batch), generators=generators)
                prediction = self.encoder.recorded(prediction, shown)
                truths.append(np.stack([sample.actions for sample in samples]))
                answers.append(self.encoder.form.beside(prediction.chunk, truths[-1]))
                valid.append(prediction.valid)
        chunks, true, readable = np.concatenate(answers), np.concatenate(truths), np.concatenate(valid)
        metrics = self._over_ranks(chunks - true, readable)
        return metrics, self._figure(chunks, true, readable) if self.rank.is_main else None

    def _loss_batches(self, batches):
        batches = [[(0, 0, index) for index in one] for one in batches]
        return DataLoader(
            self.features,
            batch_sampler=batches,
            num_workers=min(self.num_workers, len(batches)),
            collate_fn=self.encoder.collate,
            generator=torch.Generator(),  # its own: a loader draws a number when it starts
            worker_init_fn=ignore_signals,
            pin_memory=self.rank.device.type == "cuda",
        )

    def _observation(self, sample):
        views = dict(zip(self.dataset.views, sample.views, strict=True))
        return {"views": views, "instruction": sample.instruction, "proprio": sample.proprio}

    def _padded_length(self, prompts):
        """On a GPU one of few lengths, each of which has a graph recorded, and compiled kernels; else None, the
        longest's."""
        on_gpu = self.rank.device.type == "cuda"
        return -(-max(len(prompt["input_ids"]) for prompt in prompts) // BUCKET) * BUCKET if on_gpu else None

    def _to_device(self, batch):
        return {name: tensor.to(self.rank.device, non_blocking=True) for name, tensor in batch.items()}

    def _over_ranks(self, errors, valid):
        """(n, H, A) differences, NaN where the truth is not known, and (n,) flags of this rank → the metrics over all
        ranks; of a dimension of which nothing is known, NaN."""
        dim = len(self.low)
        errors = errors.reshape(-1, dim)
        known = ~np.isnan(errors)
        errors = np.where(known, errors, 0.0)
        sums = [*(errors**2).sum(0), *np.abs(errors).sum(0), *known.sum(0), valid.sum(), len(valid)]
        total = torch.tensor(sums, dtype=torch.float64, device=self.rank.device)
        dist.all_reduce(total)
        squares, absolutes, counts = total[: 3 * dim].cpu().numpy().reshape(3, dim)
        readable, samples = total[3 * dim :].tolist()
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, as said
            mse, mae = squares / counts, absolutes / counts
        hidden = 1.0 - counts.sum() / (samples * self.dataset.horizon * dim)
        return {
            "val/mse": _mean_of_known(mse),
            "val/mae": _mean_of_known(mae),
            "val/parse_rate": readable / samples,
            **({"val/hidden_targets": float(hidden)} if hidden > 0 else {}),
            **{f"val/dim{i}_mae": float(value) for i, value in enumerate(mae)},
        }

    def _figure(self, answers, truths, valid):
        shown = spread(len(valid), FIGURE_SAMPLES)
        titles = []
        for row in shown:
            sample = self.dataset.where(self.gen_samples[row]).split(", ", 1)[1].replace(", ", "\n")
            titles.append(sample + ("" if valid[row] else "\nunreadable"))
        return chunk_figure(answers[shown], truths[shown], titles, self.low, self.high)


def due(done: int, every_epochs: int, steps_per_epoch: float, total_steps: int) -> bool:
    """Whether a measurement stands after `done` optimizer steps: each time `every_epochs` more epochs are complete,
    and at the end. A pure function of the step, so a resumed run measures where an uninterrupted one does.

    Args:
        steps_per_epoch: may be a fraction.
    """
    return done == total_steps or times_complete(done, every_epochs, steps_per_epoch) is not None


def times_complete(done: int, every_epochs: int, steps_per_epoch: float) -> int | None:
    """How many times `every_epochs` epochs are complete, where the last step completed them; else None."""
    interval = every_epochs * steps_per_epoch
    before, now = (math.floor(step / interval + 1e-9) for step in (done - 1, done))  # 3 x 10/3 steps are 10
    return now if now > before else None


def milestones(done: int, total_steps: int, steps_per_epoch: float, cfg: CfgNode) -> list[str]:
    """Names of links to the checkpoint after `done` steps: epoch_N by TRAIN.save_every_epochs, `final` at the end."""
    every, names = cfg.TRAIN.save_every_epochs, []
    times = times_complete(done, every, steps_per_epoch) if every else None
    if times:
        names.append(f"epoch_{times * every}")
    return [*names, "final"] if done == total_steps else names


def spread(whole: int, count: int) -> list[int]:
    """At most `count` evenly spaced numbers out of 0 … whole - 1, each the middle of an equal share."""
    count = min(count, whole)
    return [(2 * i + 1) * whole // (2 * count) for i in range(count)]


def whole_of(dataset: "Demonstrations") -> Block:
    """The Block that data is which is no mixture."""
    return Block("", 0.0, 1.0, len(dataset), len(dataset.demos))


def spread_over(blocks: Sequence[Block], count: int) -> list[list[int]]:
    """Of every block of a data set evenly spaced samples of its share of `count`, at least one; count 0: all."""
    chosen, first = [], 0
    for block in blocks:
        wanted = max(1, round(count * block.share)) if count else block.samples
        chosen.append([first + place for place in spread(block.samples, wanted)])
        first += block.samples
    return chosen


def chunk_figure(
    answers: np.ndarray, truths: np.ndarray, titles: Sequence[str], low: np.ndarray, high: np.ndarray
) -> "Figure":
    """Predicted against demonstrated chunks: one row per sample, one panel per action dimension.

    Args:
        answers, truths: (n, H, A) environment units.
        titles: n row labels.
        low, high: (A,) range of each dimension, the vertical axis of its column.

    Returns:
        a matplotlib Figure that no global state knows of.
    """
    from matplotlib.figure import Figure

    rows, horizon, dim = answers.shape
    width, height = 1.3 + 1.45 * dim, 0.8 + 1.15 * rows  # inches
    # Margins by hand: a layout engine measures every text twice, and takes longer than drawing does.
    margins = {"left": 1.05 / width, "right": 1 - 0.15 / width, "bottom": 0.42 / height, "top": 1 - 0.5 / height}
    figure = Figure(figsize=(width, height), dpi=100)
    panels = figure.subplots(rows, dim, squeeze=False, gridspec_kw={**margins, "wspace": 0.42, "hspace": 0.15})
    steps = range(1, horizon + 1)
    for row in range(rows):
        for i, panel in enumerate(panels[row]):
            truth = panel.plot(steps, truths[row, :, i], color="0.25", marker="o", markersize=4, linewidth=1.2)
            answer = panel.plot(steps, answers[row, :, i], color="tab:orange", marker="x", markersize=4, linewidth=1.2)
            margin = 0.06 * (high[i] - low[i]) or 1.0
            panel.set_ylim(low[i] - margin, high[i] + margin)
            range_ticks = sorted({low[i], (low[i] + high[i]) / 2, high[i]})
            panel.set_yticks(range_ticks, [f"{value:.2g}" for value in range_ticks])
            panel.set_xticks(sorted({1, (1 + horizon) // 2, horizon}))
            panel.tick_params(labelsize=7, labelbottom=row == rows - 1)
            panel.grid(color="0.92")
        panels[row, 0].set_ylabel(titles[row], fontsize=8)
    for i in range(dim):
        panels[0, i].set_title(f"dim {i}", fontsize=9, pad=3)
        panels[-1, i].set_xlabel("action of the chunk", fontsize=7)
    names = ["demonstrated", "predicted"]
    figure.legend([*truth, *answer], names, loc="upper left", ncols=2, fontsize=8, frameon=False, borderaxespad=0.1)
    return figure


def _mean_of_known(values):
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


@contextlib.contextmanager
def _evaluating(model):
    """Evaluation mode without gradients; the training flag comes back whatever happens."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _pieces(items, size):
    return [items[start : start + size] for start in range(0, len(items), size)]
