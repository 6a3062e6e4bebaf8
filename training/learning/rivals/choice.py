"""Which of the compared losses there are, and what each of them needs."""

from __future__ import annotations

from gazeseg_serve.errors import ConfigError

BOX_LOSSES = ("boxinst", "boxteacher", "pointsup")  # in place of the plain losses: a box names no pixel inside it
RIVALS = (*BOX_LOSSES, "agmm")
ANNOTATIONS = {
    "boxinst": ("box",),
    "boxteacher": ("box",),
    "pointsup": ("box_points",),
    "agmm": ("point", "scribble", "extreme"),
}


def check_rival(rival: str, supervision: str, outputs: int, rotate: float, average: float) -> None:
    """Raise ConfigError where `rival`, one of RIVALS or "", cannot learn from what the rest of a config says."""
    if not rival:
        return
    if rival not in RIVALS:
        raise ConfigError(f"loss.rival = {rival!r} is not known; use one of: {', '.join(RIVALS)}, or leave it empty")
    if supervision not in ANNOTATIONS[rival]:
        raise ConfigError(
            f"loss.rival = {rival!r} learns from data.supervision {' or '.join(ANNOTATIONS[rival])}, not {supervision!r}"
        )
    if rival in BOX_LOSSES and outputs > 1:
        raise ConfigError(f"loss.rival = {rival!r} takes one class, and data.classes names more; use agmm, or name one")
    if rival in BOX_LOSSES and rotate:
        raise ConfigError(
            f"augment.rotate = {rotate} turns the boxes, and loss.rival = {rival!r} wants them upright; set it to 0"
        )
    if rival == "boxteacher" and not average:
        raise ConfigError('loss.rival = "boxteacher" is taught by averaged weights; set optimiser.average, 0.999 for instance')
