"""Demonstration files as people have them: locked, linked, packed by unknown filters, not HDF5 at all."""

import errno
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from libs.demo_hdf5 import DemoFile, demo_files, merge_files, verify_demo_file
from libs.demo_hdf5.layout import find_key_map, key_problems
from libs.demo_hdf5.opening import Unreadable, open_file
from tests.demo_files import pack_by_filter, write_synthetic_demo_file
from tests.tiny import ROOT

T, SIDE = 6, 32
PICTURES = "data/demo_1/obs/agentview_rgb"
MADE_UP = 510  # no filter has this number


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "demo.hdf5"
    write_synthetic_demo_file(path, 2, T, SIDE, seed=0)
    return path


@pytest.fixture
def elsewhere(tmp_path):
    """Another file of demos, in another folder."""
    path = tmp_path / "pictures/whole.hdf5"
    write_synthetic_demo_file(path, 2, T, SIDE, seed=5)
    return path


def held(path, how):
    """A process that has the file open for writing until its input ends. how: "r+", or "swmr"."""
    code = (
        "import sys, h5py\n"
        "swmr = sys.argv[2] == 'swmr'\n"
        "file = h5py.File(sys.argv[1], 'w' if swmr else 'r+', libver='latest' if swmr else None)\n"
        "if swmr:\n"
        "    file.swmr_mode = True\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, path, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "\n"
    return holder


def test_a_file_that_another_program_holds_is_locked(path):
    file = DemoFile(path)
    file.close()
    changed = path.stat().st_mtime_ns
    with held(path, "r+") as holder:
        os.utime(path, ns=(changed, changed))  # opening it for writing is a change already
        for read in (DemoFile, find_key_map, open_file):
            with pytest.raises(Unreadable, match=r"demo\.hdf5 cannot be opened: locked, another .*FILE_LOCKING"):
                read(path)
        with pytest.raises(Unreadable, match="locked"):  # as a loader process, which opens it anew
            file.frame("demo_0", 0, "agentview")
        code = f"from libs.demo_hdf5 import DemoFile; print(DemoFile({str(path)!r}).demos)"
        env = {**os.environ, "PYTHONPATH": str(ROOT), "HDF5_USE_FILE_LOCKING": "FALSE"}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert done.stdout == "['demo_0', 'demo_1']\n"  # the way out that the message names
        with pytest.raises(Unreadable, match="locked"):
            open_file(path, "w")
        holder.stdin.close()


def test_a_file_that_is_written_for_readers_or_whose_writer_died(path):
    with held(path, "swmr") as holder:
        with pytest.raises(
            Unreadable, match=r"cannot be opened: it is being written, or its writer died; .*h5clear -s"
        ):
            DemoFile(path)
        holder.kill()
    with pytest.raises(Unreadable, match="its writer died"):
        DemoFile(path)


OPENING = {  # as HDF5 says it where files lie on such disks
    errno.ENOLCK: ("unable to lock file, errno = 37", "No locks available.*has no locks: set HDF5_USE_FILE_LOCKING=F"),
    errno.EOPNOTSUPP: ("unable to lock file, errno = 95", "has no locks: set HDF5_USE_FILE_LOCKING=FALSE"),
    errno.EACCES: ("unable to open file, errno = 13", "Permission denied: ask its owner"),
    errno.ESTALE: ("unable to open file, errno = 116", "Stale file handle: .*mount the network disk again"),
    errno.EMFILE: ("unable to open file, errno = 24", r"too many files are open: raise the limit \(ulimit -n\)"),
}


@pytest.mark.parametrize("number", OPENING)
def test_what_disks_answer_is_named_with_the_way_out(path, number, monkeypatch):
    text, message = OPENING[number]

    def refuse(*args):
        raise OSError(number, f"Unable to synchronously open file ({text})")

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(Unreadable, match=rf"demo\.hdf5 cannot be opened: .*{message}"):
        open_file(path)


def test_a_failing_disk_is_no_bad_input(path, monkeypatch):
    def fail(*args):
        raise OSError(errno.EIO, "Unable to synchronously open file (file read failed)")

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(OSError, match="file read failed"):
        open_file(path)


def as_another_user(call, path):
    """The last line of what `call` of the path says; root, who may read everything, becomes somebody else before."""
    code = (
        "import os, sys\n"
        "from libs.demo_hdf5 import DemoFile, demo_files\n"
        "if os.geteuid() == 0:\n"
        "    os.seteuid(65534)\n"
        f"{call}(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True)
    return done.stderr.splitlines()[-1]


def test_what_only_somebody_else_may_read_is_named():
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others
        folder = Path(place)
        folder.chmod(0o755)
        path, closed = folder / "demo.hdf5", folder / "closed"
        write_synthetic_demo_file(path, 1, T, SIDE, seed=0)
        closed.mkdir()
        path.chmod(0)
        closed.chmod(0)
        said = [as_another_user("DemoFile", path), as_another_user("demo_files", folder)]
        said.append(as_another_user("DemoFile", closed / "demo.hdf5"))
        closed.chmod(0o755)
        assert f"demo file {path} cannot be opened: Permission denied: ask its owner" in said[0]
        assert f"folder {closed} cannot be read: Permission denied" in said[1]
        assert f"demo file {closed / 'demo.hdf5'} cannot be reached: you may not look into its folder" in said[2]


OTHERS = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n": "a pointer of Git LFS.*git lfs pull",
    b"/annex/objects/SHA256E-s12345--4d7a.hdf5\n": "git annex get",
    b"PK\x03\x04rest": "not HDF5 but a zip archive: unpack it",
    b"\x1f\x8b\x08rest": "packed with gzip: unpack it",
    b"demo.hdf5".ljust(257, b"\0") + b"ustar\x0000": "a tar archive: unpack it",
    b"<!DOCTYPE html><html>": "a web page, not the data",
    b"\x80\x04\x95pickle": r"not HDF5, it begins with b'\\x80\\x04\\x95pickle'",
    b"": r"truncated, it is empty \(0 bytes\): a copy or download that was cut off",
}


@pytest.mark.parametrize("content", OTHERS, ids=range(len(OTHERS)))
def test_what_is_not_hdf5_is_named_for_what_it_is(path, content):
    path.write_bytes(content)
    for read in (DemoFile, find_key_map):
        with pytest.raises(Unreadable, match=rf"demo\.hdf5 cannot be opened: .*{OTHERS[content]}"):
            read(path)


def test_how_much_of_a_truncated_file_is_there(path):
    whole = path.stat().st_size
    os.truncate(path, 3000)
    with pytest.raises(Unreadable, match=f"truncated, 3,000 of {whole:,} bytes are there: .*get it again"):
        DemoFile(path)


def test_what_is_no_file_is_named(tmp_path):
    names = ("gone", "link", "loop", "folder", "pipe", "socket")
    gone, link, loop, folder, pipe, server = (tmp_path / f"{name}.hdf5" for name in names)
    link.symlink_to("/mnt/old/demo.hdf5")
    loop.symlink_to(loop)
    folder.mkdir()
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(server))
    messages = {
        gone: "does not exist",
        gone / "demo.hdf5": "does not exist",
        link: "is a link to /mnt/old/demo.hdf5, which does not exist",
        loop: "is a link that leads back to itself",
        folder: "is a folder, not a file",
        pipe: "is no ordinary file: a pipe, a socket or a device",
        server: "is no ordinary file",
    }
    for path, message in messages.items():
        with pytest.raises(Unreadable, match=rf"{path} {message}"):
            DemoFile(path)
        if path != folder:
            with pytest.raises(Unreadable, match=rf"^{path} {message}"):
                demo_files(path)


