"""One pass over one source: probe and frames in, transitions, signals over time and thumbnails out.

Everything that touches the file runs in a child process. A bad video is data: it comes back as a failed scan with its reason.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.config import MotionConfig, ScanConfig, TransitionsConfig
from preprocessing.downloads import Downloads, NoRoom
from preprocessing.input_files import NOT_A_FILE
from preprocessing.isolation import ChildFailed, IsolatedWorker
from preprocessing.keys import StorageError
from preprocessing.letterbox import BarFinder, displayed_area
from preprocessing.motion import MotionMeter
from preprocessing.pauses import largest_change
from preprocessing.reasons import Reason
from preprocessing.samples import PictureArea, Probe, Signals, Source, SourceScan, Span, Thumbnail, Transition
from preprocessing.transitions import TransitionDetector
from preprocessing.video_io.decord_reader import DecordFailed
from preprocessing.video_io.frames import Frame, FrameStream
from preprocessing.video_io.probe import UnreadableVideo, probe
from preprocessing.video_io.read import read_frames, read_frames_without_decord, read_span

VERSION = 2

_MIN_SIDE_PX = 16
"""A narrower picture is no picture; it gets its reason later."""
_FRAMES_A_SIGN = 16
_JPEG_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class ScanSettings:
    """All settings that change what a scan measures, and the limits of its child process."""

    scan: ScanConfig
    transitions: TransitionsConfig
    motion: MotionConfig


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What the child hands back."""

    probe: Probe
    decoder: str
    truncated: bool
    transitions: tuple[Transition, ...]
    signals: Signals
    thumbnails: tuple[Thumbnail, ...]
    picture: PictureArea | None
    first_frame: int = 0


def scan_input(source: Source, settings: ScanSettings, worker: IsolatedWorker, downloads: Downloads) -> SourceScan:
    """`scan_source` of a file that may lie in a bucket, with the hash of its content.

    Raises:
        NoRoom: If this machine's disk is full.
    """
    if source.content_id == NOT_A_FILE:
        return failed_scan(source, Reason.UNDECODABLE, "a pipe, a socket or a device; expected a file")
    if source.span is not None and source.span.is_empty:
        return failed_scan(source, Reason.EMPTY_RANGE, f"{source.span} holds no frame; mend the row of the table")
    try:
        path = downloads.local_path(source.location, source.content_id)
        sha256 = source.sha256 or downloads.sha256(source.location, source.content_id)
    except NoRoom:
        raise
    except FileNotFoundError:
        return failed_scan(source, Reason.MISSING, "there is no such object")
    except StorageError as error:
        return failed_scan(source, Reason.UNREACHABLE, str(error))
    found = scan_source(replace(source, location=path), settings, worker)
    return replace(found, source=replace(source, sha256=sha256))


def scan_source(source: Source, settings: ScanSettings, worker: IsolatedWorker) -> SourceScan:
    """Look at a source once; never raises for a bad video.

    A child that dies, hangs or outgrows its memory is tried again `max_attempts` times in all, without decord where that may be
    to blame. What remains is a scan that failed with `TIMEOUT`, `OUT_OF_MEMORY` or `CRASHED`: the caller quarantines it.
    """
    since = worker.spent()
    found = _scan_source(source, settings, worker)
    return replace(found, effort=worker.spent() - since)


def _scan_source(source: Source, settings: ScanSettings, worker: IsolatedWorker) -> SourceScan:
    failure, with_decord = ChildFailed(Reason.CRASHED, "never tried"), True
    for attempt in range(settings.scan.max_attempts):
        if attempt:
            # Killed from outside, it begins again as it was: the choice of decoder shows in the last bits of scores.
            with_decord = with_decord and failure.from_outside
        try:
            if source.span is None:
                measured = worker.call(measure_file, source.location, settings, with_decord)
            else:
                measured = worker.call(measure_span, source.location, source.span, settings)
        except ChildFailed as error:
            failure = error
        except UnreadableVideo as error:
            return failed_scan(source, error.reason, error.message)
        except Exception as error:  # noqa: BLE001 - one odd video must not end the run; its row says what happened
            return failed_scan(source, Reason.CRASHED, f"{type(error).__name__}: {error}")
        else:
            return _scanned(source, measured)
    return failed_scan(source, failure.reason, f"{failure.message}, {settings.scan.max_attempts} times")


def measure_file(path: str, settings: ScanSettings, with_decord: bool) -> Iterator[_Measured | None]:
    """The whole pass, for a child process: signs of life, then the result.

    Raises:
        UnreadableVideo: If no frame decodes.
    """
    probed = probe(path)
    height_px, width_px = analysis_size(probed, settings.scan.analysis_width_px)
    if with_decord:
        try:
            yield from _measure(read_frames(path, probed, height_px=height_px, width_px=width_px), probed, settings)
        except DecordFailed:
            pass  # PyAV may see more; its frames are other pixels, so from the start
        else:
            return
    stream = read_frames_without_decord(path, probed, height_px=height_px, width_px=width_px)
    yield from _measure(stream, probed, settings)


def measure_span(path: str, span: Span, settings: ScanSettings) -> Iterator[_Measured | None]:
    """`measure_file` for a part of the file: what it measures is told in frames and seconds of the file.

    Raises:
        UnreadableVideo: If no frame of the span decodes.
    """
    probed = probe(path)
    height_px, width_px = analysis_size(probed, settings.scan.analysis_width_px)
    stream = read_span(path, probed, span, height_px=height_px, width_px=width_px)
    firsts: list[Frame] = []
    from_zero = FrameStream(stream.decoder, _from_zero(stream, firsts))
    try:
        for measured in _measure(from_zero, probed, settings):
            yield measured and _in_file(measured, firsts[0])
    except UnreadableVideo as error:
        raise UnreadableVideo(error.reason, f"no frame of {span} decodes: the file may be shorter") from error


