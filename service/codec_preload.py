"""What the process that all codec processes are forked from loads once, so that each begins in milliseconds.

Imported there alone, by name (codec_pool.py). That process ends with the one that uses it, not by the SIGTERM that a
supervisor sends to all its children.
"""

from __future__ import annotations

import importlib
import importlib.util
import signal

from . import codec_process as codec_process

signal.signal(signal.SIGTERM, signal.SIG_IGN)
for name in (
    "highdicom.seg",
    "pydicom.pixels",
    "imagecodecs._imcd",
    "imagecodecs._jpeg8",
    "imagecodecs._jpegls",
    "imagecodecs._jpeg2k",
):
    if importlib.util.find_spec(name.partition(".")[0]) is not None:  # of the extra `dicom`
        importlib.import_module(name)
