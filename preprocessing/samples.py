"""The data types of this package: what flows from a raw video to a sample in a shard.

Frames are integers of the source in presentation order; ranges are half-open ``[start, end)``; seconds are derived.
Shapes: C channels, T latent frames, H and W latent rows and columns, N frames or tokens, L text tokens, D features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from preprocessing.effort import Effort
from preprocessing.reasons import Reason

FRAMES_PER_LATENT = 4
"""Source frames behind every latent frame but the first (the HunyuanVideo VAE's stride)."""

LATENTS_PER_SEGMENT = 9
"""Latent frames of one segment, the unit of autoregression (FramePack-F1)."""

FRAMES_PER_SEGMENT = FRAMES_PER_LATENT * LATENTS_PER_SEGMENT
"""Frames of one segment: 36."""


def clip_num_frames(num_segments: int) -> int:
    """Frames of a clip on the grid: the start frame and 36 for every segment."""
    return 1 + FRAMES_PER_SEGMENT * num_segments


def clip_num_latents(num_segments: int) -> int:
    """Latent frames of a clip: the start frame's and 9 for every segment."""
    return 1 + LATENTS_PER_SEGMENT * num_segments


class TransitionKind(StrEnum):
    """How one shot becomes the next."""

    CUT = "cut"
    GRADUAL = "gradual"


class Verdict(StrEnum):
    """What was decided about a clip."""

    KEEP = "keep"
    DROP = "drop"


class Split(StrEnum):
    """Which part of the dataset a group belongs to."""

    TRAIN = "train"
    EVAL = "eval"


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class Span:
    """The part of a file that a source is, half-open, in frames or in seconds of the file; None is the file's own end.

    Frames count from the start of the file, wherever the span starts: so do all frames of transitions and clips.

    Attributes:
        table_fps: Frames a second at which a table counted `start_frame` and `end_frame`, which mean moments then; None where
            they are the file's own frames. No part of the identity: a table that says it later speaks of the same source.
    """

    start_frame: int | None = None
    end_frame: int | None = None
    start_s: float | None = None
    end_s: float | None = None
    table_fps: float | None = None

    def __post_init__(self) -> None:
        """Refuse two units at once, nothing at all, and what lies before the file."""
        frames, seconds = (self.start_frame, self.end_frame), (self.start_s, self.end_s)
        given = [pair for pair in (frames, seconds) if pair != (None, None)]
        _check(len(given) == 1, "a span is given in frames or in seconds, not in both and not in neither")
        legal = all(bound is None or bound >= 0 for bound in given[0])
        _check(legal, f"the span {self} lies before the file; expected bounds from 0 on")
        rate = self.table_fps is None or (given[0] == frames and self.table_fps > 0)
        _check(rate, f"the span {self} counts at {self.table_fps} fps; expected a rate above 0, and frames")

    @property
    def is_empty(self) -> bool:
        """Whether the end does not come after the start; a table may say so, and the source fails for it."""
        end = self.end_s if self.end_frame is None else self.end_frame
        return end is not None and end <= (self.start_frame or self.start_s or 0)

    def __str__(self) -> str:
        """As a half-open range, for people and for identity."""
        if self.start_s is None and self.end_s is None:
            return f"[{self.start_frame or 0}, {'end' if self.end_frame is None else self.end_frame})"
        return f"[{self.start_s or 0.0} s, {'end' if self.end_s is None else f'{self.end_s} s'})"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One video of the dataset: a file, or a part of one.

    Attributes:
        source_id: Hash of `uri` and the range of `span`.
        group_id: The original video: as a table names it, else a hash of the uri; splits never separate a group.
        uri: Path relative to the input as given, for people and for identity.
        location: Where the file is now; never stored in a shard.
        content_id: Size and modification time, or etag; where it moved, `sha256` says whether the content changed.
        caption: The text that describes it, empty if there is none.
        licence: The licence if known.
        extra: Columns of a metadata table that are passed through.
        size_bytes: Of the file, None where nobody knows.
        span: Which part of the file it is; None is all of it.
        sha256: Of the file's bytes, empty where nobody read them yet.
        from_table: A row of a table names it, or did last; that row said its caption, unless a file did, and its licence and extra.
        caption_beside: The caption is that of a file beside the video.
    """

    source_id: str
    group_id: str
    uri: str
    location: str
    content_id: str
    caption: str = ""
    licence: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int | None = None
    span: Span | None = None
    sha256: str = ""
    from_table: bool = False
    caption_beside: bool = False

    @property
    def name(self) -> str:
        """The uri, with the span where there is one: for people."""
        return self.uri if self.span is None else f"{self.uri} {self.span}"


HDR_TRANSFERS = ("smpte2084", "arib-std-b67")
"""Transfer functions of HDR video as FFmpeg names them: PQ and HLG (ITU-R BT.2100)."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a container says about its first video stream that is not a picture.

    Attributes:
        num_frames_declared: Frames the container claims, None if it does not say.
        fps: Average frame rate, None if the container does not say.
        width_px: Displayed width, after rotation and pixel aspect.
        height_px: Displayed height.
        rotation_deg: Clockwise rotation to apply: 0, 90, 180 or 270.
        duration_s: Declared duration, None if the container does not say.
        transfer: Transfer function of the colours as FFmpeg names it, empty if the container does not say. HDR (`HDR_TRANSFERS`)
            is read as it is, without tone mapping: such a picture looks flat.
        primaries: Primary colours as FFmpeg names them, empty if the container does not say.
    """

    codec: str
    stream_index: int
    pixel_format: str
    width_px: int
    height_px: int
    rotation_deg: int
    fps: float | None
    num_frames_declared: int | None
    duration_s: float | None
    transfer: str = ""
    primaries: str = ""

    def __post_init__(self) -> None:
        """Refuse sizes and rotations that no picture has."""
        _check(self.width_px > 0 and self.height_px > 0, f"picture of {self.width_px} x {self.height_px} pixels")
        _check(
            self.rotation_deg in (0, 90, 180, 270),
            f"rotation of {self.rotation_deg} degrees; expected 0, 90, 180 or 270",
        )

    @property
    def is_hdr(self) -> bool:
        """Whether the container says so."""
        return self.transfer in HDR_TRANSFERS


@dataclass(frozen=True, kw_only=True)
class PictureArea:
    """The part of the displayed picture that lies between black bars, in pixels."""

    top_px: int
    left_px: int
    height_px: int
    width_px: int

    def __post_init__(self) -> None:
        """Refuse an area without pixels."""
        _check(self.top_px >= 0 and self.left_px >= 0, f"picture area {self} starts outside of the picture")
        _check(self.height_px > 0 and self.width_px > 0, f"picture area {self} holds no pixel")

    @property
    def crop(self) -> str:
        """As tables hold it, and FFmpeg's crop filter takes it: width:height:left:top."""
        return f"{self.width_px}:{self.height_px}:{self.left_px}:{self.top_px}"

    @classmethod
    def of_crop(cls, crop: str) -> "PictureArea | None":
        """The area of a `crop` text; None if it is empty: the whole picture."""
        if not crop:
            return None
        width_px, height_px, left_px, top_px = map(int, crop.split(":"))
        return cls(top_px=top_px, left_px=left_px, height_px=height_px, width_px=width_px)


@dataclass(frozen=True, kw_only=True)
class Transition:
    """A hard cut, or a gradual change, between two shots.

    Attributes:
        start_frame: First mixed frame; for a cut, the first frame of the new shot.
        end_frame: Frame after the last mixed one; for a cut, equal to `start_frame`.
        score: How sure the detector is, larger is surer.
    """

    kind: TransitionKind
    start_frame: int
    end_frame: int
    score: float

    def __post_init__(self) -> None:
        """Hold the range to its kind."""
        legal = (
            self.start_frame == self.end_frame if self.kind is TransitionKind.CUT else self.start_frame < self.end_frame
        )
        _check(legal and self.start_frame >= 0, f"{self.kind} over frames [{self.start_frame}, {self.end_frame})")


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What one pass over a source measured, over time; enough to decide again without decoding.

    Attributes:
        timestamps_s: Presentation time of every decoded frame in its file, (N,) float64, increasing.
        luma: Mean brightness of every frame between black bars, 0 to 255, (N,) float32.
        motion_times_s: When each motion value was measured, (M,) float64.
        motion: Named motion series, each (M,) float32, in per cent of the diagonal per second unless its name says otherwise;
            NaN where one was not measured.
        change: Difference of every frame to the one before where the two differ most, in levels of 255, (N,) float32, the first
            0; None where nobody measured.
    """

    timestamps_s: NDArray[np.float64]
    luma: NDArray[np.float32]
    motion_times_s: NDArray[np.float64]
    motion: Mapping[str, NDArray[np.float32]]
    change: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Hold all series of one clock to one length."""
        _check(
            self.timestamps_s.shape == self.luma.shape,
            f"{self.timestamps_s.shape} time stamps but {self.luma.shape} brightness values",
        )
        _check(
            self.change is None or self.timestamps_s.shape == self.change.shape,
            f"{self.timestamps_s.shape} time stamps but not as many differences between frames",
        )
        for name, values in self.motion.items():
            _check(
                values.shape == self.motion_times_s.shape,
                f"motion series {name} has shape {values.shape}, its times {self.motion_times_s.shape}",
            )

    def __repr__(self) -> str:
        """Shapes instead of data."""
        return f"Signals(frames={self.timestamps_s.shape}, motion={sorted(self.motion)} x {self.motion_times_s.shape})"


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small JPEG of one frame, so that reports never decode again."""

    frame: int
    jpeg: bytes

    def __repr__(self) -> str:
        """Size instead of bytes."""
        return f"Thumbnail(frame={self.frame}, {len(self.jpeg)} bytes)"


@dataclass(frozen=True, kw_only=True)
class SourceScan:
    """All that scanning one source found: `ok` with signals, or `failed` with a reason.

    Attributes:
        reasons: Why it failed; for an `ok` source, `truncated` if only its beginning decoded.
        message: One line for people about the reason, empty if there is none.
        num_frames: Frames that decoded.
        decoder: Library that gave the frames: decord or pyav.
        transitions: In frames of the file, as those of the thumbnails.
        signals: Of the frames that decoded; their time stamps are the file's.
        effort: What the scan took, None where nobody measured.
        first_frame: Frame of the file that the first of them is: 0 unless the source is a span.
        picture: What lies between the black bars; None is the whole picture.
    """

    source: Source
    ok: bool
    reasons: tuple[Reason, ...]
    message: str
    num_frames: int
    decoder: str
    probe: Probe | None
    transitions: tuple[Transition, ...]
    signals: Signals | None
    thumbnails: tuple[Thumbnail, ...]
    effort: Effort | None = None
    first_frame: int = 0
    picture: PictureArea | None = None

    def __post_init__(self) -> None:
        """A source either decoded or says why not."""
        _check(self.ok == (self.signals is not None), f"{self.source.uri}: ok={self.ok} with signals={self.signals}")
        _check(self.ok or bool(self.reasons), f"{self.source.uri} failed without a reason")


@dataclass(frozen=True, kw_only=True)
class ClipCandidate:
    """A piece of one shot on the grid: ``1 + 36 n`` frames at the recipe's rate.

    Attributes:
        clip_id: ``[a-z0-9_-]+``, derived from the source and the range.
        shot_index: Which shot of the source, from 0.
        clip_index: Which clip of the shot, from 0; clip k + 1 starts where clip k ended.
        start_frame: Source frame of k = 0.
        end_frame: Source frame that k = 36 n + 1 would take.
        fps: Frames a second of the grid.
        num_segments: n.
        scores: Every score that was computed, by name, rounded.
    """

    clip_id: str
    source_id: str
    shot_index: int
    clip_index: int
    start_frame: int
    end_frame: int
    start_s: float
    end_s: float
    fps: float
    num_segments: int
    scores: Mapping[str, float]

    def __post_init__(self) -> None:
        """A candidate without frames or with a half segment is our mistake."""
        _check(
            self.end_frame > self.start_frame >= 0,
            f"clip {self.clip_id} over frames [{self.start_frame}, {self.end_frame})",
        )
        _check(self.num_segments >= 0, f"clip {self.clip_id} of {self.num_segments} segments")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Keep or drop, with reasons; the first reason is the one that counts in totals."""

    clip_id: str
    verdict: Verdict
    reasons: tuple[Reason, ...]

    def __post_init__(self) -> None:
        """A dropped clip says why; a kept one has nothing to say."""
        _check(
            (self.verdict is Verdict.DROP) == bool(self.reasons),
            f"clip {self.clip_id}: {self.verdict} for {list(self.reasons)}",
        )


@dataclass(frozen=True, kw_only=True)
class PlannedClip:
    """A kept clip with all that encoding needs to know.

    Attributes:
        height_px: Of the encoded pictures, as `width_px`.
        crop: `PictureArea.crop` of what lies between black bars, empty for the whole picture; only that is encoded.
        caption_origin: JSON about the model that wrote the caption, empty for one that came with the video.
        extra: `Source.extra` as it was when the clip was planned.
    """

    clip_id: str
    source_id: str
    group_id: str
    uri: str
    location: str
    caption: str
    licence: str
    split: Split
    shot_index: int
    clip_index: int
    start_frame: int
    end_frame: int
    start_s: float
    end_s: float
    fps: float
    num_segments: int
    height_px: int
    width_px: int
    scores: Mapping[str, float]
    content_id: str = ""
    sha256: str = ""
    crop: str = ""
    caption_origin: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_frames(self) -> int:
        """Frames on the grid."""
        return clip_num_frames(self.num_segments)


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """A shard that will be written: its name, where it goes, and the clips in it, in order."""

    name: str
    bucket: str
    clips: tuple[PlannedClip, ...]

    @property
    def key(self) -> str:
        """Path below ``shards/`` without a suffix."""
        return f"{self.bucket}/{self.name}"

    @property
    def fingerprint_prefix(self) -> str:
        """First hex digits of the encode fingerprint, which the name starts with."""
        return self.name.partition("-")[0]


@dataclass(frozen=True, kw_only=True)
class TextFeatures:
    """What the text encoders say of a caption.

    Attributes:
        llama_LD: Token features, (L, D).
        mask_L: 1 for a real token and 0 for padding, (L,) int64.
        clip_pooled_D: Pooled sentence feature, (D,).
    """

    llama_LD: NDArray[np.float32]
    mask_L: NDArray[np.int64]
    clip_pooled_D: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class LatentSample:
    """An encoded clip.

    Attributes:
        key: The clip's id and the sample's name in its shard.
        latents_CTHW: The clip encoded as one video, scaled, (C, 1 + 9 n, h, w).
        start_latent_CTHW: Its first frame encoded alone, (C, 1, h, w).
        siglip_ND: Features of the first frame, (N, D).
        metadata: Source, frames, rate, scores, caption, codec record, fingerprints; JSON values only.
    """

    key: str
    latents_CTHW: NDArray[np.float32]
    start_latent_CTHW: NDArray[np.float32]
    text: TextFeatures
    siglip_ND: NDArray[np.float32]
    metadata: Mapping[str, object]

    def __post_init__(self) -> None:
        """Hold the latents to the grid."""
        shape = self.latents_CTHW.shape
        _check(
            len(shape) == 4 and (shape[1] - 1) % LATENTS_PER_SEGMENT == 0,
            f"{self.key}: latents of shape {shape}; expected (C, 1 + 9 n, h, w)",
        )
        _check(
            self.start_latent_CTHW.shape == (shape[0], 1, *shape[2:]),
            f"{self.key}: start latent of shape {self.start_latent_CTHW.shape} beside latents of {shape}",
        )

    def __repr__(self) -> str:
        """Shapes instead of data."""
        return f"LatentSample({self.key}, latents={self.latents_CTHW.shape}, text={self.text.llama_LD.shape}, image={self.siglip_ND.shape})"


@dataclass(frozen=True, kw_only=True)
class IndexRow:
    """Where one member of a shard lies, with its checksums (``*.index.parquet``, one row a member).

    Attributes:
        key: The sample's key.
        member: File name in the tar.
        offset: First byte of the member's data.
        size: Bytes of the member's data.
        num_segments: Segments of the sample.
        sha256: For `verify`.
        xxh3: For reading, fast.
    """

    key: str
    member: str
    offset: int
    size: int
    num_segments: int
    sha256: str
    xxh3: str


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One written shard: what the `encodes` ledger row says, which is the commit.

    Attributes:
        key: ``<bucket>/<name>``.
        sha256: Of the tar's bytes.
        size: Bytes of the tar.
        clip_ids: Samples in it, in order.
        failed: Clips that could not be encoded, with one line for people each.
        effort: What encoding took, None where nobody measured; equal shards may have taken unequal time.
    """

    key: str
    sha256: str
    size: int
    clip_ids: tuple[str, ...]
    failed: Mapping[str, str]
    effort: Effort | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class CodecRecord:
    """Which codec wrote the latents, and the sizes that a model must have to read them."""

    codec_id: str
    latent_channels: int
    spatial_stride: int
    text_dim: int
    text_tokens: int
    pooled_dim: int
    image_dim: int
    image_tokens: int
    weights_sha256: str
    options: Mapping[str, object]
