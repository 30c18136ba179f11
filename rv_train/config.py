"""The config tree: every key of the project with its default, its unit and why one would change it.

`load_cfg("configs/vla0.yaml", ["TRAIN.lr", "1e-5"])` gives the frozen tree. What a run used is stored whole in its
folder and travels with the model, so evaluation never asks for a config file. Upper-case keys say what is learned
(data, pictures, prompt, model), lower-case keys how it is trained.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from libs.config_tree import get_leaf, leaves, merge
from libs.files import read_yaml
from rv_train.backbones import DEFAULT, FAMILIES, family_named, type_of_weights
from rv_train.config_checks import check, check_values

_C = CfgNode()

# ------------------------------------------------------------------------------------------------ experiment
_C.EXP = CfgNode()
_C.EXP.ID = "vla0"  # name of the run: its folder is EXP.DIR/EXP.ID
_C.EXP.DIR = "checkpoints"  # where run folders live
_C.EXP.SEED = 0  # every generator of a run derives from it

# ------------------------------------------------------------------------------------------------ data
_C.DATA = CfgNode()
# hdf5:     demonstration files
# manifest: manifest.jsonl, a JSON line per sample with its pictures beside (tools/build_manifest.py, or anybody's)
# lerobot:  LeRobot data sets of versions 2.0, 2.1 and 3.0, see docs/your_data.md
# mix:      several of these, as often as MIX says
_C.DATA.SOURCE = "hdf5"
# hdf5: demo files or folders of them, searched for *.hdf5 and *.h5; several suites may be mixed
# manifest: manifests or folders that hold a manifest.jsonl
# lerobot: sets, folders that hold some, or names on the Hugging Face hub (OWNER/NAME@REVISION); several sets are joined
# one after another
# mix: nothing, or in place of MIX one recipe whose DATA.MIX it is
_C.DATA.FILES = []
# mix: the sets, a list of {FILES: [...], WEIGHT: 2, ...}. Of two sets of weights 2 and 1, whatever their sizes, two of
# three samples are of the first; without weights (all or none) every frame is drawn as often as any other. A set may
# have a SOURCE (default: what its files look like), KEY_MAP, ACTION and INSTRUCTION of its own, those of DATA else; a
# NAME, for summaries; and RENAME: {a name of VIEWS or PROPRIO: what this set calls it}. See docs/your_data.md
_C.DATA.MIX = []
_C.DATA.MAX_DEMOS = 0  # use only the first so many demos: for a look, or to see them learned by heart; 0: all
_C.DATA.SKIP_BAD = False  # train without the lines of a manifest that cannot be used, instead of refusing it
# hdf5: where the files keep pictures, robot states, actions and instruction: a name (libero, robomimic, isaac_cosmos,
# aloha) or the path of a JSON file, see libs/demo_hdf5/key_map.py. tools/inspect_demos.py says which one fits a file.
_C.DATA.KEY_MAP = "libero"
_C.DATA.VIEWS = [
    "agentview",
    "eye_in_hand",
]  # cameras, by the data's names, in the order the model sees them
# Parts of the robot's state that the model is given, names of the key map or set in the order of its input. vla0 reads
# them as integers 0..NUM_BINS over the range of the data, behind the instruction (VLA-0 is given none: it sees pictures
# only); flow_expert as numbers of mean 0 and deviation 1.
_C.DATA.PROPRIO = []
_C.DATA.ACTION = "action"  # lerobot: which of the set's numbers are the actions; the others can be parts of the state
# lerobot: folder of the frame cache. Each picture is decoded once, before the first step, and kept as it is: frames of
# videos read at random are slow. "beside": NAME.frames beside each set; a path: there. "": none, pictures are read
# through, which does for a first look (--sanity_forward and --dry_run make none).
_C.DATA.CACHE = ""
_C.DATA.CACHE_JPEG = 0  # quality of the cache's pictures as JPEG, 1 to 100: about a third of the space; 0: lossless
# The language goal of every demo, in place of what the files state. "": what they state, or of HDF5 files their demos;
# of files named after LIBERO's tasks what the name says, because LIBERO's benchmark states that at evaluation, and of
# those that state nothing what a name like wipe_the_table_clean_demo.hdf5 says.
_C.DATA.INSTRUCTION = ""
# File of other wordings of the instructions, see docs/wordings.md: in training every sample is asked in one of them, or
# in its own, drawn anew each time it is seen. Validation asks in its own. "": none. configs/wordings has LIBERO's.
_C.DATA.INSTRUCTIONS = ""
# full:    every rank sees the whole set each epoch, shuffled on its own (upstream: 24 epochs on 8 GPUs are 192 passes)
# sharded: the ranks share one pass over the set each epoch (the common DistributedSampler behaviour)
# The two agree: 24 epochs of "full" on 8 GPUs and 192 epochs of "sharded" are the same number of passes and of steps.
# "full" ties the length of a run to the number of GPUs; "sharded" keeps it, and lr must then not be scaled, either.
_C.DATA.SAMPLER = "full"
# Loader processes per rank; 0 loads in the training process. A frame cache is made by those of all ranks, where there
# are as many cores.
_C.DATA.NUM_WORKERS = 4
# action_stats.json written by tools/compute_stats.py; empty: computed from DATA.FILES when a run starts. Actions
# outside a given range are counted in the run's summary; as text they are clipped. A manifest's lie beside it; of one
# that has none, the file that its integers were written with (.npz with action_mins and action_maxs, or JSON).
_C.DATA.STATS = ""
# Share of each file's demos held out for validation (whole demos: neighbouring frames are nearly equal); files of one
# demo each and the same instruction are one for this. A file with lists mask/train and mask/valid (robomimic) is split
# by them. 0: train on every demo, as upstream does. A manifest whose lines do not name their demo is held out in blocks
# of neighbouring lines, up to 200, of each instruction.
_C.DATA.VAL_SHARE = 0.0
# fast:      ids are looked up and spliced, patches cut on the model's device
# reference: chat template, qwen-vl-utils and the library's processor for every sample, about four times slower: the
#            same ids, and pixels within 1e-6; to convince yourself, or to try what only they can do. Needs torchvision.
_C.DATA.PREPROCESS = "fast"

# ------------------------------------------------------------------------------------------------ pictures
_C.IMAGE = CfgNode()
# One view as the model sees it, pixels: a side, or [height, width]; of Qwen2.5-VL multiples of 28 (14-pixel patches
# merged 2 x 2), of Qwen3-VL and Qwen3.5 of 32, of SmolVLM2 512 or a smaller multiple of 64. All views get this size,
# whatever their cameras' are. Of the family
_C.IMAGE.SIZE = 224
# What becomes of a frame that has another shape than IMAGE.SIZE, in training, evaluation and behind a server alike:
# crop:    the middle of it that has the shape is taken, undistorted and as large as can be; what lies beside it, left
#          and right of a wide frame, is never seen
# pad:     all of it, undistorted, as large as fits, between black bars of equal width
# stretch: all of it, without bars: height and width are scaled by different factors, so that a circle becomes an
#          ellipse and equal distances look different across and down. Harmless where every frame is of one shape
# A frame that has the shape is left alone by all three. IMAGE.CROP is then a share of what is taken, not of the bars.
_C.IMAGE.FIT = "crop"
# True: the views side by side in one picture; False: one picture per view, as SmolVLM2 needs, which sees squares only
_C.IMAGE.TILE = True
_C.IMAGE.CROP = 0.875  # sides of the crop as a share of the frame's: random place in training, centre in evaluation
# Colour jitter in training, per sample: factors uniform in 1 +- value; hue shift uniform in +- value turns
_C.IMAGE.BRIGHTNESS = 0.2
_C.IMAGE.CONTRAST = 0.2
_C.IMAGE.SATURATION = 0.2
_C.IMAGE.HUE = 0.05

# ------------------------------------------------------------------------------------------------ actions as text
_C.ACTION = CfgNode()
_C.ACTION.DIM = 7  # numbers per action, as the data hold it (LIBERO: 3 position, 3 rotation, gripper)
_C.ACTION.HORIZON = 8  # actions predicted at once (the chunk)
_C.ACTION.NUM_BINS = 1000  # an action is written as an integer 0..NUM_BINS between the ends of ACTION.RANGE
# What the integers are spread over, dimension by dimension. What lies outside is clipped, and counted at the start.
# min_max: the data's smallest and largest value (VLA-0)
# q01_q99: the quantiles that leave out 1 % on either side: a few wild values do not take the bins from all others. But
#          what the robot does seldom lies there, too. For text; of a flow policy FLOW.NORMALIZE says what is used.
_C.ACTION.RANGE = "min_max"
# absolute: actions are written as they are recorded
# delta:    some of their numbers, DELTA, as the difference to where the robot is: for data whose actions are goals, of
#           joints or of a hand. Who asks the policy gets goals back, and must send the robot's state.
# Everything below, ACTION.RANGE included, is then about what is written. Both keys: docs/your_data.md
_C.ACTION.MODE = "absolute"
_C.ACTION.DELTA = []  # the numbers of an action that are differences, counted from 0: [0, 1, 2, 3, 4, 5]
# What of DATA.PROPRIO says where the robot is, a number for each of DELTA, in its order: parts, or some of their
# numbers: ["joint_pos"], ["observation.state[0:6]"], ["ee_pos", "ee_ori[2]"]
_C.ACTION.STATE = []
# state:  all actions of a chunk as differences to the state at its start: no error adds up
# action: each to the action before, the first to the state: smaller numbers and a finer range, and errors add up
_C.ACTION.DELTA_TO = "state"
# Rotations, which jump or cannot be subtracted as they are recorded, in another form. Differences of rotations (DELTA
# names all their numbers) are rotations: about the axes of the frame that the data's are in.
_C.ACTION.ROTATION = CfgNode()
_C.ACTION.ROTATION.DIMS = []  # where they begin in an action: [3], of two arms [3, 10]; []: there are none
# axis_angle | quaternion_xyzw | quaternion_wxyz | 6d_columns | 6d_rows | euler_xyz, or any order of three axes: lower
# case about fixed axes (roll, pitch, yaw of URDF are euler_xyz), upper case about turned ones. What each is in numbers:
# libs/action_form/rotation.py. RECORDED: in the data, state and actions alike
_C.ACTION.ROTATION.RECORDED = "axis_angle"
# What the model writes. 6d_columns (six numbers, no jumps) suits whole rotations, axis_angle small differences
_C.ACTION.ROTATION.WRITTEN = "axis_angle"
# Hiding digits in training, so that the model looks at the picture instead of copying the numbers before:
_C.ACTION.MASK_MIN = 0.0  # per sample a share drawn uniformly from MASK_MIN..MASK_MAX of the digits is hidden
_C.ACTION.MASK_MAX = 0.4  # MASK_MIN 0.3, MASK_MAX 0.3, MASK_NONE 0 is "each digit with probability 0.3"
_C.ACTION.MASK_NONE = 0.1  # share of the samples left untouched
_C.ACTION.MASK_CHAR = "?"  # stands where a digit is hidden; one character, neither digit nor space
# dropped: nothing is learned at a hidden digit (VLA-0)
# learned: the model learns to write MASK_CHAR there. Decoding never does, it knows digits only; but val/loss, measured
#          without masks, is higher by the probability that the model keeps for the character (0.36 nats at 0.3).
_C.ACTION.MASK_STYLE = "dropped"

# ------------------------------------------------------------------------------------------------ prompt
_C.PROMPT = CfgNode()
# The system turn; {horizon} {action_dim} {num_values} {num_bins} are filled in. Empty: no system turn at all.
_C.PROMPT.SYSTEM = (
    "Analyze the input image and predict robot actions for the next {horizon} timesteps. Each action has {action_dim} "
    "dimensions. Output a single sequence of {num_values} integers (0-{num_bins} each), representing the {horizon} "
    "timesteps sequentially. Provide only space separated numbers. Nothing else."
)
_C.PROMPT.VISION_ID = True  # write "Picture 1: " before each picture, as Qwen's chat templates can, SmolVLM2's cannot

# ------------------------------------------------------------------------------------------------ model
_C.MODEL = CfgNode()
# vla0:        actions are written as text
# flow_expert: a small transformer behind the same backbone generates them from noise (FLOW)
_C.MODEL.NAME = "vla0"
# The family of the vision-language model, one of rv_train/backbones. Pretrained weights on this machine say it
# themselves where this is not set, and must agree where it is. The keys marked "of the family" have its defaults.
_C.MODEL.BACKBONE = "qwen2_5_vl"
_C.MODEL.INIT = "pretrained"  # pretrained: the weights at MODEL.PATH; random: sizes below, trained from scratch
# Local folder or hub name of the weights (INIT: pretrained), or a run: its last step as training begins. Of the family.
_C.MODEL.PATH = ""
_C.MODEL.ATTENTION = "sdpa"  # sdpa | eager | flash_attention_2 (needs the flash-attn package and a GPU)
# The family's vocabulary, which lies beside its code (qwen2.5, qwen3, smollm2; pretrained weights whose folder holds a
# tokenizer bring theirs instead); or a folder with a saved tokenizer. Of the family.
_C.MODEL.TOKENIZER = ""
# Keep only the first N entries of the vocabulary (BPE ranks), 0 keeps all. The first N ranks of a BPE vocabulary are
# a BPE vocabulary themselves with the same ids; a tiny model does not need 151,936 embeddings. At least 256.
_C.MODEL.VOCAB_CUT = 0
# The weights at MODEL.PATH stay as they are (AMP.frozen_dtype), and checkpoints do not hold them. For flow_expert,
# which has others to train; MODEL.LORA does the same by itself.
_C.MODEL.FREEZE = False
# nf4: the frozen weights of the text tower's linear layers in 4 bits (bitsandbytes; QLoRA, arXiv:2305.14314), 0.52 byte
# each, multiplied in AMP.frozen_dtype. Needs MODEL.LORA or MODEL.FREEZE. Saves memory and costs time and some accuracy.
_C.MODEL.QUANTIZE = "none"
# LoRA: the weights at MODEL.PATH stay as they are (AMP.frozen_dtype), small matrices beside the linear layers are
# trained, and checkpoints hold only these. tools/merge_lora.py makes an ordinary model of both. Needs the package peft.
_C.MODEL.LORA = CfgNode()
_C.MODEL.LORA.RANK = 0  # 0: no LoRA, every weight is trained
_C.MODEL.LORA.ALPHA = 64  # what the matrices add is multiplied by ALPHA / RANK
_C.MODEL.LORA.DROPOUT = 0.05  # of their inputs, in training
_C.MODEL.LORA.TARGETS = []  # names of linear layers; of the family: all that the towers' layers have
_C.MODEL.LORA.VISION = False  # also the layers of these names in the vision tower
# Sizes for INIT: random (how pictures are cut, where there are keys for it, is that of the weights). Which keys there
# are, and the defaults, is the family's of MODEL.BACKBONE (`sizes.py` in its folder under rv_train/backbones): a key
# that it does not have is unknown.
_C.MODEL.TEXT = CfgNode()
_C.MODEL.VISION = CfgNode()

# ------------------------------------------------------------------------------------------------ flow matching
_C.FLOW = CfgNode()  # the action expert of MODEL.NAME flow_expert
# last: the hidden state behind the prompt | all: every token of the prompt, pictures and words
_C.FLOW.CONDITION = "all"
_C.FLOW.PROJECTOR = 1344  # width between the two layers that bring the condition to HIDDEN
_C.FLOW.HIDDEN = 512  # width of the expert
# Of the expert, whose ACTION.HORIZON queries look at condition and robot state; once per observation
_C.FLOW.LAYERS = 6
_C.FLOW.HEADS = 8  # of attention, in expert and head
_C.FLOW.MLP = 2048  # width inside a layer
_C.FLOW.HEAD_LAYERS = 2  # of the velocity head, which runs at every step of the solver and sees the whole chunk
# What actions are brought to: min_max of the data to -1..1 | mean_std to mean 0 and deviation 1. Robot state: mean_std.
_C.FLOW.NORMALIZE = "min_max"
# Share of the training samples that are not told the robot's state (they get its mean). A model that is told where its
# hand is learns to do without pictures first, and from scratch may never come to look at them.
_C.FLOW.PROPRIO_DROPOUT = 0.0
# Draws of noise and time per sample and pass: the backbone's work is shared by all of them
_C.FLOW.DRAWS = 4
_C.FLOW.TIMES = "uniform"  # how times are drawn: uniform | beta (more of the noisy ones, as in pi0)
_C.FLOW.SOLVER = "euler"  # euler | heun (two looks per step)
_C.FLOW.STEPS = 100  # of the solver, from noise to actions

# ------------------------------------------------------------------------------------------------ training
_C.TRAIN = CfgNode()
_C.TRAIN.batch_size = 8  # samples per rank and forward pass
_C.TRAIN.grad_accum = 1  # forward passes per optimizer step
_C.TRAIN.epochs = 24  # passes over the set (what one pass is: DATA.SAMPLER)
# Optimizer steps to train for; 0: from epochs. A cosine schedule follows it: a run resumed with more steps goes on at
# the rate that the longer run would have there, which is higher than where the shorter one ended.
_C.TRAIN.max_steps = 0
_C.TRAIN.lr = 5.0e-6  # learning rate per rank, see scale_lr
_C.TRAIN.scale_lr = True  # multiply lr by the number of ranks (upstream: 5e-6 x 8 GPUs = 4e-5)
_C.TRAIN.schedule = "none"  # none: constant after warm-up | cosine: to lr_end over the run
_C.TRAIN.warmup = 0.0  # linear warm-up: share of all steps if below 1, else number of steps
_C.TRAIN.lr_end = 0.0  # cosine ends at lr x lr_end
# adamw | adam | adamw_8bit (bitsandbytes: states in 8 bits, 2 instead of 8 bytes per parameter)
_C.TRAIN.optimizer = "adamw"
_C.TRAIN.betas = [0.9, 0.999]
_C.TRAIN.weight_decay = 1.0e-10  # on every parameter, decoupled with adamw (upstream's value: practically none)
_C.TRAIN.clip_grad = 0.0  # largest gradient norm; 0: no clipping, the norm is still measured
# How the ranks share the work, see docs/sharding.md:
# ddp:   every rank holds weights, gradients and optimizer states whole
# zero1: the optimizer states and the moving average are shared out; the numbers of ddp, to the bit
# fsdp:  weights and gradients, too: several GPUs train what does not fit one
_C.TRAIN.PARALLEL = "ddp"
_C.TRAIN.grad_checkpoint = True  # recompute activations in the backward pass: less memory, about a third slower
# Decay per step of an exponential moving average of the weights, 0: none. With one, checkpoints' `model/`, validation
# and so evaluation hold the average. 0.999 averages over about 1,000 steps. Costs a float32 copy of the weights, and
# another copy while it validates or saves.
_C.TRAIN.ema = 0.0
# True: only kernels whose results repeat to the bit, so that a resumed run equals an uninterrupted one on a GPU, too,
# where some backward passes (attention's) else add up in the order in which they come. Slower there, see docs/gpu.md.
_C.TRAIN.deterministic = False
_C.TRAIN.compile = False  # torch.compile of the forward and backward pass: minutes at the start, faster steps on a GPU
# A step whose loss or gradient is NaN or infinite is skipped on all ranks; this many in a row end the run, naming the
# samples. A gradient scaler (AMP.mode fp16) needs up to 16 to come down from 65536.
_C.TRAIN.max_bad_steps = 25
_C.TRAIN.peak_tflops = 0.0  # of one device at the precision in use, for MFU; 0: known GPUs by name, others report none
_C.TRAIN.log_every = 10  # optimizer steps between points of curves and console lines
# Where curves, texts and pictures go beside TensorBoard's file in the run folder: wandb, trackio; see docs/training.md.
_C.TRAIN.trackers = []
_C.TRAIN.save_every = 1000  # optimizer steps between checkpoints (the last step is always saved)
# Training goes on while a checkpoint is written, from a copy in host memory (as large as the checkpoint, until it is).
# False: all ranks wait until it is on the disk.
_C.TRAIN.async_save = True
# Epochs after which a checkpoint is saved, too, and kept: a link epoch_5 points to it. 0: none
_C.TRAIN.save_every_epochs = 0
_C.TRAIN.keep_last = 3  # older checkpoints are removed, except the best by val/loss and ...
_C.TRAIN.keep_every = 0  # ... those of every so many steps; 0: none
# With MODEL.LORA or MODEL.FREEZE: put the frozen weights into every checkpoint, too, so that it needs no MODEL.PATH.
# The checkpoints of a run share their space on disk.
_C.TRAIN.save_base = False

# ------------------------------------------------------------------------------------------------ validation
_C.VALID = CfgNode()  # on the demos that DATA.VAL_SHARE holds out
_C.VALID.loss_every = 1.0  # epochs between measurements of val/loss, fractions allowed; always at the end
_C.VALID.loss_batches = 50  # batches over all ranks, spread over the held-out set; 0: the whole set
_C.VALID.gen_every = 5.0  # epochs between measurements of generated chunks (val/mae, val/parse_rate, ...)
_C.VALID.gen_samples = 30  # held-out samples to answer, over all ranks

# ------------------------------------------------------------------------------------------------ evaluation
_C.EVAL = CfgNode()  # how predicted chunks are executed; it travels with the checkpoint, evaluations ask it
_C.EVAL.ACTION_HORIZON = 0  # actions executed per query; 0: all that are predicted
_C.EVAL.ENSEMBLE_PREDICTION = 1  # overlapping chunks that are averaged, the newest included; 1: none
_C.EVAL.ENSEMBLE_VERSION = 1  # 1: all older chunks weigh the same | 2: they fade with their age
_C.EVAL.ENSEMBLE_WEIGHT = 0.5  # version 1: of every older chunk (1: the plain mean); version 2: to the power of its age

# ------------------------------------------------------------------------------------------------ precision
_C.AMP = CfgNode()
# off | bf16 (autocast) | fp16 (autocast + gradient scaler) | auto: bf16 where the device is fast at it, else off
_C.AMP.mode = "bf16"
# Of what is trained. float32: master weights | bfloat16: everything in bf16, half the memory
_C.AMP.param_dtype = "float32"
# Of what is not trained, with MODEL.LORA or MODEL.FREEZE: float32 | bfloat16. The published weights are bfloat16
# numbers, so nothing is lost there; what flows between the layers is bfloat16 then, too.
_C.AMP.frozen_dtype = "float32"

SECTIONS = tuple(_C)  # what every KEY begins with
_LIST_ITEMS = {
    "DATA.FILES": str,
    "DATA.MIX": dict,
    "DATA.VIEWS": str,
    "DATA.PROPRIO": str,
    "IMAGE.SIZE": int,
    "ACTION.DELTA": int,
    "ACTION.STATE": str,
    "ACTION.ROTATION.DIMS": int,
    "TRAIN.betas": float,
    "TRAIN.trackers": str,
}


def load_cfg(path: Path | str, opts: Sequence[Any] = ()) -> CfgNode:
    """Read a recipe over the defaults and command-line pairs over the recipe.

    Args:
        path: YAML file.
        opts: flat list `[KEY, VALUE, KEY, VALUE, ...]`, values as text or as Python values.

    Returns:
        the frozen tree.

    Raises:
        BadInput: missing or broken file, unknown key, value of the wrong type or outside its choices.
    """
    return _merged(read_yaml(path) or {}, opts, origin=str(path))


def cfg_from_dict(tree: object, origin: str, opts: Sequence[Any] = ()) -> CfgNode:
    """The frozen tree from a nested dict, such as the one stored with a checkpoint; `opts` over it as in `load_cfg`."""
    return _merged(tree, opts, origin)


def data_cfg(tree: object, origin: str, opts: Sequence[Any] = ()) -> CfgNode:
    """The frozen tree for what only reads demonstrations: DATA and ACTION from a nested dict, `opts` over it.

    BadInput: an unknown key, a value of the wrong type or outside its choices; what a policy would not take is none of
    its business.
    """
    cfg = merge(_C, tree, opts, origin, _LIST_ITEMS)
    check_values(cfg, origin)
    cfg.freeze()
    return cfg


def _merged(tree, opts, origin):
    family = family_named(_backbone(tree, opts))
    items = {key: type(value[0]) for key, value in leaves(family.defaults) if isinstance(value, list)}
    cfg = merge(_tree_of(family), tree, opts, origin, _LIST_ITEMS | items)
    check(cfg, origin)
    cfg.freeze()
    return cfg


def _tree_of(family):
    """The tree with the defaults of a family."""
    base = _C.clone()
    base.MODEL.BACKBONE = family.name
    for key, value in family.defaults.items():
        node, _, leaf = key.rpartition(".")
        assert leaf in get_leaf(base, node), f"`defaults` of {family.name} names {key}, which is no config key"
        get_leaf(base, node)[leaf] = CfgNode(value) if isinstance(value, dict) else value
    return base


def _backbone(tree, opts):
    """The name of the family that a recipe and pairs mean: as they say, or as the weights that they name."""
    model = tree.get("MODEL") if isinstance(tree, dict) else None
    said = dict(model) if isinstance(model, dict) else {}
    said |= {key.removeprefix("MODEL."): value for key, value in zip(opts[::2], opts[1::2], strict=False)}
    if said.get("INIT") != "random" and "BACKBONE" not in said and isinstance(said.get("PATH"), str):
        return type_of_weights(said["PATH"]) or DEFAULT
    named = said.get("BACKBONE", DEFAULT)
    return named if named in FAMILIES else DEFAULT  # what is none is refused with the other choices
