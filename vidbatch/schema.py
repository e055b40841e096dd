"""Columns of every table and of every stage boundary: names, dtypes, units. Nothing else defines a column.

Published:  VIDEOS (one row a video), FRAMES (one row a sampled frame), ENHANCED (one row an enhanced video).
In flight:  WORK (list -> decode), PIXELS (decode -> classify), PREDICTIONS (classify -> sink); of `enhance` WORK and
            ENHANCED_CLIPS (enhance -> join).
Times are float64 seconds on the stream's own clock (pts x time base); ranges are half-open [start, end).
"""

import hashlib
from typing import Final, Literal, NamedTuple

import pyarrow as pa

SCHEMA_VERSION: Final = 1
"""Raised when a published column is renamed, removed or changes its type; kept in every file's metadata."""


Fit = Literal["crop", "scale_then_crop", "stretch"]


class FrameSpec(NamedTuple):
    """What a model wants to see: frames come out of the decoder as uint8 RGB of exactly this size.

    Upright and on square pixels, with `fit` one of
    `crop`             the centre is cut out and scaled: as if the shorter side were scaled to `size / crop_share`
    `scale_then_crop`  the same the other way round and dearer: the pixels of libraries that crop last, which `crop`
                       shows up to a pixel further up and left (it begins on even ones, where colours do)
    `stretch`          both sides are scaled to `size / crop_share`, whatever the shape, and the centre is cropped
    """

    height: int
    width: int
    crop_share: float = 0.875
    interpolation: Literal["bilinear", "bicubic", "lanczos", "area"] = "bicubic"
    fit: Fit = "crop"


TOP_K: Final = pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))
UTC: Final = pa.timestamp("us", tz="UTC")


def video_id(url: str, member: str | None) -> str:
    """32 hex digits that name a video for good: a hash of its normalised URL and its member."""
    return hashlib.blake2b(f"{url}\0{member or ''}".encode(), digest_size=16).hexdigest()


IDENTITY: Final = [
    pa.field("video_id", pa.string(), nullable=False),  # 32 hex digits: hash of normalised URL and member
    pa.field("url", pa.string(), nullable=False),  # no query string, no credentials
    pa.field("member", pa.string()),  # name inside a tar shard
    pa.field("etag", pa.string()),
    pa.field("size_bytes", pa.int64()),
    pa.field("content_version", pa.string(), nullable=False),  # etag+size or size+mtime
    pa.field("metadata", pa.string()),  # JSON object: other manifest columns, shard sidecars
]

HEADER: Final = [
    pa.field("container", pa.string()),
    pa.field("codec", pa.string()),
    pa.field("width", pa.int32()),  # coded pixels, before rotation
    pa.field("height", pa.int32()),
    pa.field("duration_seconds", pa.float64()),
    pa.field("frame_rate", pa.float64()),  # average, frames a second
    pa.field("num_frames_from_header", pa.int64()),
]

ERROR: Final = [
    pa.field("error_kind", pa.string()),  # a key of errors.ERROR_KINDS, or null
    pa.field("error_message", pa.string()),
]

PROVENANCE: Final = [
    pa.field("config_digest", pa.string(), nullable=False),  # of all settings that change a result
    pa.field("run_id", pa.string(), nullable=False),
]