def linked(path, key, link):
    with h5py.File(path, "r+") as file:
        if key in file:
            del file[key]
        file[key] = link


@pytest.mark.parametrize("key", ["data/demo_1", PICTURES, "data/demo_1/actions", "data/demo_1/obs", "data", "mask"])
@pytest.mark.parametrize(
    ("link", "message"),
    [
        (h5py.SoftLink("/nothing/there"), "is a link to /nothing/there, where there is nothing"),
        (
            h5py.ExternalLink("gone.hdf5", "/x"),
            r"is a link to /x in another file: demo file \S*/gone\.hdf5 does not exist",
        ),
        (
            h5py.ExternalLink("pictures/whole.hdf5", "/no"),
            r"is a link to /no in \S*/pictures/whole\.hdf5, where there is nothing",
        ),
        (
            h5py.ExternalLink("pictures/cut.hdf5", "/x"),
            r"is a link to /x in another file: demo file \S*/cut\.hdf5 cannot be opened: truncated",
        ),
    ],
    ids=["soft", "missing file", "missing name", "truncated file"],
)
def test_a_link_that_leads_nowhere_is_named(path, elsewhere, key, link, message):
    elsewhere.with_name("cut.hdf5").write_bytes(elsewhere.read_bytes()[:3000])
    linked(path, key, link)
    with pytest.raises(Unreadable, match=rf"demo\.hdf5(, demo_1)?: \S+ {message}"):
        DemoFile(path)


