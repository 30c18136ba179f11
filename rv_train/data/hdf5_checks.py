"""What HDF5 files of demonstrations are looked at for, beside what any data is (`checks`): outlines of files alone.

`files` are lists of DemoFiles.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from libs.demo_hdf5 import DemoFile
from libs.demo_hdf5.schema import IMAGE_CONVENTIONS
from libs.demo_hdf5.task_text import benchmark_text, named_text, same_text, text_of_name
from libs.errors import BadInput
from rv_train.data.checks import text_problem

PUBLISHED = (128, 128)  # pixels of a picture in LIBERO's own files
WAY_OUT = "say what is to be done: DATA.INSTRUCTION (--instruction)"


def picture_problems(files: Sequence[DemoFile], views: Sequence[str]) -> list[str]:
    """Cameras that are missing, pictures that stand on their heads or differ between demos in size or rendering.

    The size that most demos have is what the others are held against.
    """
    found = []
    for file in files:
        expected = IMAGE_CONVENTIONS[file.key_map.upside_down]
        convention = file.attrs.get("macros_image_convention", expected)
        if convention != expected:
            found.append(
                f"{file.path}: pictures stored as {convention!r}, expected {expected!r}: they would stand on their "
                "heads"
            )
        missing = [view for view in views if view not in file.views]
        if missing:
            found.append(f"{file.path}: no camera {missing[0]}; its {file.demos[0]} has {', '.join(file.views)}")
    if found:
        return found
    renders = {file.render: file.path for file in files}
    if len(renders) > 1:
        listed = "; ".join(f"{render}: {path}" for render, path in renders.items())
        found.append(f"demos were rendered with different settings, do not mix them: {listed}")
    for view in dict.fromkeys((files[0].key_map.main_view, *views)):
        found += _size_problems(files, view)
    return found


def _size_problems(files, view):
    sizes = [(file, demo, tuple(file.picture_size(demo, view))) for file in files for demo in file.demos]
    usual, count = Counter(size for *_, size in sizes).most_common(1)[0]
    file, demo = next((file, demo) for file, demo, size in sizes if size == usual)
    others = f"{count} of {len(sizes)} demos have {_pixels(usual)} ({file.path}, {demo})"
    for file, demo, size in sizes:
        if size != usual:
            yield (
                f"{file.path}, {demo}: pictures of {view} are {_pixels(size)}, {others}: leave it out, or render all "
                "alike (tools/regenerate_libero.py --resolution)"
            )


def _pixels(size):
    return f"{size[0]} x {size[1]} pixels"


def instruction_problems(files: Sequence[DemoFile]) -> Iterator[str]:
    """Files whose language goal is missing, empty, too long or would be read as marks of the model."""
    for file in files:
        try:
            texts = file.instructions
        except BadInput as error:
            yield f"{error}; {WAY_OUT}"
            continue
        for text in texts:
            if problem := text_problem(text):
                demo = next(demo for demo in file.demos if file.instruction_of(demo) == text)
                whose = "its instruction" if len(texts) == 1 else f"the instruction of {demo}"
                yield f"{file.path}: {whose} {problem}; {WAY_OUT}"


def text_remarks(files: Sequence[DemoFile]) -> Iterator[str]:
    """Files whose name states another instruction than their content, and which of the two is used; files whose name
    alone states one; one given instruction for files that are named after several tasks."""
    yield from _given_remark(files)
    used = {"name": [], "content": []}
    named_only = []
    for file in files:
        if file.demos_state:  # no name of a file says as much
            continue
        try:
            stated = file.stated_instruction
        except BadInput:
            if not file.given_instruction:
                named_only.append(file)
            continue
        bddl, instruction = file.attrs.get("bddl_file_name"), file.instruction
        named = benchmark_text(file.path, bddl)
        if named and not same_text(named, stated) and instruction == named:
            used["name"].append(f"{file.path} is named {named!r}, states {stated!r}")
        elif not named and _may_say(file.path, bddl) and instruction == stated:
            named = text_of_name(file.path)
            if not same_text(named, stated):
                used["content"].append(f"{file.path} is named {named!r}, states {stated!r}")
    if named_only:
        more = f" (and {len(named_only) - 1} more files alike)" if len(named_only) > 1 else ""
        yield (
            f"no instruction is stated in {named_only[0].path}{more}: its name says {named_only[0].instruction!r}, "
            "which is trained with; DATA.INSTRUCTION gives another"
        )
    for which, why in (
        ("name", "LIBERO's benchmark states the name's at evaluation, so training does, too"),
        ("content", "no task of LIBERO's is called so: what the file states is used, evaluate with the same"),
    ):
        if used[which]:
            others = len(used[which]) - 1
            rest = f" (and {others} file{'s' * (others != 1)} more alike)" if others else ""
            yield f"two instructions: {used[which][0]}{rest}; {why}; DATA.INSTRUCTION gives another"


def time_remarks(files: Sequence[DemoFile]) -> Iterator[str]:
    """Files as LIBERO published them, in which a picture stands beside the action that led to it.

    What this project renders says how (`render`), and OpenVLA's re-rendered files have no attributes at all.
    """
    published = [
        file
        for file in files
        if {"bddl_file_name", "macros_image_convention"} <= set(file.attrs)
        and "render" not in file.attrs
        and file.picture_size(file.demos[0]) == PUBLISHED
    ]
    if published:
        more = f" (and {len(published) - 1} more files alike)" if len(published) > 1 else ""
        yield (
            f"{published[0].path}{more} looks as LIBERO published it: its pictures are those after each action, one "
            "step later than a policy is asked; tools/regenerate_libero.py renders those before"
        )


def _given_remark(files: Sequence[DemoFile]) -> Iterator[str]:
    """One instruction that was given for files whose names, but for numbers, are several."""
    given = files[0].given_instruction
    names = dict.fromkeys(re.sub(r"\d+", "", text_of_name(file.path)).strip() for file in files)
    if given and len(names) > 1:
        listed = ", ".join(file.path.name for file in files[:2])
        yield (
            f"one instruction, {given!r}, is given for {len(files)} files of {len(names)} different names ({listed} "
            "...), and all are trained with it: are they one task? Without DATA.INSTRUCTION each has its own"
        )


def _may_say(path: Path, bddl_file_name: object) -> bool:
    """Whether the name of a file may be an instruction: LIBERO's way, NAME_demo.hdf5, and a task of BDDL."""
    if not isinstance(bddl_file_name, str) or not bddl_file_name.endswith(".bddl"):
        return False
    return bool(named_text(path, bddl_file_name))
