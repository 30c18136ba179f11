"""How a command line ends."""

import errno
import os
import subprocess
import sys

import pytest

from libs.cli import EXTRAS, TRACEBACK, cli_errors
from libs.errors import BadInput
from libs.files import (
    check_new_file,
    check_new_folder,
    kind_of,
    make_folder,
    named_path,
    read_json,
    read_text,
    read_yaml,
)
from tests.tiny import ROOT


def end(error, capsys):
    """(exit code, stderr) of a command whose main raises `error`."""

    def main():
        raise error

    with pytest.raises(SystemExit) as raised:
        cli_errors(main)()
    return raised.value.code, capsys.readouterr().err


def test_bad_input_is_one_line(capsys):
    assert end(BadInput("a.hdf5, demo_3:\n  no actions"), capsys) == (2, "error: a.hdf5, demo_3: no actions\n")


def test_the_traceback_of_bad_input_and_of_what_a_tool_says_itself(capsys, monkeypatch):
    monkeypatch.setenv(TRACEBACK, "1")
    code, err = end(BadInput("no actions"), capsys)
    assert code == 2 and "in main\n" in err
    assert err.splitlines()[-2:] == ["libs.errors.BadInput: no actions", "error: no actions"]

    def main():
        try:
            raise RuntimeError("it crashed")
        except RuntimeError as error:
            raise SystemExit(1) from error

    with pytest.raises(SystemExit) as raised:
        cli_errors(main)()
    assert raised.value.code == 1 and "RuntimeError: it crashed" in capsys.readouterr().err
    monkeypatch.setenv(TRACEBACK, "0")
    assert end(BadInput("no actions"), capsys) == (2, "error: no actions\n")


@pytest.mark.parametrize("package", EXTRAS)
def test_a_missing_optional_package_says_how_to_get_it(capsys, package):
    error = ModuleNotFoundError(f"No module named {package}", name=f"{package}.parts")
    assert end(error, capsys) == (2, f"error: {package} is not installed: pip install -e '.[{EXTRAS[package]}]'\n")


def test_interrupts_are_one_line(capsys):
    assert end(KeyboardInterrupt(), capsys) == (130, "interrupted\n")
    assert end(KeyboardInterrupt("--resume continues"), capsys) == (130, "interrupted; --resume continues\n")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("of a library"),
        OSError(errno.ENOSPC, "No space left on device"),
        FileNotFoundError(errno.ENOENT, "of a library", "x"),
        ModuleNotFoundError("No module named torch", name="torch"),
        BrokenPipeError(errno.EPIPE, "of a socket"),
        KeyError("x"),
    ],
)
def test_everything_else_comes_out_as_it_is(error):
    def main():
        raise error

    with pytest.raises(type(error)) as raised:
        cli_errors(main)()
    assert raised.value is error


@pytest.mark.parametrize("count", [1, 100_000])
def test_nobody_who_reads_on_is_no_traceback(count):
    """As in `tool | head`, whether it notices while it prints or at its end."""
    program = f"""
from libs.cli import cli_errors
@cli_errors
def main():
    input()
    for number in range({count}):
        print(number)
main()
"""
    streams = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, **streams) as process:
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
        assert (process.wait(60), process.stderr.read()) == (1, "")


def test_a_path_that_cannot_be_read_is_bad_input(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe{")
    (tmp_path / "half").write_text('{"a": [1, ')
    for read, name, message in (
        (read_text, "none", "none does not exist"),
        (read_text, ".", "cannot be read .Is a directory"),
        (read_text, "half/below", "cannot be read .Not a directory"),
        (read_text, "x" * 300, "cannot be read .File name too long"),
        (read_text, "a\0b", "is no path"),
        (read_text, "bytes", "bytes is not a text file"),
        (read_json, "half", "half is not valid JSON"),
        (read_yaml, "half", "half is not valid YAML"),
        (make_folder, "half", "half cannot be made .File exists"),
        (make_folder, "half/below", "below cannot be made .Not a directory"),
        (check_new_folder, "half", "half cannot be written: .*half is a file"),
        (check_new_folder, "half/new/below", "below cannot be written: .*half is a file"),
        (check_new_file, ".", "is a folder: name a file"),
        (check_new_file, "half/below", "below cannot be written: .*half is a file"),
        (kind_of, "x" * 300, "File name too long"),
    ):
        with pytest.raises(BadInput, match=message):
            read(tmp_path / name)
    (tmp_path / "deep").write_text("[" * 100_000)
    for read in (read_json, read_yaml):
        with pytest.raises(BadInput, match="deep is not valid"):
            read(tmp_path / "deep")


def test_what_can_be_written_is_not_made(tmp_path):
    (tmp_path / "file").touch()
    check_new_folder(tmp_path / "new/below")
    check_new_file(tmp_path / "new/file")
    check_new_file(tmp_path / "file")
    assert [kind_of(tmp_path / name) for name in ("file", ".", "new", "file/below")] == ["file", "folder", "", ""]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_the_disk_fails_with_is_not():
    for number in (errno.ENOSPC, errno.EIO, errno.ESTALE):
        with pytest.raises(OSError) as raised, named_path("x", "written"):
            raise OSError(number, os.strerror(number))
        assert raised.value.errno == number
