"""A CUDA device that is not there: shapes, dtypes and devices of a pass without its numbers, where there is no GPU.

PyTorch's fake tensors follow devices, and operations that mix two are refused as on a GPU. A build of PyTorch for CPUs
refuses the very name "cuda" unless a device guard and the hooks of a backend are registered: SOURCE registers some that
do nothing, before PyTorch looks for them. That holds for a whole process, so one of its own runs what is tried here,
started by `run`: `python -m tests.fake_cuda FOLDER` prints {scenario: {"error", "moved", "waits", "odd"}} as JSON.
"""

import contextlib
import json
import os
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from rv_train.backbones import FAMILIES
from rv_train.distributed import Told
from rv_train.optim import Ema, Precision, build_optimizer
from rv_train.policies import build_encoder, build_policy
from rv_train.policies.text.decoder import GPU_WIDTH, _Answer
from tests.tiny import ACTION_STATS, ROOT, flow_opts, frozen_opts, lora_opts, make_tiny_base, tiny_cfg, tiny_recipe
from tests.waiting import WAITING
from tools.dev.benchmarks.samples import made_samples

SOURCE = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/FakeGuardImpl.h>
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::FakeGuardImpl<c10::DeviceType::CUDA>);
namespace at {
struct CUDAHooks : CUDAHooksInterface {
  CUDAHooks(CUDAHooksArgs) {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
};
REGISTER_CUDA_HOOKS(CUDAHooks);
} // namespace at
"""
DEVICE = torch.device("cuda", 0)
STATS = {**ACTION_STATS, "proprio": {"parts": {"robot_states": 9}, "mean": [0.0] * 9, "std": [1.0] * 9}}
MISTAKES = ("mixed", "asked", "fetched", "brought", "read", "promised", "odd")
PUBLISHED = "the published widths"
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
ALIGNED = 8  # numbers of 16 bits: rows of matrices that begin elsewhere take slow kernels
SMALL = 256  # numbers of a row: what is shorter costs nothing either way
LORA = {"MODEL__LORA__RANK": 8, "MODEL__LORA__DROPOUT": 0.1}
KINDS = {
    "text": lambda base: {},
    "text, recomputed": lambda base: {"TRAIN__grad_checkpoint": True},
    "text, LoRA": lambda base: lora_opts(base, **LORA, MODEL__LORA__VISION=True),
    "flow": lambda base: flow_opts(),
    "flow, frozen": lambda base: flow_opts(**frozen_opts(base), FLOW__CONDITION="last"),
}


def run(folder):
    """What `main` finds, in a process with the device; `folder` is for what it writes."""
    source, library, home = Path(folder) / "device.cpp", Path(folder) / "device.so", Path(torch.__file__).parent
    source.write_text(SOURCE)
    linked = [f"-L{home}/lib", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{home}/lib"]
    compiler = os.environ.get("CXX", "g++")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-std=c++20", f"-I{home}/include", source, "-o", library, *linked], check=True
    )
    found = subprocess.run(
        [sys.executable, "-m", "tests.fake_cuda", folder],
        cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return json.loads(found.stdout.splitlines()[-1])


class Watch(TorchDispatchMode):
    """What a host and its GPU would wait for each other for, while it is `on`.

