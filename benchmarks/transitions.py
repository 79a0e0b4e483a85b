"""Which transitions are found, and what is taken for one: ``python benchmarks/transitions.py [--json] [--real DIR]``.

Renders labelled reels with a fixed seed, writes them as H.264, reads them as a scan does, and prints a table by kind; beside it what
PySceneDetect's own detectors find at their defaults in the same files. A cut counts within 2 frames; a gradual change counts if the
middle of what was found lies in it. What lies in no transition is false; what lies in one that was found already is neutral.

``--real DIR`` splices takes of real videos instead: those of DIR/manifest.jsonl without any transition, or every video of DIR.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scenedetect import AdaptiveDetector, ContentDetector, SceneDetector, SceneManager, open_video

from preprocessing.config import ScanConfig, TransitionsConfig
from preprocessing.rendering.footage import FOOTAGE_FPS, FOOTAGE_HEIGHT_PX, FOOTAGE_WIDTH_PX
from preprocessing.rendering.reels import Recipe, Reel, recipes, recipes_over
from preprocessing.rendering.scenes import Frames
from preprocessing.samples import Transition
from preprocessing.scan import analysis_size
from preprocessing.transitions import TransitionDetector
from preprocessing.video_io.probe import UnreadableVideo, probe
from preprocessing.video_io.read import read_frames_without_decord
from preprocessing.video_io.write import Mp4Writer

TOLERANCE_FRAMES = 2
MIN_TAKE_FRAMES = 144
MAX_TAKE_FRAMES = 400
OURS, ADAPTIVE, CONTENT = "longtake", "AdaptiveDetector", "ContentDetector"


@dataclass
class Tally:
    """Of one kind and one detector."""

    events: int = 0
    found: int = 0
    false: int = 0
    spoiled: int = 0

    def add(self, other: "Tally") -> None:
        """Sum up."""
        self.events += other.events
        self.found += other.found
        self.false += other.false
        self.spoiled += other.spoiled


def main() -> None:
    """Render, detect, count, print."""
    options = _parser().parse_args()
    chosen = recipes_over(real_takes(options.real)) if options.real else recipes()
    tallies: dict[str, dict[str, Tally]] = {}
    for recipe in chosen:
        tallies[recipe.kind] = {}
        for reel in reels(recipe, options.seed, options.events):
            for detector, found in _detected(reel, others=not options.ours_only).items():
                tallies[recipe.kind].setdefault(detector, Tally()).add(tally(reel, found))
    print(json.dumps(_figures(tallies)) if options.json else _table(tallies))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--events", type=int, default=20, help="transitions or decoys of each kind, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=Path, help="splice the takes of this folder instead of rendered footage")
    parser.add_argument("--ours-only", action="store_true", help="leave PySceneDetect's detectors out")
    return parser


def reels(recipe: Recipe, seed: int, events: int) -> Iterator[Reel]:
    """The reels of a kind; the same for the same seed, whatever other kinds there are."""
    for index in range(-(-events // recipe.events)):
        yield recipe.make(np.random.default_rng([seed, index, *recipe.kind.encode()]))


def tally(reel: Reel, found: Sequence[tuple[int, int]]) -> Tally:
    """Count what a detector found in a reel, as half-open ranges; a cut is an empty one."""
    middles = [(start + end) // 2 for start, end in found]
    hits = [sum(_inside(middle, transition) for middle in middles) for transition in reel.transitions]
    false = sum(not any(_inside(middle, transition) for transition in reel.transitions) for middle in middles)
    spoiled = int(reel.is_decoy and false > 0)
    return Tally(
        events=1 if reel.is_decoy else len(hits), found=sum(hit > 0 for hit in hits), false=false, spoiled=spoiled
    )


def _inside(middle: int, transition: Transition) -> bool:
    last = max(transition.start_frame, transition.end_frame - 1)
    return transition.start_frame - TOLERANCE_FRAMES <= middle <= last + TOLERANCE_FRAMES


def _detected(reel: Reel, *, others: bool) -> dict[str, list[tuple[int, int]]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reel.mp4"
        _write(reel.frames_NHW3, path)
        found = {OURS: [(change.start_frame, change.end_frame) for change in _ours(path)]}
        if others:
            found[ADAPTIVE] = _theirs(path, AdaptiveDetector())
            found[CONTENT] = _theirs(path, ContentDetector())
    return found


def _write(frames_NHW3: Frames, path: Path) -> None:
    height, width = frames_NHW3.shape[1:3]
    with Mp4Writer(path, fps=FOOTAGE_FPS, width_px=width, height_px=height, crf=23) as writer:
        for frame_HW3 in frames_NHW3:
            writer.write(frame_HW3)


def _ours(path: Path) -> tuple[Transition, ...]:
    detector = TransitionDetector(TransitionsConfig())
    for rgb_HWC in _frames(path):
        detector.add(rgb_HWC)
    return detector.result()


def _frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    """As a scan sees them."""
    probed = probe(str(path))
    height_px, width_px = analysis_size(probed, ScanConfig().analysis_width_px)
    for frame in read_frames_without_decord(str(path), probed, height_px=height_px, width_px=width_px):
        yield frame.rgb_HWC


def _theirs(path: Path, detector: SceneDetector) -> list[tuple[int, int]]:
    manager = SceneManager()
    manager.add_detector(detector)
    manager.detect_scenes(open_video(str(path)), show_progress=False)
    return [(start.frame_num, start.frame_num) for start, _ in manager.get_scene_list()[1:]]


def real_takes(folder: Path) -> list[Frames]:
    """Takes of a folder's videos, each at most 400 frames of 256 x 144."""
    manifest = folder / "manifest.jsonl"
    if manifest.exists():
        rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
        plain = [row for row in rows if row["kind"] == "real" and row["score_cuts"] and row["decode"] == "full"]
        names = [row["file"] for row in plain if not (row["cuts"] or row["gradual"] or row["ignore"])]
    else:
        names = sorted(path.name for path in folder.iterdir())
    takes = [_take(folder / name) for name in names]
    return [take for take in takes if len(take) >= MIN_TAKE_FRAMES]


