"""What dataset.json keeps of the settings that a dataset was made with: its recipe, the share for eval, the codec."""

from collections.abc import Callable
from dataclasses import replace

from pipeline.config import Recipe, fingerprint
from pipeline.decisions import decide_fingerprint
from pipeline.jobs.encode import fetch_codec_record
from preprocessing.dataset import Dataset, DatasetRecord
from preprocessing.encode import encode_fingerprint
from preprocessing.samples import CodecRecord

DECIDED_EVAL_PERCENT = "eval percent of decisions"
"""Under this name dataset.json keeps the share of groups that its clips were decided with; older versions did not."""

ENCODE_SETTINGS = "encode settings"
"""Under this name dataset.json keeps which settings its codec record belongs to."""


class StoredSettings:
    """The settings of one run beside those that its dataset keeps; nothing is kept before it is accepted."""

    def __init__(
        self, dataset: Dataset, recipe: Recipe, *, need_ray: Callable[[], None], ray_is_up: Callable[[], bool]
    ) -> None:
        """Write nothing yet.

        Args:
            dataset: Keeps them.
            recipe: Those of this run.
            need_ray: Starts Ray, or connects to it.
            ray_is_up: Whether somebody did.
        """
        self._dataset, self._recipe = dataset, recipe
        self._need_ray, self._ray_is_up = need_ray, ray_is_up
        self._codec: CodecRecord | None = None

    def keep_recipe(self, **fingerprints: str) -> None:
        """Keeps the recipe, in one write with the fingerprints that change with it."""
        recipe, decided = self._recipe.model_dump(mode="json"), str(self.eval_percent())
        steps = {DECIDED_EVAL_PERCENT: decided, "decide": decide_fingerprint(self._recipe), **fingerprints}
        self._write(replace(self._dataset.record(), recipe=recipe), **steps)

    def eval_percent(self) -> int:
        """The share that the clips were decided with: `scan` and `encode` alone decide nothing, whatever their recipes say."""
        record = self._dataset.record()
        if DECIDED_EVAL_PERCENT in record.fingerprints:
            return int(record.fingerprints[DECIDED_EVAL_PERCENT])
        return record.recipe["sources"]["eval_percent"] if record.recipe else self._recipe.sources.eval_percent

    def keep_eval_percent(self) -> None:
        """Keeps the share of this run, which has decided with it."""
        self._write(self._dataset.record(), **{DECIDED_EVAL_PERCENT: str(self._recipe.sources.eval_percent)})

    def codec(self) -> CodecRecord:
        """What the codec says of itself: asked of a worker, unless nothing else needs Ray and we know already."""
        if self._codec is None:
            known = known_codec(self._dataset.record(), self._recipe)
            if known is None or self._ray_is_up():
                self._need_ray()
                known = fetch_codec_record(self._recipe)
            self._codec = known
        return self._codec

    def keep_codec(self) -> None:
        """Keeps for which codec the dataset is planned; only once these settings are known not to be refused."""
        self._write(
            replace(self._dataset.record(), codec=self.codec()), **{ENCODE_SETTINGS: codec_settings(self._recipe)}
        )

    def encode_fingerprint(self) -> str:
        """Of the codec with its options and sizes: shards that were planned under another one are not for this run."""
        return encode_fingerprint(self._recipe.encode, self.codec())

    def _write(self, record: DatasetRecord, **fingerprints: str) -> None:
        self._dataset.write_record(replace(record, fingerprints={**record.fingerprints, **fingerprints}))


def known_codec(record: DatasetRecord, recipe: Recipe) -> CodecRecord | None:
    """What the dataset says of the codec, None if that may be about another one than the recipe's."""
    return record.codec if record.fingerprints.get(ENCODE_SETTINGS) == codec_settings(recipe) else None


def codec_settings(recipe: Recipe) -> str:
    """Changes if the codec might be another one; not with the device, nor with how often it is tried."""
    return fingerprint(recipe.encode.model_copy(update={"device": "", "max_attempts": 1}))