VIDEOS: Final = pa.schema(
    [
        *IDENTITY,
        pa.field("status", pa.string(), nullable=False),  # ok | partial | failed
        *ERROR,
        *HEADER,
        pa.field("num_frames_sampled", pa.int64(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("score", pa.float32()),  # 0..1, or the number the model tells; mean over the sampled frames
        pa.field("top_k", TOP_K),
        pa.field("model", pa.string(), nullable=False),
        *PROVENANCE,
        pa.field("finished_at", UTC, nullable=False),
    ],
    metadata={"vidbatch.schema_version": str(SCHEMA_VERSION), "vidbatch.table": "videos"},
)

_FRAMES = [
    pa.field("video_id", pa.string(), nullable=False),
    pa.field("url", pa.string(), nullable=False),
    pa.field("member", pa.string()),
    pa.field("frame_index", pa.int32(), nullable=False),  # 0.. in the sample of this video
    pa.field("pts_seconds", pa.float64(), nullable=False),
    pa.field("is_keyframe", pa.bool_(), nullable=False),
    pa.field("label", pa.string(), nullable=False),
    pa.field("score", pa.float32(), nullable=False),
    pa.field("top_k", TOP_K, nullable=False),
    *PROVENANCE,
]


def frames_schema(embedding_size: int | None = None) -> pa.Schema:
    """Schema of the `frames` table; with an embedding of that many float16 values when one was asked for."""
    extra = [] if embedding_size is None else [pa.field("embedding", pa.list_(pa.float16(), embedding_size))]
    metadata = {"vidbatch.schema_version": str(SCHEMA_VERSION), "vidbatch.table": "frames"}
    return pa.schema([*_FRAMES, *extra], metadata=metadata)


CLIP: Final = [
    *IDENTITY,
    pa.field("source", pa.string(), nullable=False),  # what to open; may hold a query string; never published
    pa.field("member_offset", pa.int64()),  # byte offset of the member's data inside an uncompressed tar
    pa.field("clip_index", pa.int32(), nullable=False),
    pa.field("num_clips", pa.int32(), nullable=False),
    pa.field("start_seconds", pa.float64()),  # null: from the first frame
    pa.field("end_seconds", pa.float64()),  # null: to the last frame
    pa.field("times", pa.list_(pa.float64())),  # times to look at inside this clip; null: follow the sampling
    *ERROR,  # set when listing already knows that it cannot be read
]

WORK: Final = pa.schema([pa.field("clips", pa.list_(pa.struct(CLIP)), nullable=False)])
"""One row is a pack of clips that one decode call works off: small videos travel together, long ones alone."""

_CHUNK = [
    *IDENTITY,
    pa.field("clip_index", pa.int32(), nullable=False),
    pa.field("num_clips", pa.int32(), nullable=False),
    pa.field("chunk_index", pa.int32(), nullable=False),  # 0.. inside the clip
    pa.field("is_last_chunk", pa.bool_(), nullable=False),  # only the last one carries header, error and cost
    pa.field("num_frames", pa.int32(), nullable=False),
    pa.field("pts_seconds", pa.list_(pa.float64()), nullable=False),
    pa.field("is_keyframe", pa.list_(pa.bool_()), nullable=False),
    *HEADER,
    *ERROR,
    pa.field("decode_cpu_seconds", pa.float64()),
    pa.field("decode_wall_seconds", pa.float64()),
    pa.field("read_bytes", pa.int64()),
    pa.field("num_frames_decoded", pa.int64()),
]

LAYOUT: Final = pa.struct(  # the fields of yuv.Layout
    [
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("colour_space", pa.int32()),
        ("is_full_range", pa.bool_()),
        ("transpose", pa.bool_()),
        ("mirror_columns", pa.bool_()),
        ("mirror_rows", pa.bool_()),
    ]
)

PIXELS: Final = pa.schema(
    [
        *_CHUNK,
        pa.field("frames", pa.large_binary(), nullable=False),  # uint8 NHWC RGB, num_frames x FrameSpec
        pa.field("layout", LAYOUT),  # not null: `frames` are planes of YUV 4:2:0 pictures instead
    ]
)
"""One row is a chunk of one clip, at most 16 MiB of frames; a clip that yields no frame is one chunk of none."""

PREDICTIONS: Final = pa.schema(
    [
        *_CHUNK,
        pa.field("top_k_index", pa.list_(pa.int32()), nullable=False),  # num_frames x k class numbers, flat
        pa.field("top_k_score", pa.list_(pa.float32()), nullable=False),  # num_frames x k, descending, flat
        pa.field("score_sum", pa.list_(pa.float32())),  # per class: sum of probabilities over the frames
        pa.field("embedding", pa.large_binary()),  # float16, num_frames x embedding size
        pa.field("model_cpu_seconds", pa.float64(), nullable=False),
        pa.field("model_wall_seconds", pa.float64(), nullable=False),
    ]
)
"""PIXELS without the pixels, with what the model said of each frame."""

RATE_QUALITY: Final = [
    pa.field("crf", pa.float64(), nullable=False),
    pa.field("bit_rate", pa.float64(), nullable=False),  # bits a second of pictures
    pa.field("xpsnr_db", pa.float64(), nullable=False),  # of luma
]
"""A point of the rate-quality curve of a video."""

ENHANCED: Final = pa.schema(
    [
        *IDENTITY,
        pa.field("status", pa.string(), nullable=False),  # ok | partial | failed
        *ERROR,
        *HEADER,
        pa.field("steps", pa.string(), nullable=False),  # as "denoise=nlmeans:0.5,colour=normalize:0.3"
        pa.field("weights", pa.string()),  # digest of the networks' weights; null: none was used
        pa.field("output_url", pa.string()),  # null: nothing was written
        pa.field("output_codec", pa.string()),
        pa.field("output_width", pa.int32()),  # before rotation
        pa.field("output_height", pa.int32()),
        pa.field("output_pixel_format", pa.string()),
        pa.field("output_heights", pa.list_(pa.int32())),  # of a ladder, the highest first; null: one file
        pa.field("output_size_bytes", pa.int64()),
        pa.field("output_duration_seconds", pa.float64()),  # from the first frame to the end of the last
        pa.field("output_frame_rate", pa.float64()),  # average, frames a second
        pa.field("output_bit_rate", pa.float64()),  # bits a second, of all streams
        # Where a quality was asked for: the crf that reached it, mean over frames; what was tried on parts of a video.
        pa.field("output_crf", pa.float64()),
        pa.field("rate_quality", pa.list_(pa.struct(RATE_QUALITY))),
        pa.field("num_frames_decoded", pa.int64(), nullable=False),
        pa.field("num_frames", pa.int64(), nullable=False),  # written
        pa.field("num_frames_interpolated", pa.int64(), nullable=False),  # of these, made between two others
        pa.field("num_frames_measured", pa.int64(), nullable=False),  # the first, and one a second
        # Before encoding, against the decoded frame; where the step upscale is done, against that upscaled by Lanczos,
        # which is also what sharpness and noise before are of. Of frames that have a decoded one, and are not made.
        pa.field("psnr_db", pa.float64()),  # infinite: equal
        pa.field("ssim", pa.float64()),
        pa.field("sharpness_before", pa.float64()),  # variance of the Laplacian of 8-bit luma
        pa.field("sharpness_after", pa.float64()),
        pa.field("noise_before", pa.float64()),  # Immerkaer's estimate of sigma, in levels of 8-bit luma
        pa.field("noise_after", pa.float64()),
        pa.field("decode_seconds", pa.float64()),  # wall seconds, summed over clips
        pa.field("enhance_seconds", pa.float64()),
        pa.field("encode_seconds", pa.float64()),
        pa.field("write_seconds", pa.float64()),  # joining, copied streams, upload
        pa.field("changes", pa.list_(pa.string()), nullable=False),  # what is not as it was, a sentence each
        pa.field("contact_sheet_url", pa.string()),
        *PROVENANCE,
        pa.field("finished_at", UTC, nullable=False),
    ],
    metadata={"vidbatch.schema_version": str(SCHEMA_VERSION), "vidbatch.table": "enhanced"},
)

ENHANCED_CLIPS: Final = pa.schema(
    [
        pa.field("clip", pa.struct(CLIP), nullable=False),
        pa.field("facts", pa.string(), nullable=False),  # JSON: the fields of enhancing.types.Facts
    ]
)
"""One row is a clip that was enhanced: what came of it is in storage already, this is what there is to say of it."""

PACKETS: Final = pa.schema(
    [
        pa.field("rung", pa.int8(), nullable=False),  # of a ladder, the highest first; else 0
        pa.field("pts", pa.int64(), nullable=False),  # ticks of the file's time base (types.Picture)
        pa.field("duration", pa.int64(), nullable=False),
        pa.field("is_keyframe", pa.bool_(), nullable=False),
        pa.field("data", pa.large_binary(), nullable=False),
    ]
)
"""A clip as its encoder gave it, in decoding order, on the way to be joined: one row a packet."""
