"""Settings of every step from raw video to shard: units, ranges and where a value comes from."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class Settings(BaseModel):
    """Base of all settings: immutable, and a key that does not exist is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, strict=True, allow_inf_nan=False
    )


Seconds = Annotated[float, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[int, Field(gt=0, multiple_of=16)]


def _known_device(name: str) -> str:
    # torch itself would say so only in a worker, when the weights are loaded
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ValueError("a device is cpu, mps, cuda, or cuda:N for one GPU")
    return name


Device = Annotated[str, AfterValidator(_known_device)]
"""Where torch computes; whether this machine has it shows when it is used."""


class TableColumns(Settings):
    """What the columns of a metadata table are called; every other column is passed through.

    A name that is changed here must be in the table. MiraData's and Sekai's tables are known by their own columns.
    """

    path: str = "path"
    """The video: a path relative to the table, or to `sources.videos_folder`; an absolute path; or a URI."""
    caption: str = "caption"
    """What the video shows."""
    licence: str = "licence"
    """Its licence."""
    group: str = "group_id"
    """The original video; rows of one group never stand in two splits."""
    start_frame: str = "start_frame"
    """First frame that the row means, counted from 0 at the start of the file."""
    end_frame: str = "end_frame"
    """The frame after its last one."""
    fps: str = ""
    """Rate that these two count at, in frames a second, if the video at hand may have another one: they mean the moments frame /
    rate then. Empty if they are the video's own frames, whatever a table says of rates."""
    start_s: str = "start_s"
    """The same in seconds; a row has frames or seconds."""
    end_s: str = "end_s"
    """The end in seconds, itself not included."""


class SourcesConfig(Settings):
    """Which files of a folder are videos, how tables are read, and how groups are split."""

    video_extensions: tuple[str, ...] = (
        ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".flv",
        ".ogv", ".3gp", ".y4m", ".h264", ".264", ".hevc", ".h265", ".265", ".ivf", ".mxf", ".vob",
    )  # fmt: skip
    """File names in folders that get a row; a file given by name always gets one."""
    columns: TableColumns = TableColumns()
    """How the columns of CSV, TSV, JSONL and Parquet tables are named."""
    videos_folder: str = ""
    """Folder or URI that paths in tables are relative to; empty for the table's own folder."""
    eval_percent: Annotated[int, Field(ge=0, le=50)] = 5
    """Share of groups held out for evaluation, in per cent."""


class ScanConfig(Settings):
    """The one decoding pass over a source, in a child process that may be killed."""

    analysis_width_px: Annotated[int, Field(ge=64, le=640)] = 256
    """Longer side at which frames are analysed (measured: DIS at 256 px gives the numbers of larger sizes)."""
    thumbnail_width_px: Annotated[int, Field(ge=32, le=640)] = 160
    """Width of the stored thumbnails."""
    thumbnail_every_s: Annotated[float, Field(gt=0)] = 1.0
    """Time between stored thumbnails, in seconds."""
    progress_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """No progress for this long ends the attempt; total time is never limited."""
    memory_limit_mb: Annotated[int, Field(ge=256)] = 3072
    """Address space that the decoding child may grow by, in MiB."""
    max_attempts: Positive = 3
    """Deaths, hangs or memory breaches of the child before the source is quarantined."""


class TransitionsConfig(Settings):
    """PySceneDetect proposes cuts, generously, and what motion and exposure do not explain certifies them."""

    adaptive_threshold: Annotated[float, Field(gt=0)] = 1.2
    """Ratio of a frame's content change to its neighbours' (PySceneDetect `AdaptiveDetector`: 3; at 1.2 it proposes every cut
    that was measured, and one frame in 17)."""
    min_content_val: Annotated[float, Field(ge=0)] = 2.5
    """Smallest content change that may be a cut (PySceneDetect: 15; jump cuts within a scene were seen at 3)."""
    window_width: Positive = 2
    """Neighbours on either side that a frame is compared with (PySceneDetect `AdaptiveDetector` default)."""
    cut_ratio: Annotated[float, Field(gt=1)] = 1.5
    """What a cut leaves after motion compensation, in units of its neighbours' (measured: takes up to 1.46, cuts from 1.56)."""
    jump_ratio: Annotated[float, Field(gt=1)] = 1.7
    """The same where only a part of the picture changes (measured: fast hands up to 1.57, jump cuts within a scene from 1.58,
    most from 1.9)."""
    cut_failed_share: Share = 0.08
    """Share of blocks that show something else across a cut (measured: jump cuts from 0.10)."""
    same_take: Share = 0.7
    """A frame that continues another leaves less than this share of what the cut left (measured: flashes up to 0.67, cuts
    from 0.74)."""
    max_flash_frames: Annotated[int, Field(ge=1, le=6)] = 5
    """A picture that is back within so many frames was interrupted by a flash, not by a cut."""


class MotionConfig(Settings):
    """DIS optical flow at low resolution, over three times."""

    short_gap_s: Annotated[float, Field(gt=0, le=1)] = 0.08
    """The short gap: two frames at 24 fps, so that doubled frames of a converted film do not look still."""
    long_gap_s: Annotated[float, Field(gt=0, le=2)] = 0.5
    """The long gap, over which people and things still move one way."""
    far_gap_s: Annotated[float, Field(gt=0, le=4)] = 1.0
    """The far gap, taken every second time: a shaking camera is no farther away than after the long one, a slow flight is."""
    samples_per_s: Annotated[float, Field(gt=0, le=60)] = 4.0
    """Motion measurements a second."""


class ClipsConfig(Settings):
    """How shots become clips; replayed without decoding."""

    fps: Annotated[float, Field(gt=0, le=120)] = 24.0
    """Frames a second of the grid (paper, 4.3: 24 fps)."""
    min_segments: Positive = 1
    """Shortest clip, in segments of 36 frames."""
    max_segments: Positive = 40
    """Longest clip, in segments (paper, 4.1: up to one minute; 40 segments are 60 s at 24 fps)."""
    policy: Literal["split", "drop", "longest"] = "split"
    """A source with several shots is split, dropped, or gives its longest shot; for the last two, what lies black between an end
    of the source and a fade belongs to the fade."""
    guard_s: Seconds = 0.0
    """Kept away from either side of a transition, in seconds."""
    black_luma: Annotated[float, Field(ge=0, le=255)] = 10.0
    """Mean brightness under which a frame is black; night scenes reach 15."""
    black_stretch_s: Annotated[float, Field(gt=0)] = 0.5
    """A shot is divided where it is black for so long, in seconds."""
    frozen_stretch_s: Annotated[float, Field(gt=0)] = 1.0
    """A shot is divided where it shows one picture for so long, in seconds; of real footage, only a hard compressed still scene does."""
    active_dynamism: Annotated[float, Field(ge=0)] = 0.6
    """A moment that moves less is still, in per cent of the diagonal per second."""

    @model_validator(mode="after")
    def _shortest_is_not_longer_than_longest(self) -> Self:
        if self.min_segments > self.max_segments:
            raise ValueError(f"min_segments is {self.min_segments}, more than max_segments, {self.max_segments}")
        return self


class DecideConfig(Settings):
    """Thresholds on scores; replayed without decoding. Dynamism is in per cent of the diagonal per second."""

    min_dynamism: Annotated[float, Field(ge=0)] = 1.2
    """Less is `static`: stills with noise, flicker or changing light stay under 0.5, the stillest wanted clips reach 2.5."""
    max_dynamism: Annotated[float, Field(gt=0)] = 100.0
    """More, of the picture or of the camera alone, is `too_fast`; flow follows up to 160."""
    min_followed: Share = 0.3
    """Correlation of neighbours after motion compensation; less is chaos, `too_fast` (made chaos 0.07, fast footage from 0.7)."""
    min_active_share: Share = 0.3
    """Share of moments that must move; less is `static`."""
    min_steadiness: Share = 0.2
    """Way of the camera over a second, as a share of the way it ran; less is `shaky` where nothing else moves (measured: shake
    0.07, hand-held footage from 0.4)."""
    min_rest_motion: Annotated[float, Field(ge=0)] = 0.2
    """Motion beside one shift, turn and zoom of the whole picture; less, in a clip that moves, is `still_image`. Measured: stills
    under a pan and zoom 0.15 to 0.7, a rendered pan from 0.28, footage from 0.57; a pan over a far, still landscape may look like a
    still. 0.5 finds most stills; 0 is off."""
    max_black_share: Share = 0.5
    """Share of frames darker than `clips.black_luma`; more is `black`."""
    max_frozen_share: Share = 0.5
    """Share of frames in stretches that show one picture; more is `frozen`."""
    min_height_px: Positive = 64
    """Shorter side of what the source shows between black bars, in pixels; less is `too_small`. The shorter side of
    `encode.sizes_px` keeps out nearly all that encoding would enlarge."""
    keep_hdr: bool = True
    """Whether clips of HDR sources (PQ, HLG) are kept; if not they are `hdr`. Their tones are not mapped, so they look flat: false
    where that would teach a model flat pictures."""
    min_source_fps: Annotated[float, Field(gt=0)] = 12.0
    """Frame rate of the source; less is `low_frame_rate`. At half the training rate every frame is shown twice."""
    min_effective_fps: Annotated[float, Field(ge=0)] = 13.0
    """New frames a second of a source that shows frames again; less is `low_frame_rate`: 12 in a container of 24, 12.5 in one of 25.
    A silent film at 17 is fine."""
    min_caption_words: Annotated[int, Field(ge=0)] = 0
    """Words of the caption that came with the video; less is `no_caption`. 0 keeps clips without one, 1 drops them."""


class PlanConfig(Settings):
    """How kept clips are packed into shards."""

    target_shard_mb: Annotated[int, Field(ge=1)] = 256
    """Size at which a shard is full, in MiB of latents."""
    max_samples_per_shard: Positive = 512
    """Clips at which a shard is full."""


class HunyuanPaths(Settings):
    """Where the production encoders' weights are: local folders, or hub ids ``owner/name[/subfolder][@revision]``."""

    vae: str = ""
    """diffusers `AutoencoderKLHunyuanVideo`."""
    text_encoder: str = ""
    """transformers Llama."""
    tokenizer: str = ""
    """Tokenizer of the Llama; empty if it lies in the folder of `text_encoder`."""
    text_encoder_2: str = ""
    """transformers CLIP text model."""
    tokenizer_2: str = ""
    """Tokenizer of the CLIP text model; empty if it lies in the folder of `text_encoder_2`."""
    image_encoder: str = ""
    """transformers SigLIP vision model."""
    feature_extractor: str = ""
    """Image processor of the SigLIP vision model; empty if it lies in the folder of `image_encoder`."""
    revision: str | None = None
    """Hub revision of the ids that name none of their own; None for local folders."""
    allow_download: bool = False
    """Whether a hub may be asked."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type that the encoders compute in; latents are stored in bf16 whatever it is."""
    spatial_tile_px: Annotated[int, Field(ge=64, multiple_of=32)] | None = None
    """Side of the VAE's spatial tiles, blended over a quarter of it; None takes pictures whole. Bounds memory (one activation
    of 17 frames at 480 x 832 is 3.5 GB in fp32, of 256 x 256 0.6 GB), changes latents a little. Diffusers' default is 256."""


class EncodeConfig(Settings):
    """Codec and geometry; a change re-encodes."""

    codec: Literal["dct", "hunyuan"] = "dct"
    """`dct` needs no weights; `hunyuan` is the production set."""
    sizes_px: Annotated[tuple[tuple[Size, Size], ...], Field(min_length=1)] = ((64, 64),)
    """(height, width) buckets; a clip takes the one nearest to its aspect ratio. Multiples of 16."""
    hunyuan: HunyuanPaths = HunyuanPaths()
    """Only read by the `hunyuan` codec."""
    device: Device = "cpu"
    """torch device of the codec."""
    max_attempts: Positive = 3
    """Deaths of the decoding child before a clip is `encode_failed`."""


class ReportConfig(Settings):
    """Prices, in a currency of your own; what has none is left out of the report, and never counted as free."""

    cost_per_cpu_hour: Annotated[float, Field(ge=0)] | None = None
    """Of one hour of CPU time that is used; idle CPUs of a cluster come on top. Your provider's price list."""
    cost_per_gpu_hour: Annotated[float, Field(ge=0)] | None = None
    """Of one hour of a GPU that encoding sets aside (`cluster.gpus_per_encode`). Your provider's price list."""
    cost_per_gb_month: Annotated[float, Field(ge=0)] | None = None
    """Of keeping 10^9 bytes of shards for a month. Your provider's price list."""


class CaptionsConfig(Settings):
    """Captions by a model of the Qwen2.5-VL class; read before planning, so that shards are planned with what is encoded."""

    empty: Literal["encode", "write"] = "encode"
    """A clip without a caption is encoded with an empty one, or gets one written by the model from its pictures. To drop such
    clips instead, set `decide.min_caption_words` to 1."""
    given: Literal["keep", "rewrite"] = "keep"
    """A caption that came with a video is kept, or rewritten by the model (paper, 4.3, for the prompts of its evaluation: Qwen2.5-VL)."""
    model: str = ""
    """Folder of a transformers `Qwen2_5_VLForConditionalGeneration` with its tokenizer and image processor, or a hub id
    ``owner/name@revision``; read only if one of the two above asks for it."""
    revision: str | None = None
    """Hub revision of an id that names none of its own; None for a local folder."""
    allow_download: bool = False
    """Whether a hub may be asked."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type that the model computes in."""
    device: Device = "cpu"
    """torch device of the model."""
    num_frames: Annotated[int, Field(ge=1, le=64)] = 8
    """Pictures that the model sees of a clip, spread evenly over it, at the size that is encoded."""
    max_new_tokens: Annotated[int, Field(ge=1, le=2048)] = 256
    """Longest answer, in tokens: as many as the Llama encoder takes."""
    write_instruction: str = (
        "These are frames of one video in order. Describe it in one paragraph: who or what is seen and what happens, "
        "the surroundings, the camera's motion, light and style. Say only what is visible."
    )
    """What the model is asked about a clip's pictures."""
    rewrite_instruction: str = (
        "Rewrite this description of a video as one fluent paragraph in English that names subject, motion, surroundings, "
        "camera and style. Keep all facts, add none, and answer with the description alone:"
    )
    """What the model is asked about a caption, which follows it."""