def test_links_that_lead_back_to_themselves_are_named(path, elsewhere):
    linked(path, "data/demo_1", h5py.SoftLink("/data/demo_1"))
    with pytest.raises(Unreadable, match=r"demo\.hdf5: data/demo_1 is a link to /data/demo_1 that leads back"):
        DemoFile(path)
    linked(path, "data/demo_1", h5py.ExternalLink("pictures/whole.hdf5", "/data/demo_1"))
    linked(elsewhere, "data/demo_1", h5py.ExternalLink("../demo.hdf5", "/data/demo_1"))
    with pytest.raises(Unreadable, match="data/demo_1 is a link to /data/demo_1 that leads back to itself"):
        DemoFile(path)


def test_a_link_into_a_locked_file_says_so(path, elsewhere):
    linked(path, PICTURES, h5py.ExternalLink("pictures/whole.hdf5", "/" + PICTURES))
    with held(elsewhere, "r+") as holder:
        with pytest.raises(Unreadable, match=r"demo_1: \S+ is a link .*whole\.hdf5 cannot be opened: locked"):
            DemoFile(path)
        holder.stdin.close()


def test_links_that_lead_somewhere_are_read_and_copied(path, elsewhere, tmp_path):
    whole, file = DemoFile(elsewhere), DemoFile(path)
    own = file.frame("demo_0", 2, "agentview")
    file.close()
    linked(path, "data/demo_1", h5py.ExternalLink("pictures/whole.hdf5", "/data/demo_1"))
    linked(path, "data/demo_0/obs", h5py.ExternalLink("pictures/whole.hdf5", "/data/demo_0/obs"))
    linked(path, "data/demo_0/actions", h5py.SoftLink("/data/demo_1/actions"))
    merged = tmp_path / "far/away/merged.hdf5"
    merge_files(merged, [path])
    for read in (path, merged):
        file = DemoFile(read)
        np.testing.assert_array_equal(file.actions("demo_0"), whole.actions("demo_1"))
        for demo in ("demo_0", "demo_1"):
            np.testing.assert_array_equal(file.frame(demo, 2, "agentview"), whole.frame(demo, 2, "agentview"))
        assert not np.array_equal(file.frame("demo_0", 2, "agentview"), own)
    elsewhere.rename(elsewhere.with_name("moved.hdf5"))
    assert DemoFile(merged).demos == ["demo_0", "demo_1"]


def test_a_link_that_breaks_while_in_use_is_named(path, elsewhere):
    linked(path, PICTURES, h5py.ExternalLink("pictures/whole.hdf5", "/" + PICTURES))
    file = DemoFile(path)
    file.close()
    elsewhere.unlink()
    with pytest.raises(Unreadable, match=r"demo_1: \S+ is a link to .* in another file: .*whole\.hdf5 does not exist"):
        file.frame("demo_1", 0, "agentview")


