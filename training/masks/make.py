"""The `masks` command: a dataset folder in, heatmaps, refined maps, pseudo-masks and their quality out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from gazeseg_serve import cpus
from gazeseg_serve.csv_text import rows_csv
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError, DatasetError, GazesegError, require
from gazeseg_serve.files import write_json, write_text
from gazeseg_serve.folders import clear_partial, refuse_overlap
from gazeseg_serve.progress import log, track

from ..gaze.fixations import FixationTable, write_fixations
from ..gaze.readers import agreement_lines
from ..gaze.scan_paths import OFF_SCREEN
from ..gaze.sources import find_gaze, image_size, read_gaze
from .evidence import gather
from .folder import (
    DETECTED_FILE,
    DROPPED_FILE,
    HEATMAPS,
    MASKS_FILE,
    MASKS_SCHEMA,
    PSEUDO_MASKS,
    QUALITY_FILE,
    RECORDS,
    REFINED,
    REPORT_FILE,
    MasksInfo,
    claim_masks_folder,
    load_map,
    load_masks_info,
    versions,
)
from .levels import pseudo_mask_levels
from .one_image import ImageJob, drop_image, finished, make_image, plan
from .quality_report import report
from .settings import MaskSettings, check_thresholds, parse_thresholds, settings_json
from .summary import MasksSummary, quality_csv
from .verdict import judge

__all__ = [
    "MaskSettings",
    "MasksInfo",
    "MasksSummary",
    "check_thresholds",
    "load_map",
    "load_masks_info",
    "make_masks",
    "parse_thresholds",
    "pseudo_mask_levels",
]

Record = dict[str, Any]
_ANY_CLASS = 255  # labels up to this are taken, so that any foreground is seen


def make_masks(
    dataset: Path | str,
    out: Path | str | None = None,
    settings: MaskSettings | None = None,
    jobs: int | None = None,
    strict: bool = False,
    gaze: Path | str | None = None,
    reader: str | None = None,
    pool: str = "mean",
) -> MasksSummary:
    """Make the maps and pseudo-masks of every image with fixations, into `out` (default: the dataset folder).

    `gaze` is a file of any known tracker, a folder of them, or a gaze.toml (default: what the dataset folder holds);
    what it becomes is also written, as `detected_fixations.csv`, where it is not a fixation table already. Of several
    readers `reader` takes one; `pool` puts them together ("mean": each of an image's readers weighs the same, "union":
    all fixations as they are).

    An image whose inputs and settings are those of its record is not redone, so interrupted work goes on where it
    stopped. The bytes written do not depend on `jobs` (worker processes; default: one a usable core).
    With `strict`, a dropped row or a skipped image raises DatasetError before anything is made.
    Images that negatives.txt lists get no map; an image that has neither gaze nor a place there is skipped, and listed.
    Raises DatasetError where a folder or the gaze cannot be used or no image could be made, ConfigError for settings.
    """
    try:
        data = Dataset.open(dataset)
        data.warn_of_unmatched()
        if out is not None and not _same(Path(out), data.root):
            refuse_overlap(Path(out), data.root, None if gaze is None else Path(gaze))
        return _make(
            data, Path(out) if out is not None else data.root, settings or MaskSettings(), jobs, strict, gaze, reader, pool
        )
    except OSError as error:
        raise DatasetError(
            f"{error}; check that the folders can be read and written and the disk is not full; finished images are kept"
        ) from error


def _make(
    data: Dataset,
    out: Path,
    settings: MaskSettings,
    jobs: int | None,
    strict: bool,
    gaze: Path | str | None,
    reader: str | None,
    pool: str,
) -> MasksSummary:
    jobs = cpus.available() if jobs is None else jobs
    if not 1 <= jobs <= 256:
        raise ConfigError(f"{jobs} jobs; give a number from 1 to 256")
    if settings.crf is not None:
        require("pydensecrf.densecrf", "train")
    source = Path(gaze) if gaze is not None else find_gaze(data.root)
    table = _without(read_gaze(source, data.images, settings.classes, reader, pool), data.negatives)
    if strict:
        table.require_clean()

    planned = [plan(data, stem, scan, table.classes, settings, out) for stem, scan in table.paths.items()]
    _check_negatives(data)
    records = {job.stem: record for job in planned if (record := finished(job)) is not None}
    todo = [job for job in planned if job.stem not in records]
    reused = len(records)
    claim_masks_folder(out)
    stale = _stale(out, set(table.paths))
    _clear(out, outdated=bool(todo or stale))
    for path in stale:
        drop_image(out, path)
    if not table.plain:
        sizes = {stem: image_size(data.images[stem]) or (0, 0) for stem in table.paths}
        write_fixations(out / DETECTED_FILE, table.paths, sizes, table.classes)
    for record in track(_run(todo, jobs), "masks", len(todo)):
        records[record["stem"]] = record
    return _finish(data, out, settings, table, dict(sorted(records.items())), reused, strict)


def _without(table: FixationTable, negatives: frozenset[str]) -> FixationTable:
    """The table but for the negatives: they need no map, whether the reader's search of them was recorded or not."""
    paths = {stem: scan for stem, scan in table.paths.items() if stem not in negatives}
    if not paths:
        raise DatasetError(f"negatives.txt lists every image with gaze ({len(negatives)} in all): none shows a target")
    skipped = {stem: reason for stem, reason in table.skipped.items() if stem not in negatives}
    return dataclasses.replace(table, paths=paths, skipped=skipped)


