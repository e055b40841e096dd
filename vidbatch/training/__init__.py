"""Labelled videos in, a bundle that `label` can use out, or good videos in and a network that `enhance` can use:
data-parallel training with Ray Train.

settings.py  what a user can set: of all runs; config.py: of classifiers; restore_config.py: of networks that enhance
videos.py    which videos, labels, splits and windows    loader.py     windows -> memory
loop.py      steps, epochs, gradients of all workers     optimise.py   optimizer, schedule, averages
objective.py what a loop has to know of what is trained: classifying.py (labels), restoring.py (good and spoilt frames),
             upscaling.py (good and reduced ones)
worker.py, run.py  the same on Ray's workers, with checkpoints
"""
