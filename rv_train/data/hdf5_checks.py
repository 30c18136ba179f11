"""What HDF5 files of demonstrations are looked at for, beside what any data is (`checks`): outlines of files alone.

`files` are lists of DemoFiles.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from libs.demo_hdf5 import DemoFile
from libs.demo_hdf5.schema import IMAGE_CONVENTIONS
from libs.demo_hdf5.task_text import benchmark_text, evaluated_with_bddl_text, same_text, text_of_name
from libs.errors import BadInput
from rv_train.data.checks import text_problem

WAY_OUT = "say what is to be done: DATA.INSTRUCTION (--instruction)"
NAME_WORDS = 3  # of a file's name that may be an instruction


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
            problem = text_problem(file.instruction)
        except BadInput as error:
            yield f"{error}; {WAY_OUT}"
        else:
            if problem:
                yield f"{file.path}: its instruction {problem}; {WAY_OUT}"


def text_remarks(files: Sequence[DemoFile]) -> Iterator[str]:
    """Files whose name states another instruction than their content, and which of the two is used."""
    used = {"name": [], "content": []}
    for file in files:
        try:
            stated = file.stated_instruction
        except BadInput:
            continue
        bddl, instruction = file.attrs.get("bddl_file_name"), file.instruction
        named = benchmark_text(file.path, bddl)
        if named and not same_text(named, stated) and instruction == named:
            used["name"].append(f"{file.path} is named {named!r}, states {stated!r}")
        elif not named and _may_say(file.path, bddl) and instruction == stated:
            named = text_of_name(file.path)
            if not same_text(named, stated):
                used["content"].append(f"{file.path} is named {named!r}, states {stated!r}")
    for which, why in (
        ("name", "LIBERO's benchmark states the name's at evaluation, so training does, too"),
        ("content", "no task of LIBERO's is called so: what the file states is used, evaluate with the same"),
    ):
        if used[which]:
            more = len(used[which]) - 1
            rest = f" (and {more} file{'s' * (more != 1)} more alike)" if more else ""
            yield f"two instructions: {used[which][0]}{rest}; {why}; DATA.INSTRUCTION gives another"


def _may_say(path: Path, bddl_file_name: object) -> bool:
    """Whether the name of a file may be an instruction: LIBERO's way, NAME_demo.hdf5, and a task of BDDL."""
    if not isinstance(bddl_file_name, str) or not bddl_file_name.endswith(".bddl"):
        return False
    named = path.stem.endswith("_demo") and len(text_of_name(path).split()) >= NAME_WORDS
    return named and not evaluated_with_bddl_text(bddl_file_name)
