"""Labelled videos in, a bundle that `label` can use out: data-parallel training with Ray Train.

config.py  what a user can set    videos.py  which videos, labels, splits and windows
loader.py  windows -> memory      optimise.py  network, optimizer, schedule, averages
losses.py  outputs -> losses      loop.py  steps and epochs
worker.py, run.py  the same on Ray's workers, with checkpoints
"""
