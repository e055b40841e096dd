"""An archive of video in; better-looking video files and a table of what changed out, on Ray Data.

    list -> plan -> enhance -> [join] -> stage -> publish

    config.py    what a user can set                      types.py    what goes into a child process, and out of it
    filters.py   the classical methods: FFmpeg filters    reading.py  a clip -> its frames, with those around it
    networked.py, upscaling.py, opencv.py: other methods  chain.py    steps that give a frame for each
    interpolating.py  more frames (flowing.py: by flow)   timeline.py when these are shown; cuts.py: where none are made
    passage.py   all steps of a run
    encode.py    frames -> packets                        files.py    packets and what is copied -> one file
    quality.py   what changed, in figures and pictures    clip.py     what runs in the child, whole
    worker.py    the actor that owns the child            rows.py     clips -> rows of whole videos
    run.py       the chain                                                                               [Ray]

What flows. Work is what `label` works on too: packs of clips (schema.WORK), long videos cut at keyframes. Decoding,
filtering and encoding of a clip happen in one child process: a 4K frame is 12 MB, and to hand it through an object
store twice costs more than most of these filters take, while what is encoded is a hundredth of it. So memory is
bounded by what an encoder looks ahead, frames meet no queue, and the process boundary that strangers' files need
anyway is crossed by a path and some figures (schema.ENHANCED_CLIPS). A step that is a network wants a GPU that few
processes share and batches of frames: it will be an actor pool of its own between two such children, frames travelling
as planes of YUV 4:2:0 in blocks (blocks.py, yuv.py) as they do in `label`. What it has to be is what chain.Chain is:
frames are pushed, enhanced ones come out in order, one for each, and `reach` says how many frames before and behind
it has to see. Only interpolation changes number and times of frames: it stands between two chains (passage.py), and the
times of what comes out are found from those of the source alone, so that clips know theirs.

Clips. A video that is one clip becomes a file in its child. Of one that is many, with constant quality (crf), each clip
has an encoder of its own, which begins with a keyframe and refers to nothing outside (closed GOPs); its packets stand
in storage (schema.PACKETS) until the last clip is done, then a task joins them, beside the sound and all else that is
copied, without encoding anything again. A clip decodes also the frames around it that its filters reach, so that the
encoders are handed the very frames of a run in one clip. With a bitrate, one encoder has to see the whole video, and it
stays one clip.

Exactly once. Rows are published by the protocol of publish.py, as those of `label` are: a video is done when its row
stands, and has one row whatever is killed. Files come before rows, and the order of writes is

    clip             packets, then facts, under names made of video, version, settings and clip: who finds the facts
                     finds the packets whole, and need not enhance the clip again. Read by nobody else
    file             under a name made of the video, its version and the settings, whole or not at all (a rename, the
                     end of a multipart upload): a reader never sees a part of one, and whoever makes the same video
                     with the same settings again, because no row stood yet, replaces it by its like
    contact sheet    likewise
    stage enhanced   from here on the file has a row, for whoever comes next
    publish enhanced, discard enhanced    as in publish.py
    discard clips    when their video's row is staged: until then they are what a rerun need not do again. What a kill
                     leaves of them is removed by the next run

Two runs over one output at once may use each other's clips: the one that finds them gone when it joins them records a
transient failure (`missing`), which the next run mends.

A kill between two of these leaves a file without a row at worst, which the rerun replaces; never half a file under
its name, never two rows.
"""
