"""The serving image keeps a few of imagecodecs' codecs: those that every kind of DICOM pixels needs."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dicom_kinds import every_kind

ROOT = Path(__file__).parents[1]
pytest.importorskip("pydicom")
DECODE = """
import sys
from pathlib import Path
import imagecodecs
assert str(imagecodecs.__file__).startswith(sys.argv[1]), imagecodecs.__file__
from gazeseg_serve.dicom import decode_frames, read_dataset
from gazeseg_serve.pixels import DEFAULT_LIMITS
for path in sorted(Path(sys.argv[1], "files").iterdir()):
    assert list(decode_frames(read_dataset(path.read_bytes(), DEFAULT_LIMITS))), path
print(len(list(Path(sys.argv[1], "files").iterdir())))
"""


def test_what_the_image_keeps_decodes_every_kind(tmp_path: Path) -> None:
    found = importlib.util.find_spec("imagecodecs")
    if found is None or found.origin is None or not (libraries := Path(found.origin).parent.with_suffix(".libs")).is_dir():
        pytest.skip("imagecodecs is not installed from a Linux wheel")
    shutil.copytree(Path(found.origin).parent, tmp_path / "imagecodecs")
    shutil.copytree(libraries, tmp_path / "imagecodecs.libs")
    script = (ROOT / "deploy" / "install.sh").read_text().replace("\\\n", " ")
    commands = re.findall(r'^find "\$site"/imagecodecs.*$', script, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        subprocess.run(["sh", "-euc", command], env={**os.environ, "site": str(tmp_path)}, check=True)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.so*"))
    assert size < 15 * 2**20

    (tmp_path / "files").mkdir()
    kinds = every_kind()
    for number, data in enumerate(kinds.values()):
        (tmp_path / "files" / f"{number}.dcm").write_bytes(data)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", DECODE, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(len(kinds)), done.stderr
