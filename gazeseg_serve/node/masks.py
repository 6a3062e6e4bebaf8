"""Masks of one DICOM image, made here by an engine or by a running service; and what of an image is kept beside them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..contract import Artifact
from ..default_model import default_artifact
from ..dicom import broken_errors, frame_count, parse_dicom
from ..errors import GazesegError, ImageError, MalformedImage, require
from ..pixels import Limits
from ..records import from_dict
from .settings import NodeSettings

if TYPE_CHECKING:
    from pydicom import Dataset

_FRAMES_AT_ONCE = 4
_MOST_PIXELS = 400_000_000  # of all frames: a cine of 1,500 frames of 512 x 512


class ServiceAway(GazesegError):
    """The service cannot be reached or is busy: try again later."""


class MaskMaker(Protocol):
    """Makes the labels of an image, and says which model does."""

    artifact: Artifact
    threshold: float

    def masks(self, content: bytes) -> tuple[np.ndarray, Dataset]: ...


def open_masks(settings: NodeSettings) -> MaskMaker:
    """Raises ContractError, EngineError, MissingExtraError, or ServiceAway."""
    return ServiceMasks(settings) if settings.service else LocalMasks(settings)


class LocalMasks:
    """An engine in this process."""

    def __init__(self, settings: NodeSettings) -> None:
        from ..predictor import Predictor

        self._predictor = Predictor.open(settings.artifact or default_artifact(settings.device), settings.device)
        assert self._predictor.artifact is not None, "opened from a folder"
        self.artifact = self._predictor.artifact
        self.threshold = self.artifact.threshold if settings.threshold is None else settings.threshold
        self._limits = Limits(max_bytes=settings.object_bytes, max_pixels=_MOST_PIXELS)

    def masks(self, content: bytes) -> tuple[np.ndarray, Dataset]:
        """(labels `(frames, H, W)` uint8, dataset). Raises ImageError."""
        from ..dicom import decode_frames, read_dataset
        from ..pixels import with_channels

        spec = self._predictor.spec
        dataset = read_dataset(content, self._limits)
        found: list[np.ndarray] = []
        waiting: list[np.ndarray] = []
        for frame in decode_frames(dataset, spec.dtype, spec.window):
            waiting.append(with_channels(frame, spec.channels))
            if len(waiting) == _FRAMES_AT_ONCE:
                found += self._labels(waiting)
        return np.stack(found + self._labels(waiting)), dataset

    def _labels(self, frames: list[np.ndarray]) -> list[np.ndarray]:
        """Empties `frames`."""
        predictions = self._predictor.predict_batch(frames) if frames else []
        frames.clear()
        return [prediction.mask(self.threshold) for prediction in predictions]


class ServiceMasks:
    """A running `gazeseg-serve serve`, asked for the segmentation of one image at a time."""

    def __init__(self, settings: NodeSettings) -> None:
        self._http = require("httpx", "client").Client(
            base_url=settings.service or "",
            timeout=120,
            headers={"Authorization": f"Bearer {settings.service_key}"} if settings.service_key else None,
        )
        self._force = settings.force
        self._wanted = settings.threshold
        self.artifact = self._model()
        self.threshold = self.artifact.threshold if self._wanted is None else self._wanted

    def _model(self) -> Artifact:
        facts = self._ask("GET", "/v1/model").json()
        known = {
            name: facts[name]
            for name in (
                "id",
                "strategy",
                "precision",
                "input",
                "inputs",
                "outputs",
                "colours",
                "threshold",
                "parity",
                "provenance",
                "intended_use",
                "presence",
                "codes",
            )
            if name in facts
        }
        return from_dict(Artifact, {**known, "files": {}}, "the service's /v1/model")

    def masks(self, content: bytes) -> tuple[np.ndarray, Dataset]:
        """As `LocalMasks.masks`. Raises ImageError where the service refuses the image, ServiceAway where it is not there."""
        try:
            dataset = parse_dicom(content)
            uid, frames = str(dataset.SOPInstanceUID), frame_count(dataset)
        except broken_errors() as error:
            raise MalformedImage(f"the image cannot be read ({type(error).__name__})") from error
        # What contradicts the intended use was sorted out on arrival, or is forced.
        output = "npz" if frames == 1 else "dicom-seg"
        query = {"output": output, "threshold": repr(self.threshold), "force": "true"}
        answer = self._ask("POST", "/v1/segment", params=query, content=content, headers={"Content-Type": "application/dicom"})
        if answer.headers.get("X-Model-Id") != self.artifact.id:
            raise ServiceAway("the service has another model than when the node started; start the node anew")
        try:
            return _labels_of(answer.content, output, uid, frames), dataset
        except broken_errors() as error:
            raise ServiceAway(f"the service's answer cannot be read ({type(error).__name__})") from error

    def _ask(self, method: str, path: str, **arguments: object) -> Any:
        import httpx

        try:
            answer = self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise ServiceAway(f"the service cannot be reached ({type(error).__name__})") from error
        if answer.status_code in (400, 413, 415, 422):
            raise ImageError(_detail(answer))
        if answer.status_code != 200:
            raise ServiceAway(f"the service answers {answer.status_code}")
        return answer


def _labels_of(content: bytes, output: str, uid: str, frames: int) -> np.ndarray:
    """Labels `(frames, H, W)` uint8 of the service's answer."""
    if output == "npz":
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return np.asarray(stored["mask"], np.uint8)[None]
    import highdicom as hd

    seg = hd.seg.segread(io.BytesIO(content))
    numbers = list(range(1, frames + 1))
    found = seg.get_pixels_by_source_frame(uid, numbers, ignore_spatial_locations=True, combine_segments=True)
    return np.asarray(found, np.uint8)


def _detail(answer: Any) -> str:
    try:
        return f"the service refuses it: {answer.json()['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"the service refuses it with status {answer.status_code}"
