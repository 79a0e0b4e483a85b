import hashlib
from collections import Counter
from pathlib import Path

import av
import pytest

from preprocessing.candidates import candidates_of
from preprocessing.config import ClipsConfig, DecideConfig, MotionConfig, ScanConfig, SourcesConfig, TransitionsConfig
from preprocessing.decide import decisions
from preprocessing.isolation import IsolatedWorker
from preprocessing.reasons import Reason
from preprocessing.rendering.degenerate import degenerate_films
from preprocessing.rendering.demo_set import TRUTH_FILE, demo_films, render_demo, write_film
from preprocessing.rendering.films import Film
from preprocessing.rendering.takes import takes
from preprocessing.rendering.truth import Outcome, Truth, differences
from preprocessing.replay import footage_of
from preprocessing.samples import FRAMES_PER_SEGMENT, SourceScan
from preprocessing.scan import ScanSettings, scan_source
from preprocessing.sources import find_sources


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Truth, ...]]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, render_demo(folder, seed=0)


def _decoded(path: Path) -> tuple[int, float]:
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        assert rate is not None
        return sum(1 for _ in container.decode(video=0)), float(rate)


@pytest.mark.slow
def test_every_video_has_as_many_frames_as_its_truth(demo: tuple[Path, tuple[Truth, ...]]) -> None:
    folder, _ = demo

    for film in demo_films():
        ends = [shot.end_frame for shot in film.shots] + [t.end_frame for t in film.transitions]
        assert _decoded(folder / film.file) == (max(ends), film.form.fps), film.file


@pytest.mark.slow
def test_every_video_has_a_truth_and_every_film_a_caption_beside_it(demo: tuple[Path, tuple[Truth, ...]]) -> None:
    folder, truths = demo

    assert {path.name for path in folder.glob("*.mp4")} == {truth.file for truth in truths}
    assert all((folder / film.file).with_suffix(".txt").read_text() == f"{film.caption}\n" for film in demo_films())


@pytest.mark.slow
def test_broken_files_do_not_decode(demo: tuple[Path, tuple[Truth, ...]]) -> None:
    folder, truths = demo

    broken = [truth.file for truth in truths if truth.failed_for is Reason.UNDECODABLE]
    assert len(broken) == 2
    for name in broken:
        with pytest.raises(av.error.FFmpegError):
            _decoded(folder / name)


@pytest.mark.slow
def test_every_video_is_decided_as_its_truth_has_it(demo: tuple[Path, tuple[Truth, ...]]) -> None:
    folder, truths = demo
    settings = ScanSettings(scan=ScanConfig(), transitions=TransitionsConfig(), motion=MotionConfig())

    with IsolatedWorker(progress_timeout_s=60, memory_limit_mb=3072) as worker:
        sources = find_sources([str(folder)], SourcesConfig(), limit=None).sources
        outcomes = [_outcome(scan_source(source, settings, worker)) for source in sources]

    assert differences(truths, outcomes) == ()


def _outcome(scan: SourceScan) -> Outcome:
    name = Path(scan.source.uri).name
    if scan.probe is None or scan.signals is None:
        return Outcome(file=name, failed_for=scan.reasons[0], kept=0, dropped={})
    found = candidates_of(footage_of(scan), ClipsConfig(max_segments=8))
    reasons = [decision.reasons for decision in decisions(found, DecideConfig())]
    dropped = Counter(first for first, *_ in filter(None, reasons))
    return Outcome(file=name, failed_for=None, kept=reasons.count(()), dropped=dict(dropped))


@pytest.mark.slow
def test_a_second_call_touches_nothing(demo: tuple[Path, tuple[Truth, ...]]) -> None:
    folder, truths = demo
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}

    assert render_demo(folder, seed=0) == truths
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert (folder / TRUTH_FILE).exists()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    film = min(takes(), key=lambda film: film.shots[0].end_frame)
    digests = []
    for run, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(run)
        folder.mkdir()
        write_film(film, folder, seed=seed)
        digests.append(hashlib.sha256((folder / film.file).read_bytes()).hexdigest())

    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("film", takes(), ids=lambda film: film.name)
def test_a_take_holds_three_to_eight_segments_with_room_to_spare(film: Film) -> None:
    (shot,) = film.shots
    frames_24 = int((shot.end_frame - 1) / film.form.fps * 24) + 1

    assert 3 <= (frames_24 - 1) // FRAMES_PER_SEGMENT <= 8
    assert 6 <= (frames_24 - 1) % FRAMES_PER_SEGMENT <= 30


def test_names_are_unique_and_there_are_about_thirty() -> None:
    names = [film.name for film in demo_films()]

    assert len(set(names)) == len(names)
    assert 25 <= len(names) <= 35


def test_there_is_a_film_for_every_way_to_be_useless() -> None:
    reasons = {shot.dropped_for for film in degenerate_films() for shot in film.shots}

    assert reasons == {
        Reason.STATIC, Reason.SHAKY, Reason.BLACK, Reason.TOO_SHORT, Reason.TOO_SMALL, Reason.LOW_FRAME_RATE,
    }  # fmt: skip