def _from_zero(stream: FrameStream, firsts: list[Frame]) -> Generator[Frame, None, bool]:
    """The stream's frames, counted and timed from the first one, which is left in `firsts`."""
    for frame in stream:
        first = firsts[0] if firsts else frame
        firsts[:] = [first]
        yield replace(frame, index=frame.index - first.index, timestamp_s=frame.timestamp_s - first.timestamp_s)
    return stream.truncated


def _in_file(measured: _Measured, first: Frame) -> _Measured:
    """What was measured of a span, in frames and seconds of its file."""
    signals, by = measured.signals, first.index
    return replace(
        measured,
        first_frame=by,
        transitions=tuple(
            replace(t, start_frame=t.start_frame + by, end_frame=t.end_frame + by) for t in measured.transitions
        ),
        thumbnails=tuple(replace(thumbnail, frame=thumbnail.frame + by) for thumbnail in measured.thumbnails),
        signals=replace(
            signals,
            timestamps_s=signals.timestamps_s + first.timestamp_s,
            motion_times_s=signals.motion_times_s + first.timestamp_s,
        ),
    )


def analysis_size(probed: Probe, longer_side_px: int) -> tuple[int, int]:
    """(height, width) of the pictures that are analysed."""
    scale = longer_side_px / max(probed.height_px, probed.width_px)
    return max(_MIN_SIDE_PX, round(probed.height_px * scale)), max(_MIN_SIDE_PX, round(probed.width_px * scale))


def _measure(stream: FrameStream, probed: Probe, settings: ScanSettings) -> Iterator[_Measured | None]:
    detector, bars = TransitionDetector(settings.transitions), BarFinder()
    motion = MotionMeter(settings.motion, bars)
    timestamps_s: list[float] = []
    luma: list[float] = []
    change: list[float] = []
    before_HW: NDArray[np.uint8] | None = None
    thumbnails: list[Thumbnail] = []
    for frame in stream:
        gray_HW = np.asarray(cv2.cvtColor(frame.rgb_HWC, cv2.COLOR_RGB2GRAY), np.uint8)
        detector.add(frame.rgb_HWC)
        bars.add(frame.timestamp_s, gray_HW)
        motion.add(frame.timestamp_s, gray_HW)
        timestamps_s.append(frame.timestamp_s)
        luma.append(cv2.sumElems(gray_HW)[0] / gray_HW.size)  # exact, and quicker than numpy
        change.append(0.0 if before_HW is None else largest_change(before_HW, gray_HW))
        before_HW = gray_HW
        if frame.timestamp_s >= len(thumbnails) * settings.scan.thumbnail_every_s:
            thumbnails.append(_thumbnail(frame, settings.scan.thumbnail_width_px))
        if frame.index % _FRAMES_A_SIGN == 0:
            yield None
    if not timestamps_s:
        raise UnreadableVideo(Reason.UNDECODABLE, "the container opens, but no frame of it decodes")
    assert before_HW is not None
    motion_times_s, series = motion.result()
    (rows, columns), (height_px, width_px) = bars.area(), before_HW.shape
    seen = (rows.stop - rows.start) * (columns.stop - columns.start) / before_HW.size
    yield _Measured(
        probe=probed,
        decoder=stream.decoder,
        truncated=stream.truncated,
        transitions=detector.result(),
        signals=Signals(
            timestamps_s=np.array(timestamps_s, np.float64),
            luma=np.array(luma, np.float32) / np.float32(seen),  # bars are black
            motion_times_s=motion_times_s,
            motion=series,
            change=np.array(change, np.float32),
        ),
        thumbnails=tuple(thumbnails),
        picture=displayed_area(
            (rows, columns), (height_px, width_px), height_px=probed.height_px, width_px=probed.width_px
        ),
    )


def _thumbnail(frame: Frame, width_px: int) -> Thumbnail:
    height_px = max(1, round(frame.rgb_HWC.shape[0] * width_px / frame.rgb_HWC.shape[1]))
    small: NDArray[np.uint8] = np.asarray(
        cv2.resize(frame.rgb_HWC, (width_px, height_px), interpolation=cv2.INTER_AREA), np.uint8
    )
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return Thumbnail(frame=frame.index, jpeg=jpeg.tobytes())


def _scanned(source: Source, measured: _Measured) -> SourceScan:
    num_frames = len(measured.signals.timestamps_s)
    declared = measured.probe.num_frames_declared if source.span is None else source.span
    cut_off = f"{num_frames} of {declared or 'an unknown number of'} declared frames decoded"
    return SourceScan(
        source=source,
        ok=True,
        reasons=(Reason.TRUNCATED,) if measured.truncated else (),
        message=cut_off if measured.truncated else "",
        num_frames=num_frames,
        decoder=measured.decoder,
        probe=measured.probe,
        transitions=measured.transitions,
        signals=measured.signals,
        thumbnails=measured.thumbnails,
        first_frame=measured.first_frame,
        picture=measured.picture,
    )


def failed_scan(source: Source, reason: Reason, message: str) -> SourceScan:
    """The scan of a source that gave nothing, and why."""
    return SourceScan(
        source=source,
        ok=False,
        reasons=(reason,),
        message=message,
        num_frames=0,
        decoder="",
        probe=None,
        transitions=(),
        signals=None,
        thumbnails=(),
    )
