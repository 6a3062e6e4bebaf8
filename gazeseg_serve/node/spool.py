"""What a node holds: image files, masks and results on disk, and one SQLite database that says what became of each.

Layout of the folder (mode 0700): `node.sqlite`; `images/` as received; `masks/` a header without pixels and the labels, an
image; `results/` what waits to be sent; `dead/` what was given up, with the reason beside it; `new/` what is being written.
Names are hashes of ours, never a sender's text. A file is whole before a row names it, and a row is gone before its file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..files import sha256

FOLDERS = ("images", "masks", "results", "dead", "new")
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE image (
    name TEXT PRIMARY KEY, digest TEXT NOT NULL, series TEXT NOT NULL, received REAL NOT NULL, bytes INTEGER NOT NULL,
    state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', result TEXT NOT NULL DEFAULT '', part TEXT NOT NULL DEFAULT '',
    tries INTEGER NOT NULL DEFAULT 0);
CREATE INDEX image_state ON image (state, received);
CREATE INDEX image_series ON image (series);
CREATE TABLE result (
    uid TEXT NOT NULL, kind TEXT NOT NULL, series TEXT NOT NULL, version INTEGER NOT NULL, frames INTEGER NOT NULL,
    file TEXT NOT NULL, bytes INTEGER NOT NULL, made REAL NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '', PRIMARY KEY (uid));
CREATE INDEX result_state ON result (state, made);
CREATE TABLE count (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


@dataclass(frozen=True)
class Image:
    """One image. state: received, segmented, refused (a dead letter), done (its result is stored), forgotten."""

    name: str
    digest: str
    series: str
    received: float
    state: str
    result: str
    part: str

    @property
    def file(self) -> str:
        """The name of its files in `images/` and `masks/`."""
        return f"{self.name}-{self.digest[:16]}"


@dataclass(frozen=True)
class Result:
    """One segmentation or report. state: waiting, sent, dead."""

    uid: str
    kind: str
    series: str
    version: int
    frames: int
    file: str
    attempts: int


class Spool:
    """The folder and its database. Safe for threads; one process at a time (`writing`), any number that look."""

    def __init__(self, folder: Path, writing: bool = True) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        if writing:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            for name in FOLDERS:
                (folder / name).mkdir(mode=0o700, exist_ok=True)
            self._hold()
        elif not (folder / "node.sqlite").is_file():
            raise ConfigError(f"{folder} is no node's spool (no node.sqlite); name the folder that `node --spool` was given")
        self._database = sqlite3.connect(folder / "node.sqlite", check_same_thread=False, timeout=30, isolation_level=None)
        self._database.row_factory = sqlite3.Row
        if writing:
            self._prepare()

    def _hold(self) -> None:
        self._held = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._held)
            raise ConfigError(f"another node works in {self.folder}; stop it, or give this one a --spool of its own") from None

    def _prepare(self) -> None:
        (self.folder / "node.sqlite").chmod(0o600)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")  # a commit is on the disk before a sender hears of it
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _SCHEMA_VERSION):
            raise ConfigError(f"{self.folder} is of schema {version}, this version reads {_SCHEMA_VERSION}; use another folder")
        if version == 0:
            self._database.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {_SCHEMA_VERSION};COMMIT;")
        self._sweep()

    def _sweep(self) -> None:
        """Remove what no row names: files whose commit never came, so that nobody was told of them."""
        named = "SELECT name || '-' || substr(digest, 1, 16) AS file FROM image WHERE "
        images = {row["file"] for row in self.query(named + "bytes > 0")}
        masks = {row["file"] for row in self.query(named + "state IN ('segmented', 'done')")}
        results = {row["file"] for row in self.query("SELECT file FROM result WHERE state = 'waiting'")}
        for folder, known in (("new", set()), ("images", images), ("masks", masks), ("results", results)):
            for path in (self.folder / folder).iterdir():
                if path.name.partition(".")[0] not in known:
                    path.unlink()

    def close(self) -> None:
        with self._lock:
            self._database.close()
        if hasattr(self, "_held"):
            os.close(self._held)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside is committed together, or nothing is."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def query(self, sql: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._database.execute(sql, values).fetchall()

    def write(self, folder: str, name: str, content: bytes) -> Path:
        """Write a file whole: to `new/`, to the disk, then under its name."""
        handle, fresh = tempfile.mkstemp(dir=self.folder / "new")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            path = self.folder / folder / name
            Path(fresh).replace(path)
        except BaseException:
            Path(fresh).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
        return path

    def bury(self, folder: str, name: str, reason: str) -> None:
        """Put a file among the dead letters with its reason; it stays where it was until a row says that it is dead."""
        stem = name.partition(".")[0]
        self.write("dead", f"{stem}.txt", (reason + "\n").encode())
        self.remove("dead", name)
        self.path("dead", name).hardlink_to(self.path(folder, name))

    def path(self, folder: str, name: str) -> Path:
        return self.folder / folder / name

    def remove(self, folder: str, *names: str) -> None:
        for name in names:
            self.path(folder, name).unlink(missing_ok=True)

    def used_bytes(self) -> int:
        """Of images and results that are on disk."""
        rows = self.query(
            "SELECT (SELECT COALESCE(SUM(bytes), 0) FROM image) + (SELECT COALESCE(SUM(bytes), 0) FROM result) AS n"
        )
        return int(rows[0]["n"])

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def accept(self, uid: str, series: str, content: bytes) -> bool:
        """Spool an image that was received; False where the same one is here, or was. On return it is on the disk."""
        name, digest = sha256(uid.encode()), sha256(content)
        known = self.query("SELECT digest FROM image WHERE name = ?", name)
        if known and known[0]["digest"] == digest:
            return False
        self.write("images", f"{name}-{digest[:16]}.dcm", content)
        with self.transaction() as database:
            database.execute(
                "INSERT INTO image (name, digest, series, received, bytes, state) VALUES (?, ?, ?, ?, ?, 'received') "
                "ON CONFLICT (name) DO UPDATE SET digest = excluded.digest, series = excluded.series, bytes = excluded.bytes, "
                "received = excluded.received, state = 'received', reason = '', result = '', part = '', tries = 0",
                (name, digest, series, time.time(), len(content)),
            )
        if known:
            old = f"{name}-{known[0]['digest'][:16]}"
            self.remove("images", f"{old}.dcm")
            self.remove("masks", f"{old}.head", f"{old}.npz")
        return True

    def try_image(self, image: Image, by: int = 1) -> int:
        """Note that work on an image begins; how often that was."""
        with self.transaction() as database:
            row = database.execute(
                "UPDATE image SET tries = tries + ? WHERE name = ? AND digest = ? RETURNING tries",
                (by, image.name, image.digest),
            ).fetchone()
        return int(row["tries"]) if row else 0

    def images(self, where: str, *values: object, limit: int = -1) -> list[Image]:
        rows = self.query(
            "SELECT name, digest, series, received, state, result, part FROM image WHERE "
            f"{where} ORDER BY received, name LIMIT {int(limit)}",
            *values,
        )
        return [Image(*row) for row in rows]

    def results(self, where: str, *values: object) -> list[Result]:
        rows = self.query(
            f"SELECT uid, kind, series, version, frames, file, attempts FROM result WHERE {where} ORDER BY made, uid", *values
        )
        return [Result(*row) for row in rows]

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter that outlives the process."""
        with self.transaction() as database:
            database.execute(
                "INSERT INTO count VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value", (name, by)
            )

    def counts(self) -> dict[str, int]:
        return {row["name"]: row["value"] for row in self.query("SELECT name, value FROM count ORDER BY name")}


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