    moved: copies between host and device that wait; waits: operations whose result the host must see; odd: 16-bit
    products of matrices whose rows are not `ALIGNED`. Each with the line of this repository that asked for it.
    """

    def __init__(self, mode):
        super().__init__()
        self.mode, self.on = mode, False
        self.moved, self.waits, self.odd = set(), set(), set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        on_gpu = any(isinstance(x, FakeTensor) for x in tree_leaves((args, kwargs)))
        if not on_gpu and torch.device(kwargs.get("device") or "cpu") == torch.device("cpu"):
            with unset_fake_temporarily():  # what the host computes for itself has its numbers
                return function(*args, **kwargs)
        args = tree_map(lambda x: self.mode.from_tensor(x) if type(x) is torch.Tensor else x, args)
        result = function(*args, **kwargs)
        if self.on:
            self._look(name, args, kwargs, result)
        return result

    def _look(self, name, args, kwargs, result):
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_gpu = {x.is_cuda for x in (*given, *tree_leaves(result)) if isinstance(x, torch.Tensor) and x.numel()}
        if name in WAITING and any(x.is_cuda for x in given):
            self.waits.add(f"{name} at {_line()}")
        blocking = not kwargs.get("non_blocking", name == "copy_" and len(args) > 2 and args[2])
        if on_gpu == {True, False} and blocking:  # 0-dim host tensors among the operands wait for nobody, but are read
            self.moved.add(f"{name} at {_line()}")
        if name in PRODUCTS and given[-1].dtype in (torch.bfloat16, torch.float16):
            rows = [size for x in given[-2:] for size, step in zip(x.shape, x.stride(), strict=True) if step == 1]
            if any(size % ALIGNED and size > SMALL for size in rows):
                self.odd.add(f"{name} of {[tuple(x.shape) for x in given[-2:]]} at {_line()}")


def _line():
    here = [frame for frame in traceback.extract_stack() if str(ROOT) in frame.filename and __file__ != frame.filename]
    own = [frame for frame in here if "site-packages" not in frame.filename]
    last = own[-1] if own else traceback.extract_stack()[-4]
    return f"{Path(last.filename).name}:{last.lineno}"


class _Mode(FakeTensorMode):
    avoid_device_init = True  # whatever torch.cuda.is_available says


class Fake:
    """The fake device: models and batches on it."""

    def __init__(self):
        self.mode = _Mode(allow_non_fake_inputs=True)
        self.watch = Watch(self.mode)

    @contextlib.contextmanager
    def __call__(self):
        patched = {"Event": mock.Mock(), "is_available": lambda: True, "is_bf16_supported": lambda **_: True}
        with contextlib.ExitStack() as stack:
            for name, value in patched.items():
                stack.enter_context(mock.patch(f"torch.cuda.{name}", value))
            # On one thread: modes do not follow autograd to its others.
            stack.enter_context(torch.autograd.set_multithreading_enabled(False))
            stack.enter_context(self.mode)
            stack.enter_context(self.watch)
            yield

    def model(self, model):
        """Its parameters and buffers replaced by fake ones on the device, tied ones still tied."""
        moved = {}
        for module in model.modules():
            for held in (module._parameters, module._buffers):
                for name, value in held.items():
                    if value is not None:
                        held[name] = moved.setdefault(id(value), self._moved(value))
        return model

    def _moved(self, value):
        with torch.no_grad():
            fake = self.mode.from_tensor(value).to(DEVICE)
        return torch.nn.Parameter(fake, value.requires_grad) if isinstance(value, torch.nn.Parameter) else fake

    def batch(self, batch):
        return {name: self.mode.from_tensor(value).to(DEVICE) for name, value in batch.items()}


def scenario(fake, cfg):
    """Two training steps and two answers' beginnings of one model; the second of each is watched."""
    encoder = build_encoder(cfg, STATS)
    with torch.random.fork_rng():
        model = build_policy(cfg, encoder).train()
    if cfg.TRAIN.grad_checkpoint:
        model.recompute_activations()
    samples = [replace(s, proprio=np.zeros(9, np.float32)) for s in made_samples(2, cfg, resolution=64)]
    training = encoder.collate([encoder.encode_training(s, np.random.default_rng(0)) for s in samples])
    asked = [{"views": dict(zip(cfg.DATA.VIEWS, s.views, strict=True)), "instruction": "go"} for s in samples]
    asked = encoder.collate([encoder.encode({**o, "proprio": np.zeros(9, np.float32)}) for o in asked])
    with fake():
        model, batch = fake.model(model), fake.batch(training)
        learn(fake, cfg, model, batch)
        with torch.inference_mode():
            (generate if cfg.MODEL.NAME == "vla0" else integrate)(fake, model.eval(), fake.batch(asked))


def learn(fake, cfg, model, batch):
    """Training steps, as in rv_train/train.py."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    precision, ema = Precision("bf16", DEVICE), Ema(parameters, 0.9)
    optimizer = build_optimizer(cfg.TRAIN, parameters)
    for fake.watch.on in (False, True):
        with precision.autocast():
            loss = model(batch)["loss"]
        precision.backward(loss)
        norm = precision.clip(optimizer, parameters, 1.0)
        told = Told(torch.stack([loss.detach(), torch.ones_like(loss), torch.zeros_like(loss)]), norm, world_size=1)
        precision.step(optimizer, told.bad)
        optimizer.zero_grad(set_to_none=True)
        ema.update(told.bad)
    fake.watch.on = False
    wrong = [name for name, p in model.named_parameters() if p.device != DEVICE]
    assert loss.device == norm.device == told.bad.device == DEVICE and not wrong, wrong


def generate(fake, model, batch):
    """The beginning of an answer and passes, drafts and noise given and not; model.predict reads the end."""
    decoder = model.decoder
    if not hasattr(decoder, "one_pass"):  # the library's own forward answers
        with contextlib.suppress(torch._subclasses.fake_tensor.DataDependentOutputException):
            model.predict(batch)
        return
    decoder.grammar = decoder.grammar.to(DEVICE)
    for noisy in (False, True):
        prompt = model._embed(batch)
        rows = len(prompt.embeds)
        noise = prompt.embeds.new_zeros(rows, decoder.grammar.longest, len(decoder.grammar.ids)) if noisy else None
        drafts = batch["lengths"].new_zeros(rows, decoder.grammar.numbers) if noisy else None
        hidden, filled = decoder.prefill(prompt)
        answer = _Answer(decoder, prompt.embeds, GPU_WIDTH, noisy)
        for _ in range(2):
            answer.begin(hidden, filled, prompt.position_ids, batch["lengths"], noise, None, drafts)
            for fake.watch.on in (False, True):
                answer.advance()
            fake.watch.on = False
        assert answer.written.device == answer.ended.device == DEVICE


def integrate(fake, model, batch):
    """The features of an observation, and the solver's way from noise to a chunk."""
    features = model._features(batch)
    x = features.new_zeros(len(features), features.shape[1], model.actions.dim)
    for fake.watch.on in (False, True):
        x = model.solver(lambda x, time: model.velocity(features, x, time), x, model.steps)
    fake.watch.on = False
    assert model.actions.denormalize(x).device == DEVICE


def mistakes(fake, which):
    """One of each kind, which must be found."""
    with fake():
        fake.watch.on = True
        ours, theirs = torch.ones(8, device=DEVICE), torch.ones(8)
        if which == "mixed":
            ours + theirs
        elif which == "asked":
            ours.sum().item()
        elif which == "fetched":
            ours.cpu()
        elif which == "brought":
            theirs.to(DEVICE)
        elif which == "read":
            torch.add(ours, torch.ones(()))  # allowed, but a graph would keep the number
        elif which == "promised":
            ours.to("cpu", non_blocking=True)  # is no mistake
        else:
            aligned, odd = (torch.ones(4, n, device=DEVICE, dtype=torch.bfloat16) for n in (3424, 3420))
            aligned @ aligned.T, odd @ odd.T


def cases(folder):
    """{name: a config}: every kind of policy over every family, and the widths of the published model."""
    found = {}
    for family in FAMILIES:
        recipe = tiny_recipe(folder, family)
        base = make_tiny_base(Path(folder) / family, recipe=recipe)
        for kind, opts in KINDS.items():
            found[f"{family}, {kind}"] = tiny_cfg(recipe, AMP__mode="bf16", MODEL__ATTENTION="sdpa", **opts(base))
    few = {"MODEL__TEXT__LAYERS": 1, "MODEL__VISION__LAYERS": 2, "MODEL__VISION__FULL_ATTENTION": [1]}
    found[PUBLISHED] = tiny_cfg(ROOT / "configs/vla0.yaml", MODEL__INIT="random", MODEL__VOCAB_CUT=512, **few)
    return found


def main(folder):
    torch.set_num_threads(1)
    results = {}
    todo = {name: (mistakes, name) for name in MISTAKES}
    todo |= {name: (scenario, cfg) for name, cfg in cases(folder).items()}
    for name, (function, given) in todo.items():
        fake, error = Fake(), None
        try:
            function(fake, given)
        except Exception:
            error = traceback.format_exc()
        watch = fake.watch
        results[name] = {"error": error, "moved": watch.moved, "waits": watch.waits, "odd": watch.odd}
    print(json.dumps(results, default=sorted))


if __name__ == "__main__":
    main(sys.argv[1])
