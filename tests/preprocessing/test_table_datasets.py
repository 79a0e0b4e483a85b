"""Tables in MiraData's and Sekai's format over small videos: the right clips, captions, groups and splits."""

import csv
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocessing.config import ClipsConfig, DecideConfig, MotionConfig, ScanConfig, SourcesConfig, TransitionsConfig
from preprocessing.downloads import Downloads
from preprocessing.isolation import IsolatedWorker
from preprocessing.ledger import Ledger
from preprocessing.plan import kept_clips
from preprocessing.plan_rows import planned_clips
from preprocessing.replay import decided_clips
from preprocessing.samples import PlannedClip
from preprocessing.scan import ScanSettings, scan_input
from preprocessing.sources import find_sources
from preprocessing.splits import split_of
from preprocessing.storage import open_storage
from preprocessing.video_io.probe import probe
from preprocessing.video_io.read import read_clip
from preprocessing.video_io.write import Mp4Writer

KEEP_PANS = DecideConfig(min_rest_motion=0.0)
"""The films here are pans over a still texture."""
SETTINGS = ScanSettings(scan=ScanConfig(), transitions=TransitionsConfig(), motion=MotionConfig())
CAPTION = 'Long, with "quotes",\nand lines.'


@pytest.fixture(scope="module")
def worker() -> Iterator[IsolatedWorker]:
    with IsolatedWorker(progress_timeout_s=120, memory_limit_mb=1024) as worker:
        yield worker


