"""What a run of preprocessing did and what its dataset holds now: for people, as JSON, and for MLflow."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory, gettempdir

from pipeline.config import Recipe, fingerprint
from pipeline.tracking.tracked_run import Tracking
from preprocessing.dataset import Dataset
from preprocessing.report.pilot import Pilot
from preprocessing.report.summary import DatasetSummary


@dataclass(frozen=True, kw_only=True)
class PreprocessResult:
    """What one run of `preprocess`, or of one of its steps, did, and what the dataset holds now.

    Attributes:
        inputs: Sources that the inputs hold.
        ignored: Files, and rows of tables, that got no row in the dataset.
        scanned: Sources that this run decoded.
        captioned: Clips that a model was asked about in this run.
        without_caption: Clips that wait because no words could be written for them, with a line each.
        encoded_shards: Shards that this run wrote.
        without_file: Clips that wait because their files were gone when they were to be encoded.
        scanned_otherwise: Sources that wait for a scan under the settings of now, with their clips as they were.
        about_other_scans: What to do about them, in words.
        pilot: What the whole input would take, where a limit left some of it out.
    """

    inputs: int = 0
    ignored: tuple[str, ...] = ()
    scanned: int = 0
    captioned: int = 0
    without_caption: Mapping[str, str] = field(default_factory=dict)
    encoded_shards: int = 0
    without_file: int = 0
    scanned_otherwise: int = 0
    about_other_scans: str = ""
    dataset: DatasetSummary
    pilot: Pilot | None = None

    def as_dict(self) -> dict[str, object]:
        """JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        d = self.dataset
        return [
            f"inputs: {self.inputs} sources, {len(self.ignored)} files or rows ignored" + _in_brackets(self.ignored),
            f"done now: {self.scanned} sources scanned, {self.captioned} clips captioned, {self.encoded_shards} shards encoded",
            f"sources: {d.sources_ok} ok ({d.truncated} of them truncated, {d.hdr} HDR), {sum(d.failed.values())} failed"
            + _of(d.failed),
            f"clips: {d.kept} kept ({d.kept_hours:.3f} h), {sum(d.dropped.values())} dropped"
            + _in_brackets([f"{n} {reason}: {d.dropped_hours[reason]:.3f} h" for reason, n in d.dropped.items()]),
            f"kept clips: {d.in_version} in the version, {d.encode_failed} failed to encode, {d.waiting} waiting",
            *filter(None, [self.about_other_scans, _about_gone_files(self.without_file)]),
            *(f"waits for a caption: {clip_id}: {line}" for clip_id, line in self.without_caption.items()),
            _version_line(d),
            *(self.pilot.lines() if self.pilot else ()),
        ]


def _about_gone_files(without_file: int) -> str:
    if not without_file:
        return ""
    return (
        f"the files of {without_file} clips that were to be encoded are gone; the next run that finds them encodes them"
    )


def _version_line(dataset: DatasetSummary) -> str:
    if dataset.manifest is None:
        return "version: none yet"
    held = [
        f"{dataset.samples} samples, {dataset.sample_hours:.3f} h, {dataset.segments} segments, {dataset.shards} shards"
    ]
    left = (
        [f"{dataset.leaving} samples no longer kept, until longtake encode names the next"] if dataset.leaving else []
    )
    return f"version: {dataset.manifest} ({'; '.join(held + left)})"


def _of(counts: Mapping[str, int]) -> str:
    return _in_brackets([f"{number} {reason}" for reason, number in counts.items()])


def _in_brackets(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def track_summary(summary: DatasetSummary, dataset: Dataset, recipe: Recipe, tracking: Tracking) -> None:
    """Says to MLflow what the dataset holds now, with its report, if the server has not got it."""
    uri = dataset.storage.uri
    home = Path(uri) if "://" not in uri else Path(gettempdir()) / "longtake" / fingerprint(uri)
    run = tracking.open_result(
        beside=dataset.storage, kind="preprocess", run_key=fingerprint(asdict(summary)), home=home, line=Path(uri).name,
        kept_in=f"report/report.json in {uri}",
    )  # fmt: skip
    if run is None:
        return
    run.log_params({"recipe": recipe.description, "codec": recipe.encode.codec, "fps": recipe.clips.fps})
    run.set_tags(
        {"longtake.recipe_fingerprint": fingerprint(recipe), "longtake.manifest_sha256": summary.manifest or ""}
    )
    numbers = {name: value for name, value in asdict(summary).items() if isinstance(value, (int, float))}
    reasons = {f"failed/{reason}": number for reason, number in summary.failed.items()}
    reasons |= {f"dropped/{reason}": number for reason, number in summary.dropped.items()}
    reasons |= {f"dropped_hours/{reason}": hours for reason, hours in summary.dropped_hours.items()}
    run.log_metrics_batch({0: {**numbers, **reasons}})
    if summary.manifest:
        run.log_dataset(name=Path(uri).name, manifest_sha256=summary.manifest, uri=uri)
    with _local_report(dataset) as folder:
        run.log_artifact(folder, folder="report")
        run.finish("FINISHED")


@contextmanager
def _local_report(dataset: Dataset) -> Iterator[Path]:
    """The report's folder; a copy of it where the dataset is on an object store."""
    here = dataset.storage.local_path("report")
    if here is not None:
        yield here
        return
    with TemporaryDirectory(prefix="longtake-report-") as folder:
        for key in dataset.storage.list("report"):
            (Path(folder) / PurePosixPath(key).name).write_bytes(dataset.storage.read_bytes(key))
        yield Path(folder)
