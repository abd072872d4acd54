"""Advice from the figures of a report: the largest losses and gaps, each with a suggested fix."""

from collections.abc import Iterator

from songgen.prepare.engine.record import JsonObject
from songgen.prepare.report.statistics import LARGE_DIFFERENCE
from songgen.prepare.sections import CUTTING_STEP, REFUSAL_CODES
from songgen.prepare.steps.splits import EVALUATION

LARGE_SHARE = 0.1
"""Fraction of the records that reached a step, from which a reason gets advice."""

MIN_HEARD_CLIPS = 3
"""Fewest clips from which the share of words that were heard is judged."""

LITTLE_HEARD = 0.5
"""Fraction of the words of the lyrics that were heard; songs with good transcripts have more."""

KIND_EXAMPLES = {
    "style": "rap, pop, rock",
    "voice": "male vocal, female vocal",
    "instruments": "guitar, piano, drums",
    "mood": "energetic, calm",
    "tempo": "120 bpm, slow tempo",
    "key": "C major, minor key",
}


def advise(report: JsonObject) -> list[str]:
    """Return pieces of advice, the most important first.

    Args:
        report: result of `build_report`.
    """
    if not report["clips"]:
        return ["No clip is left. Start with the most frequent reason below.", *_about_refusals(report)]
    found = [_about_size(report), *_about_refusals(report), *_about_unused(report), *_about_words(report)]
    return [*found, *_about_captions(report), *_about_splits(report)]


def _about_size(report: JsonObject) -> str:
    hours = report["seconds"] / 3600
    scratch, language = (goal["hours"] for goal in report["goals"])
    if hours >= scratch:
        return f"With {hours:,.0f} hours this is of the size that models are trained on from scratch."
    if hours >= language:
        return f"{hours:,.0f} hours are of the size that teaches a trained model a language or a style of its own."
    if hours >= 10:
        return f"{hours:,.0f} hours suit fine-tuning of a trained model; a model of its own needs far more."
    length = f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
    return (
        f"{length} of music are enough to see that everything works, and to fine-tune for a few voices or a style; "
        "they do not make a model that sings any text."
    )


def _about_refusals(report: JsonObject) -> Iterator[str]:
    reached = _reached(report)
    for entry in report["refusals"]:
        share = entry["count"] / reached[entry["step"]]
        if share >= LARGE_SHARE:
            what = f"{entry['count']} of {reached[entry['step']]} that reached `{entry['step']}`"
            code = REFUSAL_CODES.get(entry["code"])
            advice = "" if code is None else code.advice
            yield f"{what} were left out as `{entry['code']}` ({entry['meaning']}). {advice}".strip()


def _reached(report: JsonObject) -> dict[str, int]:
    """Return how many songs or clips reached each step."""
    reached, left = {}, report["songs"]
    for stage in report["stages"][1:]:
        gone = sum(entry["count"] for entry in report["refusals"] if entry["step"] == stage["step"])
        number = stage["songs"] if stage["clips"] is None else stage["clips"]
        # The cutting step gets songs, so the songs before it count, not its clips.
        reached[stage["step"]] = left if stage["step"] == CUTTING_STEP else number + gone
        left = number
    return reached


def _about_unused(report: JsonObject) -> Iterator[str]:
    total = report["stages"][0]["seconds"]
    for entry in report["unused"]:
        if total and entry["seconds"] / total >= LARGE_SHARE:
            yield f"{entry['seconds'] / total:.0%} of the music is in no clip: {entry['meaning']}."


