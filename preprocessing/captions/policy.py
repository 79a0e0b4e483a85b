"""Which clips need words of a model, and which words they have; pure, by columns."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from preprocessing.config import CaptionsConfig
from preprocessing.plan_rows import same_clips
from preprocessing.relations import only, texts


class Work(StrEnum):
    """What a model does for a clip."""

    WRITE = "write"
    REWRITE = "rewrite"


@dataclass(frozen=True, kw_only=True)
class CaptionerRecord:
    """Which model writes.

    Attributes:
        model: Hub id, or name of the local folder.
        revision: Of the hub id; empty for a local folder.
        weights_sha256: Hash of its safetensors files.
        version: Of the code around it.
    """

    model: str
    revision: str
    weights_sha256: str
    version: int


def is_asked_for(settings: CaptionsConfig) -> bool:
    """Whether the settings want any words of a model."""
    return settings.empty == "write" or settings.given == "rewrite"


def instruction(work: Work, settings: CaptionsConfig) -> str:
    """What the model is asked."""
    return settings.write_instruction if work is Work.WRITE else settings.rewrite_instruction


def caption_fingerprint(work: Work, settings: CaptionsConfig, captioner: CaptionerRecord) -> str:
    """What the words depend on, hex: weights, instruction and decoding; not where the weights lie, nor on which device."""
    content = {
        "work": str(work),
        "version": captioner.version,
        "weights": captioner.weights_sha256,
        "dtype": settings.dtype,
        "instruction": instruction(work, settings),
        "max_new_tokens": settings.max_new_tokens,
        "num_frames": settings.num_frames if work is Work.WRITE else 0,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def caption_origin(work: Work, settings: CaptionsConfig, captioner: CaptionerRecord) -> str:
    """What a sample says of where its caption is from, as JSON."""
    asked = hashlib.sha256(instruction(work, settings).encode()).hexdigest()
    origin = {"work": str(work), **asdict(captioner), "instruction_sha256": asked}
    fingerprint = caption_fingerprint(work, settings, captioner)
    return json.dumps({**origin, "fingerprint": fingerprint}, sort_keys=True, ensure_ascii=False)


def clips_for(work: Work, kept: pa.Table, settings: CaptionsConfig) -> pa.Table:
    """The kept clips that the settings want this done for (schema `plan_rows.KEPT`)."""
    return kept.filter(pa.array(_is_for(work, kept, settings)))


def _is_for(work: Work, kept: pa.Table, settings: CaptionsConfig) -> NDArray[np.bool_]:
    is_empty = pc.equal(pc.utf8_trim_whitespace(kept["caption"]), pa.scalar("")).to_numpy()
    if work is Work.WRITE:
        return is_empty & (settings.empty == "write")
    return ~is_empty & (settings.given == "rewrite")


def unasked(clips: pa.Table, captions: pa.Table, fingerprint: str, *, retry_rows: int = 0) -> pa.Table:
    """The clips that no model was asked about under this fingerprint.

    Args:
        clips: As `clips_for` gives them.
        captions: All that was ever said (schema `plan_rows.CAPTIONS`).
        fingerprint: `caption_fingerprint` of the work.
        retry_rows: Failures among the first so many rows are asked about again.
    """
    old = only(captions.slice(0, retry_rows), "failure", [""])
    settled = only(pa.concat_tables([old, captions.slice(retry_rows)]), "fingerprint", [fingerprint])
    asked, _ = same_clips(clips, settled)
    wanted = np.ones(clips.num_rows, bool)
    wanted[asked] = False
    return clips.filter(pa.array(wanted))


def with_captions(kept: pa.Table, captions: pa.Table, origins: Mapping[str, str], settings: CaptionsConfig) -> pa.Table:
    """The kept clips with the captions they are encoded with; those that wait for words are left out.

    Args:
        kept: With the captions that came with the videos (schema `plan_rows.KEPT`).
        captions: All that was ever said (schema `plan_rows.CAPTIONS`).
        origins: `caption_origin` by the fingerprints that hold now.
        settings: Which clips need words.
    """
    needs_words = np.logical_or.reduce([_is_for(work, kept, settings) for work in Work])
    needy = kept.filter(pa.array(needs_words))
    written = only(only(captions, "fingerprint", list(origins)), "failure", [""])
    clip, said = _last_of_each(*same_clips(needy, written))
    done, words = needy.take(clip), written.take(said)
    origin = pa.array([origins[fingerprint] for fingerprint in texts(words["fingerprint"])], pa.string())
    done = _replaced(_replaced(done, "caption", words["text"]), "caption_origin", origin)
    return pa.concat_tables([kept.filter(pa.array(~needs_words)), done])


def failed_captions(kept: pa.Table, captions: pa.Table, fingerprints: Collection[str]) -> dict[str, str]:
    """Kept clips whose last attempt failed, with a line each."""
    current = only(captions, "fingerprint", list(fingerprints))
    clip, said = _last_of_each(*same_clips(kept, current))
    clip_ids, lines = texts(kept["clip_id"].take(clip)), texts(current["failure"].take(said))
    return {clip_id: line for clip_id, line in zip(clip_ids, lines, strict=True) if line}


def _last_of_each(left: NDArray[np.int64], right: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of the pairs with one left row, the last; sorted by the left row, then the right one."""
    is_last = np.append(left[1:] != left[:-1], np.ones(min(1, len(left)), bool))
    return left[is_last], right[is_last]


def _replaced(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)
