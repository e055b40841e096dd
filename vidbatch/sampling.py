"""Which times of a video to look at: arithmetic on presentation times only, no decoding."""