def write_film(path: Path, num_frames: int, *, cut_at: int | None = None, first: int = 0) -> None:
    """A pan over a texture, another one from `cut_at` on; `first` starts in the middle of the pan."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    noise = rng.integers(20, 235, (2, 8, 60)).astype(np.uint8)
    textures = [cv2.resize(seeds, (1200, 96), interpolation=cv2.INTER_CUBIC) for seeds in noise]
    with Mp4Writer(path, fps=24, width_px=128, height_px=96) as writer:
        for k in range(first, first + num_frames):
            gray_HW = textures[int(cut_at is not None and k >= cut_at)][:, 2 * k : 2 * k + 128]
            writer.write(gray_HW[:, :, None].repeat(3, 2))


def write_table(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def clips_of(table: Path, dataset: Path, worker: IsolatedWorker) -> tuple[Ledger, list[PlannedClip]]:
    """All that happens between a table and the plan, as the jobs do it."""
    ledger, config = Ledger(open_storage(str(dataset))), SourcesConfig(eval_percent=50)
    listing = find_sources([str(table)], config, limit=None)
    downloads = Downloads()
    ledger.append_scans([scan_input(source, SETTINGS, worker, downloads) for source in listing.sources], "f")
    found = decided_clips(ledger.iterate_scans(None), ClipsConfig(), KEEP_PANS, eval_percent=config.eval_percent)
    ledger.append_clips(found, ledger.undecided_sources("f"), fingerprint="f")
    kept = planned_clips(kept_clips(ledger.sources(), ledger.clips(), [(64, 64)], eval_percent=config.eval_percent))
    return ledger, sorted(kept, key=lambda c: (c.uri, c.start_frame))


def miradata_row(index: str, video_id: str, start: int, end: int, caption: str) -> dict[str, object]:
    return {
        "index": index, "video_id": video_id, "start_frame": start, "end_frame": end, "main_object_caption": "x",
        "short_caption": "short", "dense_caption": caption, "fps": 24.0, "start_timestep": "0:00:00", "": "",
    }  # fmt: skip


def test_rows_of_miradata_give_clips_inside_their_ranges(worker: IsolatedWorker, tmp_path: Path) -> None:
    whole = "raw_video/000000002/000000002001_AJp_ANXoGoM.mp4"
    write_film(tmp_path / "mira" / whole, 260, cut_at=170)
    write_film(tmp_path / "mira/clip_video/000000000/000000000007_b-c-000003.mp4", 80)
    table = write_table(
        tmp_path / "mira/miradata_v0.csv",
        [
            miradata_row("000000002001_AJp_ANXoGoM-000000", "AJp_ANXoGoM", 20, 110, CAPTION),
            miradata_row("000000002001_AJp_ANXoGoM-000001", "AJp_ANXoGoM", 110, 250, "second, over a cut"),
            miradata_row("000000000007_b-c-000003", "b-c", 500, 580, "cut already"),
            miradata_row("000000000009_gone-000000", "gone", 0, 50, "never downloaded"),
        ],
    )
    ledger, clips = clips_of(table, tmp_path / "d", worker)
    assert [(c.uri.removeprefix("mira/"), c.start_frame, c.end_frame, c.caption, c.group_id) for c in clips] == [
        ("clip_video/000000000/000000000007_b-c-000003.mp4", 0, 73, "cut already", "b-c"),
        (whole, 20, 93, CAPTION, "AJp_ANXoGoM"),
        (whole, 110, 147, "second, over a cut", "AJp_ANXoGoM"),
        (whole, 170, 243, "second, over a cut", "AJp_ANXoGoM"),
    ]
    assert len({c.split for c in clips if c.group_id == "AJp_ANXoGoM"}) == 1
    assert [c.split for c in clips] == [split_of(c.group_id, 50) for c in clips]
    assert clips[1].extra["main_object_caption"] == "x"
    assert clips[1].extra["index"] == "000000002001_AJp_ANXoGoM-000000"
    rows = ledger.sources().to_pylist()
    assert [row["reason"] for row in rows if row["status"] == "failed"] == ["missing"]
    assert all(dict(row["extra"])["short_caption"] == "short" for row in rows)


def test_a_clip_of_a_range_reads_the_frames_of_its_file(worker: IsolatedWorker, tmp_path: Path) -> None:
    write_film(tmp_path / "s/a_b_x.mp4", 200)
    table = write_table(
        tmp_path / "s/sekai-real-walking.csv", [{"videoFile": "a_b_x_0000075_0000225.mp4", "caption": CAPTION}]
    )  # at 30 frames a second, of a film at 24: 2.5 s to 7.5 s
    _, (clip, *_) = clips_of(table, tmp_path / "d", worker)
    path = str(tmp_path / "s/a_b_x.mp4")
    assert (clip.uri, clip.group_id, clip.caption, clip.start_frame) == ("s/a_b_x.mp4", "a_b_x", CAPTION, 60)
    write_film(tmp_path / "part.mp4", 120, first=60)
    grid = {"fps": 24.0, "num_frames": 37, "height_px": 64, "width_px": 64}
    of_whole = np.stack(list(read_clip(path, probe(path), start_frame=clip.start_frame, **grid)))
    of_part = np.stack(
        list(read_clip(str(tmp_path / "part.mp4"), probe(str(tmp_path / "part.mp4")), start_frame=0, **grid))
    )
    assert np.abs(of_whole.astype(float) - of_part).mean() < 6


def test_consecutive_clips_of_sekai_are_one_group(worker: IsolatedWorker, tmp_path: Path) -> None:
    names = ["ab_c_0000000_0000080.mp4", "ab_c_0000080_0000160.mp4", "game_drone.mp4"]
    for k, name in enumerate(names):
        write_film(tmp_path / "sekai" / name, 80, first=80 * k)
    captions = ["one", CAPTION, "three"]
    table = write_table(
        tmp_path / "sekai/sekai-game-drone.csv",
        [
            {
                "videoFile": name,
                "cameraFile": "c.npz",
                "caption": caption,
                "location": "Rome, Italy",
                "weather": "sunny",
            }
            for name, caption in zip(names, captions, strict=True)
        ],
    )
    ledger, clips = clips_of(table, tmp_path / "d", worker)
    assert [(c.uri, c.start_frame, c.end_frame, c.caption, c.group_id) for c in clips] == [
        ("sekai/ab_c_0000000_0000080.mp4", 0, 73, "one", "ab_c"),
        ("sekai/ab_c_0000080_0000160.mp4", 0, 73, CAPTION, "ab_c"),
        ("sekai/game_drone.mp4", 0, 73, "three", "game_drone"),
    ]
    assert clips[0].split == clips[1].split
    assert {dict(row["extra"])["location"] for row in ledger.sources().to_pylist()} == {"Rome, Italy"}
    assert [(c.extra["location"], c.extra["weather"]) for c in clips] == [("Rome, Italy", "sunny")] * 3
