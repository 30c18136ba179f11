"""Demonstration files: HDF5 in LIBERO's layout, or in any other that a key map describes."""

from libs.demo_hdf5.episodes import EpisodeWriter
from libs.demo_hdf5.files import demo_files
from libs.demo_hdf5.key_map import LIBERO, KeyMap
from libs.demo_hdf5.reader import DemoFile
from libs.demo_hdf5.schema import Demo
from libs.demo_hdf5.verify import verify_demo_file
from libs.demo_hdf5.writer import DemoWriter, merge_files

__all__ = [
    "LIBERO",
    "Demo",
    "DemoFile",
    "DemoWriter",
    "EpisodeWriter",
    "KeyMap",
    "demo_files",
    "merge_files",
    "verify_demo_file",
]