@pytest.mark.parametrize("name", ["file", "name", None])
def test_a_view_of_another_file_needs_that_file(path, elsewhere, name):
    """A virtual dataset: where its source is gone, HDF5 gives zeros, black pictures, without a word."""
    layout = h5py.VirtualLayout((T, SIDE, SIDE, 3), np.uint8)
    source = "/no" if name == "name" else "/" + PICTURES
    layout[:] = h5py.VirtualSource("pictures/whole.hdf5", source, (T, SIDE, SIDE, 3))
    with h5py.File(path, "r+") as file:
        del file[PICTURES]
        file.create_virtual_dataset(PICTURES, layout)
    if name is None:
        expected = DemoFile(elsewhere).frame("demo_1", 1, "agentview")
        np.testing.assert_array_equal(DemoFile(path).frame("demo_1", 1, "agentview"), expected)
        return
    if name == "file":
        elsewhere.unlink()
    message = r"whole\.hdf5 does not exist" if name == "file" else "where there is nothing of that name"
    with pytest.raises(Unreadable, match=rf"demo_1: obs/agentview_rgb is a view of \S+ in another file.*{message}"):
        DemoFile(path)


FILTERS = {32001: "Blosc", 32015: "Zstd", 32004: "LZ4", 32008: "Bitshuffle", 32026: "Blosc2", MADE_UP: "unknown"}


@pytest.mark.parametrize("number", FILTERS)
@pytest.mark.parametrize("key", ["obs/agentview_rgb", "actions"])
def test_a_filter_that_is_not_installed_is_named(path, key, number):
    if h5py.h5z.filter_avail(number):
        pytest.skip(f"filter {number} is installed")
    pack_by_filter(path, f"data/demo_1/{key}", number)
    named = rf"is packed by HDF5 filter {number} \({FILTERS[number]}\), .*pip install hdf5plugin.*h5repack"
    with pytest.raises(Unreadable, match=rf"demo\.hdf5, demo_1: {key} {named}"):
        DemoFile(path)
    (line,) = key_problems(path, find_key_map(path))
    assert line.startswith(f"{key} (") and f"filter {number} ({FILTERS[number]})" in line


def test_a_filter_on_what_is_not_needed_is_named_when_it_is(path):
    pack_by_filter(path, "data/demo_1/obs/joint_states", MADE_UP)
    file = DemoFile(path)
    assert file.proprio("demo_0", ["joint_states"]).shape == (T, 7)
    with pytest.raises(Unreadable, match=rf"demo_1: obs/joint_states is packed by HDF5 filter {MADE_UP} "):
        file.proprio("demo_1", ["joint_states"])


def test_what_installs_filters_is_loaded_before_a_file_is_opened(path, tmp_path):
    """Importing hdf5plugin is what makes its filters known; this one only says that it was."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more/hdf5plugin.py").write_text("print('loaded')")
    code = (
        "import sys\n"
        "from libs.demo_hdf5 import DemoFile\n"
        "assert 'hdf5plugin' not in sys.modules\n"
        "print(DemoFile(sys.argv[1]).demos)\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path / 'more'}"}
    done = subprocess.run([sys.executable, "-c", code, path], env=env, capture_output=True, text=True)
    assert done.stdout == "loaded\n['demo_0', 'demo_1']\n"


def test_verifying_names_what_cannot_be_read(path):
    pack_by_filter(path, "data/demo_1/obs/joint_states", MADE_UP)
    (problem,) = verify_demo_file(path)
    assert problem.startswith("demo_1: obs/joint_states cannot be read (")


def test_a_damaged_outline_is_named(path):
    """Bytes of the table of demos: HDF5 opens the file, and finds out later."""
    with h5py.File(path, "r") as file:
        address = h5py.h5o.get_info(file["data"].id).addr
    with path.open("r+b") as raw:
        raw.seek(address)
        raw.write(bytes([255]) * 64)
    for read in (DemoFile, find_key_map):
        with pytest.raises(Unreadable, match=r"demo\.hdf5.* damaged \(.*\); get (it|the file) again"):
            read(path)
