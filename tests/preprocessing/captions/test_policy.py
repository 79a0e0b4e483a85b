import json
from dataclasses import asdict

import pyarrow as pa
import pytest

from preprocessing.captions.policy import (
    CaptionerRecord,
    Work,
    caption_fingerprint,
    caption_origin,
    clips_for,
    failed_captions,
    unasked,
    with_captions,
)
from preprocessing.config import CaptionsConfig
from preprocessing.plan_rows import CAPTIONS, KEPT
from preprocessing.rows import SCORES

MODEL = CaptionerRecord(model="owner/name", revision="a" * 40, weights_sha256="f" * 64, version=1)
WRITE = CaptionsConfig(empty="write")
REWRITE = CaptionsConfig(given="rewrite")
BOTH = CaptionsConfig(empty="write", given="rewrite")


def kept(**captions: str) -> pa.Table:
    clip = {
        "source_id": "s", "group_id": "g", "uri": "raw/a.mp4", "location": "/raw/a.mp4", "licence": "", "split": "train",
        "shot_index": 0, "clip_index": 0, "start_frame": 0, "end_frame": 37, "start_s": 0.0, "end_s": 1.5, "fps": 24.0,
        "num_segments": 1, "height_px": 64, "width_px": 64, "scores": dict.fromkeys(SCORES, 0.0), "content_id": "1-1",
        "sha256": "", "crop": "", "caption_origin": "",
    }  # fmt: skip
    rows = [{**clip, "clip_id": clip_id, "caption": caption} for clip_id, caption in captions.items()]
    return pa.Table.from_pylist(rows, schema=KEPT)


def said(clips: pa.Table, text: str, fingerprint: str, failure: str = "") -> pa.Table:
    rows = [{**row, "text": text, "failure": failure, "fingerprint": fingerprint} for row in clips.to_pylist()]
    return pa.Table.from_pylist(rows, schema=CAPTIONS)


def captions_of(clips: pa.Table) -> dict[str, str]:
    return dict(zip(clips["clip_id"].to_pylist(), clips["caption"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("settings", "written", "rewritten"),
    [
        (CaptionsConfig(), [], []),
        (WRITE, ["blank", "empty"], []),
        (REWRITE, [], ["given"]),
        (BOTH, ["blank", "empty"], ["given"]),
    ],
)
def test_empty_captions_are_written_and_given_ones_rewritten_where_the_settings_say_so(
    settings: CaptionsConfig, written: list[str], rewritten: list[str]
) -> None:
    clips = kept(given="a dog", blank=" \n ", empty="")
    assert clips_for(Work.WRITE, clips, settings)["clip_id"].to_pylist() == written
    assert clips_for(Work.REWRITE, clips, settings)["clip_id"].to_pylist() == rewritten


def test_a_clip_waits_until_it_has_its_words_and_others_do_not() -> None:
    clips, prints = kept(given="a dog", empty=""), {caption_fingerprint(Work.WRITE, WRITE, MODEL): "{}"}
    assert captions_of(with_captions(clips, CAPTIONS.empty_table(), prints, WRITE)) == {"given": "a dog"}
    words = said(clips_for(Work.WRITE, clips, WRITE), "waves", *prints)
    assert captions_of(with_captions(clips, words, prints, WRITE)) == {"given": "a dog", "empty": "waves"}
    assert captions_of(with_captions(clips, words, prints, CaptionsConfig())) == {"given": "a dog", "empty": ""}


def test_the_last_words_under_the_current_settings_count() -> None:
    clips = kept(empty="")
    words = pa.concat_tables([said(clips, "first", "now"), said(clips, "last", "now"), said(clips, "else", "before")])
    assert captions_of(with_captions(clips, words, {"now": "{}"}, WRITE)) == {"empty": "last"}


def test_nobody_is_asked_twice_unless_the_file_the_settings_or_a_retry_ask_for_it() -> None:
    clips = kept(empty="")
    words = said(clips, "waves", "now")
    assert unasked(clips, words, "now").num_rows == 0
    assert unasked(clips, words, "other").num_rows == 1
    changed = clips.set_column(clips.column_names.index("content_id"), "content_id", pa.array(["2-2"]))
    assert unasked(changed, words, "now").num_rows == 1
    failure = said(clips, "", "now", failure="gone")
    assert unasked(clips, failure, "now").num_rows == 0
    assert unasked(clips, failure, "now", retry_rows=1).num_rows == 1
    assert unasked(clips, pa.concat_tables([failure, failure]), "now", retry_rows=1).num_rows == 0


def test_a_failure_leaves_the_clip_out_and_is_told_until_it_succeeds() -> None:
    clips = kept(empty="")
    failure, success = said(clips, "", "now", failure="gone"), said(clips, "waves", "now")
    assert with_captions(clips, failure, {"now": "{}"}, WRITE).num_rows == 0
    assert failed_captions(clips, failure, ["now"]) == {"empty": "gone"}
    assert failed_captions(clips, pa.concat_tables([failure, success]), ["now"]) == {}


def test_the_fingerprint_changes_with_model_and_question_and_not_with_the_place() -> None:
    now = caption_fingerprint(Work.WRITE, WRITE, MODEL)
    elsewhere = CaptionsConfig(empty="write", model="/other", device="cuda", rewrite_instruction="Else:")
    assert caption_fingerprint(Work.WRITE, elsewhere, MODEL) == now
    assert caption_fingerprint(Work.REWRITE, WRITE, MODEL) != now
    other = CaptionerRecord(**{**asdict(MODEL), "weights_sha256": "0" * 64})
    assert caption_fingerprint(Work.WRITE, WRITE, other) != now
    for change in ({"write_instruction": "Else:"}, {"num_frames": 4}, {"max_new_tokens": 9}, {"dtype": "bfloat16"}):
        assert caption_fingerprint(Work.WRITE, WRITE.model_copy(update=change), MODEL) != now


def test_the_origin_names_model_revision_and_instruction() -> None:
    origin = json.loads(caption_origin(Work.WRITE, WRITE, MODEL))
    assert (origin["model"], origin["revision"], origin["work"]) == ("owner/name", "a" * 40, "write")
    assert len(origin["instruction_sha256"]) == 64
    assert origin["fingerprint"] == caption_fingerprint(Work.WRITE, WRITE, MODEL)
