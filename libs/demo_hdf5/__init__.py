"""Demonstration files in LIBERO's HDF5 layout."""

from libs.demo_hdf5.files import demo_files
from libs.demo_hdf5.reader import DemoFile
from libs.demo_hdf5.schema import Demo
from libs.demo_hdf5.verify import verify_demo_file
from libs.demo_hdf5.writer import DemoWriter, merge_files

__all__ = ["Demo", "DemoFile", "DemoWriter", "demo_files", "merge_files", "verify_demo_file"]
