"""The closed list of reason codes: why a source failed, or why a clip was dropped; and the line of a clip whose file is gone."""

from enum import StrEnum


class Reason(StrEnum):
    """A machine-readable reason; `SENTENCES` holds the same for people."""

    UNDECODABLE = "undecodable"
    NO_VIDEO_STREAM = "no_video_stream"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    EMPTY_RANGE = "empty_range"
    MISSING = "missing"
    UNREACHABLE = "unreachable"
    DUPLICATE = "duplicate"
    TOO_SHORT = "too_short"
    TOO_SMALL = "too_small"
    NO_CAPTION = "no_caption"
    LOW_FRAME_RATE = "low_frame_rate"
    HDR = "hdr"
    BLACK = "black"
    FROZEN = "frozen"
    STATIC = "static"
    SLIDESHOW = "slideshow"
    STILL_IMAGE = "still_image"
    SHAKY = "shaky"
    TOO_FAST = "too_fast"
    TRANSITION_INSIDE = "transition_inside"
    ENCODE_FAILED = "encode_failed"


SENTENCES: dict[Reason, str] = {
    Reason.UNDECODABLE: "the file is not a video, is empty, or no frame of it decodes",
    Reason.NO_VIDEO_STREAM: "the container opens but holds no video stream",
    Reason.TRUNCATED: "the file ends before its declared end; what decoded is used, but for clips in which little moves",
    Reason.TIMEOUT: "decoding made no progress for the allowed time",
    Reason.OUT_OF_MEMORY: "decoding outgrew its memory limit",
    Reason.CRASHED: "the decoding process died",
    Reason.EMPTY_RANGE: "the range that a table's row names holds nothing: its end does not come after its start",
    Reason.MISSING: "the file is not there, or no longer",
    Reason.UNREACHABLE: "the store did not hand the file out; the next run asks again",
    Reason.DUPLICATE: "another source has the same content",
    Reason.TOO_SHORT: "the shot is shorter than one segment",
    Reason.TOO_SMALL: "the shorter side of the picture has fewer pixels than the recipe asks for",
    Reason.NO_CAPTION: "the video came with no caption, or too short a one",
    Reason.LOW_FRAME_RATE: "the frame rate, not counting frames shown again, is too low for the training rate",
    Reason.HDR: "the video is HDR, its tones would not be mapped, and decide.keep_hdr is off",
    Reason.BLACK: "most of the clip is black",
    Reason.FROZEN: "one picture is shown again and again",
    Reason.STATIC: "nothing moves",
    Reason.SLIDESHOW: "still pictures follow each other",
    Reason.STILL_IMAGE: "a still picture under a pan or zoom: everything moves as one",
    Reason.SHAKY: "the camera shakes without going anywhere, and nothing else moves",
    Reason.TOO_FAST: "the motion is too fast to follow",
    Reason.TRANSITION_INSIDE: "a transition lies inside the clip",
    Reason.ENCODE_FAILED: "the clip was kept, but encoding it failed",
}

_GONE = " is gone: there is no "


def gone_line(uri: str, location: str) -> str:
    """What is said of a clip whose file was not there when it was to be encoded: not the clip is to blame, so it is tried again."""
    return f"{uri}{_GONE}{location} any more"


def says_gone(line: str) -> bool:
    """Whether this is a `gone_line`."""
    return _GONE in line