def _about_words(report: JsonObject) -> Iterator[str]:
    vocabulary, lyrics = report["vocabulary"], report["lyrics"]
    unworded = lyrics.get("none", {"clips": 0})["clips"]
    if unworded >= LARGE_SHARE * report["clips"]:
        yield (
            f"{unworded} of {report['clips']} clips have no lyrics and are not known to be instrumentals: they teach "
            "singing without words. Switch `transcribe` on, or give the lyrics."
        )
    found = report["recognizers"]
    # A single clip, or clips without detected voice that no recognizer has heard, say nothing about the lyrics.
    is_measured = found["covered"] >= max(MIN_HEARD_CLIPS, LARGE_SHARE * report["clips"])
    if is_measured and found["coverage"] < LITTLE_HEARD:
        yield (
            f"Of half of the {found['covered']} clips with compared lyrics, at most {found['coverage']:.0%} of the "
            "words were heard. If the recognizer is not to blame, "
            f"they belong to other recordings. {REFUSAL_CODES['lyrics_not_heard'].advice}"
        )
    if not found["covered"] and "given" in lyrics:
        yield "The given lyrics were not compared with the sound: switch `transcribe` on to do so."
    yield from _about_recognizers(found)
    if report["unknown_languages"]:
        clips = ", ".join(f"{code} {count}" for code, count in report["unknown_languages"].items())
        yield (
            f"No lyrics tokenizer knows these languages (clips of each): {clips}. Preprocessing leaves the clips out, "
            "and refuses to start where they are many: correct the language in `songgen review`, or name in "
            "`filter.languages` those that are wanted."
        )
    if vocabulary is None:
        yield (
            "The lyrics were not compared with a vocabulary: name `report.lyrics_tokenizer`, or train one with "
            "helpers/train_tokenizers.py."
        )
        return
    if vocabulary["unknown"]:
        pieces = ", ".join(piece for piece, _ in vocabulary["unknown_pieces"][:8])
        yield f"{vocabulary['unknown']} pieces of lyrics are unknown to the tokenizer and will not be sung: {pieces}."
    lacking = [code or "not named" for code in vocabulary["other_languages"].keys() - report["unknown_languages"]]
    if lacking:
        codes = ", ".join(sorted(lacking))
        yield f"Lyrics of these languages are not in the tokenizer: {codes}. Preprocessing will leave them out."


def _about_recognizers(found: JsonObject) -> Iterator[str]:
    if found["compared"] and found["different"] >= max(1, LARGE_SHARE * found["compared"]):
        yield (
            f"The two recognizers differ in more than {LARGE_DIFFERENCE:.0%} of the words in {found['different']} of "
            f"{found['compared']} clips (median of all: {found['difference']:.0%}): their lyrics contain many wrong "
            "words. Give the lyrics where you have them, separate the voices (`separate`), correct the least certain "
            f"ones in `songgen review`, or set `filter.max_transcript_edit_share`, such as {LARGE_DIFFERENCE:g}."
        )
    for reason, count in found["skipped"].items():
        yield f"{count} clips were not compared by the second recognizer: {reason}."


def _about_captions(report: JsonObject) -> Iterator[str]:
    without = report["clips"] - report["captions"]
    if without:
        yield (
            f"{without} of {report['clips']} clips have no caption, and preprocessing leaves them out: write some, or "
            "switch `tag` on."
        )
    kinds, known = report["tags"]["kinds"], {"tempo": "tempo_known", "key": "key_known"}
    for kind, count in kinds.items():
        if count < 0.5 * report["clips"]:
            extra = ""
            if kind in known and report["tags"][known[kind]] > count:
                extra = f" It is known from the sound of {report['tags'][known[kind]]}."
            yield (
                f"Only {count} of {report['clips']} captions speak of {kind} (such as {KIND_EXAMPLES[kind]}): what "
                f"captions do not mention cannot be prompted for later.{extra}"
            )
    if "clap_score" not in {entry["name"] for entry in report["histograms"]}:
        yield "Whether captions fit the sound was not measured: switch `score` on."


def _about_splits(report: JsonObject) -> Iterator[str]:
    if EVALUATION not in report["splits"]:
        yield "No songs are held out, so training cannot be evaluated: set `split.eval_share`, such as 0.02."
