"""Networks that make frames look better, and what they are trained with: models only, no video files and no Ray.

    planes.py     pictures as the networks see them: YUV 4:2:0 in cells of 4 x 4 pixels
    denoiser.py   frames around one in, that one without noise out
    cleaner.py    luma of frames around one in, that of that one without compression artefacts out
    levels.py     a small picture in, levels and gamma of each channel out, and what applies them
    interpolator.py  two frames and how they move in, the picture at a time between them out
    flow.py       how they move: OpenCV's DIS flow
    degrade.py    good pictures in, spoilt ones out: what the networks learn to undo
    spec.py       settings of a network, and the folder of weights and config.json that it is kept in

`vidbatch.training` trains them, `vidbatch.enhancing` runs them on videos.
"""
