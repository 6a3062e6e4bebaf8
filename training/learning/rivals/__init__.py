"""The losses that gaze is compared with, each made for one kind of annotation: BoxInst, BoxTeacher, PointSup and AGMM.

`choice` says which goes with which annotation, `parts` hands a step to one of them. Nothing of this is part of a network,
so nothing of it reaches an exported graph.
"""