def _take(path: Path) -> Frames:
    size = (FOOTAGE_WIDTH_PX, FOOTAGE_HEIGHT_PX)
    frames: list[NDArray[np.uint8]] = []
    try:
        for rgb_HWC in _frames(path):
            frames.append(np.asarray(cv2.resize(rgb_HWC, size, interpolation=cv2.INTER_AREA), np.uint8))
            if len(frames) == MAX_TAKE_FRAMES:
                break
    except UnreadableVideo:
        pass  # what plays of it is a take, or too short
    return np.stack(frames) if frames else np.empty((0, FOOTAGE_HEIGHT_PX, FOOTAGE_WIDTH_PX, 3), np.uint8)


def _groups(tallies: dict[str, dict[str, Tally]], detector: str) -> dict[str, Tally]:
    """The sums that thresholds are set for."""
    sums = {name: Tally() for name in ("cuts", "dissolves", "fades", "decoys")}
    for kind, of_kind in tallies.items():
        name = next((group for group in sums if kind.startswith(group[:-1])), "decoys")
        if kind.startswith(("jump", "shots of", "dark")):
            name = "cuts"
        sums[name].add(of_kind[detector])
    return sums


def _figures(tallies: dict[str, dict[str, Tally]]) -> dict[str, object]:
    detectors = list(next(iter(tallies.values())))
    kinds = {kind: {name: vars(count) for name, count in of_kind.items()} for kind, of_kind in tallies.items()}
    return {"kinds": kinds, "sums": {name: _sums(tallies, name) for name in detectors}}


def _sums(tallies: dict[str, dict[str, Tally]], detector: str) -> dict[str, float]:
    groups = _groups(tallies, detector)
    found, false = (sum(getattr(count, name) for count in groups.values()) for name in ("found", "false"))
    recall = {f"{name}_recall": groups[name].found / max(1, groups[name].events) for name in groups if name != "decoys"}
    decoys = {"decoys": groups["decoys"].events, "decoys_taken": groups["decoys"].spoiled}
    events = {f"{name}_events": groups[name].events for name in groups if name != "decoys"}
    rounded = {name: round(value, 4) for name, value in recall.items()}
    return rounded | {"precision": round(found / max(1, found + false), 4), "false": false} | events | decoys


def _table(tallies: dict[str, dict[str, Tally]]) -> str:
    detectors = list(next(iter(tallies.values())))
    lines = [
        f"{'kind':44}{'events':>7}" + "".join(f"{name:>26}" for name in detectors),
        " " * 51 + "     found / decoys, false" * len(detectors),
    ]
    for kind, of_kind in tallies.items():
        cells = [f"{count.found or count.spoiled:>18}{count.false:>8}" for count in of_kind.values()]
        lines.append(f"{kind:44}{next(iter(of_kind.values())).events:>7}" + "".join(cells))
    lines += [f"{name}: {json.dumps(_sums(tallies, name))}" for name in detectors]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
