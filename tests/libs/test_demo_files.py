"""Finding demonstration files: every one below a folder, once, whatever links lead to it."""

import pytest

from libs.demo_hdf5 import DemoFile, demo_files
from libs.demo_hdf5.opening import Unreadable


def test_files_of_a_folder_but_for_hidden_ones(tmp_path):
    """A hidden folder above the one that is asked for hides nothing."""
    folder = tmp_path / ".cache" / "suite"
    for name in ("b.hdf5", "a/c.hdf5", ".parts/0.hdf5", "a/.parts/d/0.hdf5", "b.hdf5.tmp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert demo_files(folder) == [folder / "a/c.hdf5", folder / "b.hdf5"]
    assert demo_files(str(folder / "b.hdf5")) == [folder / "b.hdf5"]
    with pytest.raises(ValueError, match=r"\.parts holds no \*\.hdf5 or \*\.h5 file"):
        (folder / "a/.parts/d/0.hdf5").unlink()
        demo_files(folder / "a/.parts")
    with pytest.raises(ValueError, match="nowhere does not exist"):
        demo_files(folder / "nowhere")


def test_every_file_of_a_folder_once(tmp_path):
    data, suite = tmp_path / "data", tmp_path / "disk/suite"
    for name in ("b.hdf5", "a.H5", "deep/er/c.h5", "folder.hdf5/d.hdf5", "._b.hdf5", "e.hdf5.tmp", "f.hdf"):
        (suite / name).parent.mkdir(parents=True, exist_ok=True)
        (suite / name).touch()
    data.mkdir()
    (data / "suite").symlink_to(suite)  # a link to a folder
    (suite / "again").symlink_to(suite)  # one back to itself
    (suite / "up").symlink_to(tmp_path)  # one to what is above it
    (data / "twice").symlink_to(suite / "deep")
    (data / "b_too.hdf5").symlink_to(suite / "b.hdf5")
    below = {path.relative_to(data).as_posix() for path in demo_files(data)}
    assert below == {"b_too.hdf5", "suite/a.H5", "suite/deep/er/c.h5", "suite/folder.hdf5/d.hdf5"}
    assert demo_files(data, suite, suite / "b.hdf5") == demo_files(data)
    assert demo_files(suite / "f.hdf", suite) == [suite / "f.hdf", *demo_files(suite)]


def test_what_a_folder_has_instead_is_said(tmp_path):
    (tmp_path / "x.zip").touch()
    with pytest.raises(ValueError, match=r"holds no \*.hdf5 or \*.h5 file, but others such as x.zip: name such a file"):
        demo_files(tmp_path)
    (tmp_path / "x.zip").unlink()
    with pytest.raises(ValueError, match=r"holds no \*.hdf5 or \*.h5 file$"):
        demo_files(tmp_path)


@pytest.mark.parametrize("name", ["demo.hdf5", "suite"])
def test_a_link_to_nothing_in_a_folder_is_not_passed_over(tmp_path, name):
    link = tmp_path / "sub" / name
    link.parent.mkdir()
    link.symlink_to("/mnt/not_mounted")
    assert link in demo_files(tmp_path)
    with pytest.raises(Unreadable, match=rf"sub/{name} is a link to /mnt/not_mounted, which does not exist"):
        [DemoFile(path) for path in demo_files(tmp_path)]
