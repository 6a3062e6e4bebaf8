"""Libraries that read images warn and log in words that hold what they read: names of patients, dates, descriptions."""

from __future__ import annotations

import logging
import re
import warnings

_PACKAGES = ("PIL", "pydicom", "highdicom")
_SILENT = logging.CRITICAL + 1
_FILTER = ("ignore", None, Warning, re.compile(rf"({'|'.join(_PACKAGES)})(\.|$)"), 0)


def quiet_readers() -> None:
    """Let nothing that they say reach a log or a terminal, whatever else in the process changed that. What they find wrong
    they raise, too.
    """
    if warnings.filters[:1] != [_FILTER]:
        warnings.filterwarnings("ignore", module=_FILTER[3].pattern)
    for package in _PACKAGES:
        logger = logging.getLogger(package)
        if logger.level != _SILENT:  # setting it goes over every logger of the process
            logger.setLevel(_SILENT)
