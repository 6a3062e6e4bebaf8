"""What waits in a spool, what failed and why; and dead letters given another try. For people and for orchestrators."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from .spool import Spool

_WAITING = ("received", "segmented")


def status(spool: Spool) -> dict[str, Any]:
    """The state of a spool as JSON: images and results by state, dead letters with their reasons, bytes, counters."""
    images = {row["state"]: row["n"] for row in spool.query("SELECT state, COUNT(*) AS n FROM image GROUP BY state")}
    results = {row["state"]: row["n"] for row in spool.query("SELECT state, COUNT(*) AS n FROM result GROUP BY state")}
    return {
        "images": images,
        "results": results,
        "oldest_seconds": oldest_seconds(spool),
        "bytes": spool.used_bytes(),
        "waiting": [
            dict(row)
            for row in spool.query(
                "SELECT substr(series, 1, 12) AS series, kind, attempts, reason FROM result "
                "WHERE state = 'waiting' AND attempts > 0 ORDER BY made LIMIT 100"
            )
        ],
        "dead": [
            dict(row)
            for row in spool.query(
                "SELECT name || '-' || substr(digest, 1, 16) AS file, 'image' AS kind, reason FROM image "
                "WHERE state = 'refused' UNION ALL SELECT file, kind, reason FROM result WHERE state = 'dead' LIMIT 1000"
            )
        ],
        "counts": spool.counts(),
    }


def oldest_seconds(spool: Spool) -> float:
    """The age of the oldest image whose result is not stored yet, 0 without one; by the wall clock, which may jump."""
    row = spool.query("SELECT MIN(received) AS first FROM image WHERE state IN ('received', 'segmented')")[0]
    return 0.0 if row["first"] is None else round(max(0.0, time.time() - row["first"]), 3)


def status_lines(facts: dict[str, Any]) -> list[str]:
    waiting = sum(facts["images"].get(state, 0) for state in _WAITING)
    lines = [
        f"images       {waiting} waiting, {facts['images'].get('done', 0) + facts['images'].get('forgotten', 0)} done, "
        f"{facts['images'].get('refused', 0)} refused; the oldest waits {facts['oldest_seconds']:g} s",
        f"results      {facts['results'].get('waiting', 0)} waiting, {facts['results'].get('sent', 0)} stored, "
        f"{facts['results'].get('dead', 0)} given up",
        f"disk         {facts['bytes']} bytes of images and results",
    ]
    lines += [
        f"waits        {item['kind']} of series {item['series']}: {item['attempts']} attempt(s), {item['reason']}"
        for item in facts["waiting"]
    ]
    lines += [f"dead letter  {item['file']} ({item['kind']}): {item['reason']}" for item in facts["dead"]]
    lines += [f"count        {name} {value}" for name, value in facts["counts"].items()]
    return lines


def retry(spool: Spool) -> int:
    """Give every dead letter another try; how many. The node must not be running on the spool."""
    count = 0
    for row in spool.query("SELECT name, name || '-' || substr(digest, 1, 16) AS file FROM image WHERE state = 'refused'"):
        count += _revive(
            spool,
            "images",
            row["file"],
            "UPDATE image SET state = 'received', reason = '', tries = 0, bytes = ? WHERE name = ?",
            row["name"],
        )
    for row in spool.query("SELECT uid, file FROM result WHERE state = 'dead'"):
        count += _revive(
            spool,
            "results",
            row["file"],
            "UPDATE result SET state = 'waiting', attempts = 0, bytes = ? WHERE uid = ?",
            row["uid"],
        )
    return count


def _revive(spool: Spool, folder: str, stem: str, sql: str, key: str) -> int:
    dead: Path = spool.path("dead", f"{stem}.dcm")
    if not dead.exists():
        return 0
    target = spool.path(folder, dead.name)
    if not target.exists():
        target.hardlink_to(dead)
    with spool.transaction() as database:
        database.execute(sql, (dead.stat().st_size, key))
    spool.remove("dead", dead.name, f"{stem}.txt")
    return 1
