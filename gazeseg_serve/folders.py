"""Where a command may write: never over what it read, and never over what this program did not make.

refuse_overlap   an output that is an input, lies in one or holds one is refused before any work
refuse_foreign   a folder that holds anything but an older result of its kind is refused before any work
staged_folder    a folder that appears whole or not at all, and replaces only an older one of its kind
claim_folder     a folder that is written file by file, so that interrupted work can go on
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from .errors import ConfigError, ContractError
from .files import partial_name, read_json, umask, write_json
from .progress import log

_PART, _OLD = "gazeseg-part", "gazeseg-old"  # hidden folders beside a target: what is being made, what was replaced
_EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h


@dataclass(frozen=True)
class Kind:
    """A kind of folder that this program writes whole.

    name   in words, for messages: "an artifact folder"
    made   folder -> the files of it (relative, with '/') that this program made; None where the folder is not of this kind
    """

    name: str
    made: Callable[[Path], Iterable[str] | None]


def schema_of(path: Path) -> str | None:
    """The "schema" of a JSON file; None where it is missing, damaged or says none."""
    found = json_of(path).get("schema")
    return found if isinstance(found, str) else None


def json_of(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none to read."""
    try:
        value = read_json(path)
    except (ContractError, OSError):
        return {}
    return value if isinstance(value, dict) else {}


def refuse_overlap(out: Path, *inputs: Path | None) -> None:
    """Raise ConfigError where `out` is one of `inputs`, lies in one, or holds one. Links are followed; None is no input."""
    above_out, here = _chain(out), _identity(out)
    for given in inputs:
        for path in () if given is None else (given, *_links(given)):
            identity = _identity(path)
            if identity is None:
                continue
            relation = (
                "is" if identity == here else "lies in" if identity in above_out else "holds" if here in _chain(path) else ""
            )
            if relation:
                raise ConfigError(f"the output {out} {relation} the input {given}; choose an output folder outside of it")


def refuse_foreign(target: Path, kind: Kind) -> set[str]:
    """The files of an older `target`, all made by this program; ContractError where it is anything else, before any work."""
    _refuse_file(target)
    if not target.exists():
        return set()
    here = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_symlink() or not path.is_dir()}
    if not here and not any(target.iterdir()):
        return set()
    made = kind.made(target)
    if made is None:
        raise ContractError(f"{target} exists and is not {kind.name} that this version made; choose another --out")
    foreign = sorted(here - set(made))
    if foreign:
        raise ContractError(
            f"{target} is {kind.name}, but holds {len(foreign)} file(s) that are not of it, {foreign[0]} for one; "
            "move them away, or choose another --out"
        )
    return here


@contextmanager
def staged_folder(target: Path, kind: Kind) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes `target` when the block ends well.

    An error inside the block leaves nothing behind, and a killed process leaves the old `target` as it was. An existing
    `target` is replaced only if it is empty or an older folder of this `kind` that holds nothing else, else ContractError.
    """
    import fcntl  # not on every system, and only writers of folders need it

    target = target.resolve()
    _refuse_file(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _tidy(target, kind)
    refuse_foreign(target, kind)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.{_PART}-"))
    lock = os.open(staging, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: then nobody takes this folder for a dead process's, either
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield staging
        staging.chmod(0o777 & ~umask())
        files = refuse_foreign(target, kind)  # again: the work took its time
        if target.exists():
            _exchange(staging, target, kind, files)
        else:
            staging.replace(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def claim_folder(out: Path, kind: str, names: Iterable[str], ours: bool = False) -> None:
    """Make `out` a folder in which work of this kind may write and overwrite the paths `names` (patterns of one level).

    kind is a word: a file `.gazeseg-KIND` says that the folder was claimed before. Without it, and unless `ours` is true
    because something else proves it, none of `names` may be there: ContractError. Other files of the folder do not matter,
    for they are not touched.
    """
    marker, schema = out / f".gazeseg-{kind}", f"gazeseg-{kind}-folder/1"
    _refuse_file(out)
    if schema_of(marker) == schema:
        return
    there = next((path for name in (marker.name, *names) for path in sorted(out.glob(name))), None)
    if there is not None and not ours:
        raise ContractError(f"{there} is there and this program did not make it; choose another --out, or move it away")
    write_json(marker, {"schema": schema})


def clear_partial(folder: Path, *names: str) -> None:
    """Remove what a killed process left of files half written in `folder`, of `names` (patterns); see `files.write_bytes`."""
    for path in folder.glob(".*"):
        found = re.fullmatch(r"\.(.+)\.\w{8}", path.name)
        if found and any(fnmatch(found[1], partial_name(name)) for name in names):
            path.unlink(missing_ok=True)


def _refuse_file(folder: Path) -> None:
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink()), folder)
    if (there.exists() or there.is_symlink()) and not there.is_dir():
        raise ContractError(f"{there} is a file, not a folder; choose another --out")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _chain(path: Path) -> list[tuple[int, int]]:
    """A path, where it exists, and all folders above it."""
    whole = path.resolve()
    return [identity for one in (whole, *whole.parents) if (identity := _identity(one)) is not None]


def _links(folder: Path) -> list[Path]:
    """Folders elsewhere that an input folder leads to: `images/` may be a link."""
    return [path for path in sorted(folder.iterdir()) if path.is_symlink() and path.is_dir()] if folder.is_dir() else []


def _exchange(staging: Path, target: Path, kind: Kind, files: set[str]) -> None:
    """Put `staging` in the place of `target` and remove the old files; at every moment one of the two is at `target`.

    Where the file system cannot exchange two names, the old folder is parked for a moment; `_tidy` brings it back after a
    crash.
    """
    old = staging
    if not _swap(staging, target):
        old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.{_OLD}-"))
        target.replace(old)
        staging.replace(target)
    _remove(old, files)
    if old.exists():
        log.warning("%s was replaced, but something was put into it meanwhile, which now lies in %s", target, old)


def _swap(one: Path, other: Path) -> bool:
    """Exchange two names at once; False where the system does not know how."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here = -100  # AT_FDCWD
    if rename is None:
        return False
    if rename(here, os.fsencode(one), here, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _remove(folder: Path, files: Iterable[str]) -> None:
    """Remove `files` and the folders that are empty then; whatever else is there stays."""
    for name in files:
        (folder / name).unlink(missing_ok=True)
    below = [path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink()]
    for path in [*sorted(below, reverse=True), folder]:
        if not any(path.iterdir()):
            path.rmdir()


def _tidy(target: Path, kind: Kind) -> None:
    """Bring back a target that a crash left parked, and remove what dead processes left half made."""
    for old in sorted(target.parent.glob(f".{_escape(target.name)}.{_OLD}-????????")):
        if not target.exists() and any(old.iterdir()):
            old.replace(target)
        else:
            _remove(old, kind.made(old) or ())
    for part in sorted(target.parent.glob(f".{_escape(target.name)}.{_PART}-????????")):
        if _is_dead(part):
            shutil.rmtree(part, ignore_errors=True)


def _escape(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _is_dead(part: Path) -> bool:
    """Whether no process holds the lock that the maker of a half-made folder has while it lives."""
    import fcntl

    try:
        handle = os.open(part, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
