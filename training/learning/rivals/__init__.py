"""The losses that gaze is compared with, each made for one kind of annotation: BoxInst, BoxTeacher and AGMM.

`choice` says which goes with which annotation, `parts` hands a step to one of them. PointSup needs no loss of its own: its
annotation is `annotations.annotate(mask, "box_points")`, its loss the cross-entropy at what is labelled. Nothing of this
is part of a network, so nothing of it reaches an exported graph.
"""
