"""Validation on held-out demos: the loss, and what the model would do, against what the demonstrator did.

Nothing here changes by chance: the same evenly spaced samples every time, without augmentation, with the same noise for
who needs it, and none of the run's generators is drawn from, so it trains the same whether it validates or not.
"""

import contextlib
import math

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from rv_train.data.stats import action_range
from rv_train.data.training_set import TrainingSet
from rv_train.distributed import ignore_signals

FIGURE_SAMPLES = 4


class Validation:
    """Measures a model on a fixed choice of held-out samples; every rank takes its share and knows the result.

    Args:
        cfg: the config tree (VALID, TRAIN.batch_size, DATA.NUM_WORKERS).
        dataset: the held-out `Demonstrations`.
        encoder: from `rv_train.policies.build_encoder`.
        stats: of the actions, see `rv_train.data.stats`.
        rank: a distributed.Rank. A process group must exist.
    """

    def __init__(self, cfg, dataset, encoder, stats, rank):
        self.dataset, self.encoder, self.rank, self.seed = dataset, encoder, rank, cfg.EXP.SEED
        self.low, self.high = map(np.array, action_range(stats, cfg.ACTION.RANGE))
        self.batch_size, self.num_workers = cfg.TRAIN.batch_size, cfg.DATA.NUM_WORKERS
        self.features = TrainingSet(dataset, encoder, cfg.EXP.SEED, augment=False)
        whole, share = len(dataset), slice(rank.rank, None, rank.world_size)
        measured = spread(whole, cfg.VALID.loss_batches * self.batch_size or whole)
        self.loss_samples = measured[share]
        # Every rank passes as many batches, because the ranks of a sharded run compute each pass together.
        self.rounds = -(-len(measured[:: rank.world_size]) // self.batch_size)
        self.gen_samples = spread(whole, cfg.VALID.gen_samples)[share]

    def loss(self, model, precision):
        """The training loss (of text: cross-entropy per learned token), over the samples of all ranks.

        Args:
            model: the bare model; its training flag is left as found.
            precision: a Precision, for its autocast.
        """
        total = torch.zeros(2, dtype=torch.float64, device=self.rank.device)  # summed loss, what it is a mean over
        own = -(-len(self.loss_samples) // self.batch_size)
        with _evaluating(model):
            for number, batch in enumerate(self._loss_batches()):
                with precision.autocast():
                    result = model(self._to_device(batch))
                if number < own:
                    count = result["count"]
                    total += torch.stack([result["loss"].double() * count, total.new_tensor(count)])
        dist.all_reduce(total)
        return (total[0] / total[1]).item()

    def generate(self, model):
        """Let the model answer, and compare its chunks with the demonstrated ones, in environment units.

        A text that cannot be read counts as the mid-range chunk, which is what the robot would execute. The true
        chunk is the recorded one, so even a perfect answer keeps the rounding to bins. Numbers that the data hides (X
        in a manifest) are left out, and counted.

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
                batch = self.encoder.collate([self._open_prompt(sample) for sample in samples])
                generators = [np.random.default_rng([self.seed, index]) for index in indices]  # for who needs noise
                prediction = model.predict(self._to_device(batch), generators=generators)
                answers.append(prediction.chunk)
                truths.append(np.stack([sample.actions for sample in samples]))
                valid.append(prediction.valid)
        answers, truths, valid = np.concatenate(answers), np.concatenate(truths), np.concatenate(valid)
        metrics = self._over_ranks(answers - truths, valid)
        return metrics, self._figure(answers, truths, valid) if self.rank.is_main else None

    def _loss_batches(self):
        batches = _pieces([(0, 0, index) for index in self.loss_samples], self.batch_size)
        batches += [[(0, 0, 0)]] * (self.rounds - len(batches))
        return DataLoader(
            self.features,
            batch_sampler=batches,
            num_workers=min(self.num_workers, len(batches)),
            collate_fn=self.encoder.collate,
            generator=torch.Generator(),  # its own: a loader draws a number when it starts
            worker_init_fn=ignore_signals,
            pin_memory=self.rank.device.type == "cuda",
        )

    def _open_prompt(self, sample):
        views = dict(zip(self.dataset.views, sample.views, strict=True))
        state = {"views": views, "instruction": sample.instruction, "proprio": sample.proprio}
        return self.encoder.encode(state)

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


def due(done, every_epochs, steps_per_epoch, total_steps):
    """Whether a measurement stands after `done` optimizer steps: each time `every_epochs` more epochs are complete,
    and at the end. A pure function of the step, so a resumed run measures where an uninterrupted one does.

    Args:
        steps_per_epoch: may be a fraction.
    """
    return done == total_steps or times_complete(done, every_epochs, steps_per_epoch) is not None


def times_complete(done, every_epochs, steps_per_epoch):
    """How many times `every_epochs` epochs are complete, where the last step completed them; else None."""
    interval = every_epochs * steps_per_epoch
    before, now = (math.floor(step / interval + 1e-9) for step in (done - 1, done))  # 3 x 10/3 steps are 10
    return now if now > before else None


def milestones(done, total_steps, steps_per_epoch, cfg):
    """Names of links to the checkpoint after `done` steps: epoch_N by TRAIN.save_every_epochs, `final` at the end."""
    every, names = cfg.TRAIN.save_every_epochs, []
    times = times_complete(done, every, steps_per_epoch) if every else None
    if times:
        names.append(f"epoch_{times * every}")
    return [*names, "final"] if done == total_steps else names


def spread(whole, count):
    """At most `count` evenly spaced numbers out of 0 … whole - 1, each the middle of an equal share."""
    count = min(count, whole)
    return [(2 * i + 1) * whole // (2 * count) for i in range(count)]


def chunk_figure(answers, truths, titles, low, high):
    """Predicted against demonstrated chunks: one row per sample, one panel per action dimension.

    Args:
        answers, truths: (n, H, A) environment units.
        titles: n row labels.
        low, high: (A,) range of each dimension, the vertical axis of its column.
    Returns:
        a matplotlib Figure that no global state knows of.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows, horizon, dim = answers.shape
    figure = Figure(figsize=(1.3 + 1.45 * dim, 0.75 + 1.15 * rows), dpi=100, layout="constrained")
    panels = figure.subplots(rows, dim, sharex=True, sharey="col", squeeze=False)
    steps = range(1, horizon + 1)
    for row in range(rows):
        for i, panel in enumerate(panels[row]):
            truth = panel.plot(steps, truths[row, :, i], color="0.25", marker="o", markersize=4, linewidth=1.2)
            answer = panel.plot(steps, answers[row, :, i], color="tab:orange", marker="x", markersize=4, linewidth=1.2)
            panel.tick_params(labelsize=7)
            panel.grid(color="0.92")
        panels[row, 0].set_ylabel(titles[row], fontsize=8)
    for i in range(dim):
        margin = 0.06 * (high[i] - low[i]) or 1.0
        panels[0, i].set_ylim(low[i] - margin, high[i] + margin)
        panels[0, i].set_title(f"dim {i}", fontsize=9)
        panels[-1, i].xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        panels[-1, i].set_xlabel("action of the chunk", fontsize=7)
    names = ["demonstrated", "predicted"]
    figure.legend([*truth, *answer], names, loc="outside upper left", ncols=2, fontsize=8, frameon=False)
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