def _check_negatives(data: Dataset) -> None:
    """Warn of negatives whose true mask, where there is one, holds foreground: the reader and the mask do not agree."""
    wrong = [stem for stem in sorted(data.negatives & data.masks.keys()) if data.mask(stem, _ANY_CLASS).any()]
    if wrong:
        log.warning("%d of the negatives hold foreground in their true mask, %s for one", len(wrong), wrong[0])


def _run(todo: list[ImageJob], jobs: int) -> Iterator[Record]:
    """The records of all images, made here (one job) or in worker processes, in the order given."""
    if jobs == 1 or len(todo) < 2:
        yield from map(make_image, todo)
        return
    pool = ProcessPoolExecutor(min(jobs, len(todo)), multiprocessing.get_context("spawn"), _start_worker)
    try:
        yield from pool.map(make_image, todo)
    except BrokenProcessPool:
        raise GazesegError(
            "a worker process was killed, perhaps for want of memory; run again with fewer --jobs, finished images are kept"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """The parent handles Ctrl-C, and a worker does not outlive a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _same(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)


def _stale(out: Path, stems: set[str]) -> list[Path]:
    """Records of images that have no gaze any more."""
    return [path for path in sorted((out / RECORDS).glob("*.json")) if path.stem not in stems]


def _clear(out: Path, outdated: bool) -> None:
    """Remove what a killed run left half written, and the summary that is about to be outdated."""
    if outdated:
        (out / MASKS_FILE).unlink(missing_ok=True)
    folders = [out / RECORDS, *(path for kind in (HEATMAPS, REFINED, PSEUDO_MASKS) for path in _folders(out / kind))]
    for folder in folders:
        clear_partial(folder, "*")
    clear_partial(out, QUALITY_FILE, REPORT_FILE, DROPPED_FILE, DETECTED_FILE, MASKS_FILE)


def _folders(top: Path) -> Iterable[Path]:
    return [top, *(path for path in top.iterdir() if path.is_dir())] if top.is_dir() else []


def _finish(
    data: Dataset,
    out: Path,
    settings: MaskSettings,
    table: FixationTable,
    records: dict[str, Record],
    reused: int,
    strict: bool,
) -> MasksSummary:
    for folder in (*_folders(out / REFINED), *_folders(out / PSEUDO_MASKS)):
        if not any(folder.iterdir()):  # of settings that no longer hold
            folder.rmdir()
    good = {stem: record for stem, record in records.items() if "skipped" not in record}
    skipped = dict(table.skipped)
    skipped |= {stem: record["skipped"] for stem, record in records.items() if "skipped" in record}
    for stem in set(records) - set(good):
        log.warning("%s is skipped: %s", stem, skipped[stem])
    if not good:
        raise DatasetError(f"no image could be used; the first: {next(iter(skipped.values()))}")
    if strict and len(good) < len(records):
        raise DatasetError(
            f"{len(records) - len(good)} image(s) could not be used, "
            f"{next(iter(skipped))}: {next(iter(skipped.values()))}; mend them, or run without --strict"
        )
    off = Counter(row.image for row in table.dropped if row.reason == OFF_SCREEN)
    rows = {
        stem: record["quality"]
        | {"in_image": round(n / (n + off[stem]), 6)}
        | ({"viewing_seconds": round(table.seconds[stem], 3)} if stem in table.seconds else {})
        for stem, record in good.items()
        for n in [len(table.paths[stem])]
    }
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    means = {name: float(np.mean([row[name] for row in rows.values() if name in row])) for name in names}
    verdict = judge(list(rows.values()), gather(data, table, list(good), settings.sigma))
    write_text(
        out / DROPPED_FILE, rows_csv(["file", "line", "image", "reason"], [dataclasses.astuple(row) for row in table.dropped])
    )
    write_text(out / QUALITY_FILE, quality_csv(names, rows, skipped, table, data.negatives))
    write_text(out / REPORT_FILE, report(data, out, settings, table, rows, skipped, verdict))
    kept = {stem: {key: value for key, value in record.items() if key != "image_sha256"} for stem, record in good.items()}
    fingerprint = hashlib.sha256(json.dumps([settings_json(settings), table.classes, kept], sort_keys=True).encode())
    write_json(
        out / MASKS_FILE,
        {
            "schema": MASKS_SCHEMA,
            "settings": settings_json(settings),
            "classes": table.classes,
            "stems": list(good),
            "skipped": dict(sorted(skipped.items())),
            "dropped": table.reasons,
            "fingerprint": fingerprint.hexdigest(),
            "versions": versions(),
            "quality": means,
            "verdict": verdict.line,
            "negatives": sorted(data.negatives),
        },
    )
    notes = (*table.notes, *agreement_lines(table.readers))
    made, negatives = len(records) - reused, len(data.negatives)
    return MasksSummary(out, len(good), made, reused, skipped, table.reasons, means, verdict, notes, negatives)
