"""The step that cuts songs into clips, with the same cuts for every track, and divides lines, words and voice."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from songgen.data.audio import AudioRejected
from songgen.prepare.engine.audio_files import read_audio, resample_frames, write_audio
from songgen.prepare.engine.record import FIRST, JsonObject, LyricLine, Refusal, SongRecord, Transcript, Word
from songgen.prepare.engine.section import Phase, RefusalCode, Section, length_codes
from songgen.prepare.engine.step import Step, StepOutput, WorkFolder
from songgen.prepare.listening.tempo_key import ANALYSIS_RATE, beat_times
from songgen.prepare.steps.take_in import LINES_BEYOND_END
from songgen.prepare.timing.clip_plan import (
    INSTRUMENTAL,
    UNUSED_REASONS,
    ClipPlan,
    PlannedClip,
    SegmentOptions,
    plan_clips,
)
from songgen.prepare.timing.intervals import Interval, covered_seconds
from songgen.prepare.timing.text_distance import joiner
from songgen.tasks import MIX

LENGTH_TOLERANCE_SECONDS = 0.1
"""Largest difference in length up to which all tracks are cut to the shortest."""

CLIP_MARK = "~"
"""Separator of song id and clip number. No id of a song contains it (see `songgen.prepare.inputs.safe_name`), so that
no clip has the id of a song."""

_NOT_CUT_BY = ("id", "file", "line", "singer", "provenance")
"""Fields that do not affect the cuts: `apply_outcome` copies them from the present song to its clips."""


@dataclass(frozen=True)
class _Span:
    """A clip with its range of samples."""

    begin: int
    end: int
    clip: PlannedClip


def split_long_lines(
    lines: Sequence[LyricLine], words: Sequence[Word], max_seconds: float, language: str = ""
) -> tuple[LyricLine, ...]:
    """Divide lines that are longer than a clip at the longest pauses between their words.

    This needs the time of each word, so a line is divided only if as many words were heard in it as it has.

    Args:
        lines: lines of a song.
        words: words with times, of the same song.
        max_seconds: longest line that is not divided.
        language: code, which decides how words are joined.
    """
    divided: list[LyricLine] = []
    for line in lines:
        heard = [word for word in words if line.start - 0.01 <= word.start and word.end <= line.end + 0.01]
        joint = joiner(language)
        texts = line.text.split() if joint else list(line.text)
        if line.end - line.start > max_seconds and len(heard) == len(texts) > 1:
            placed = [dataclasses.replace(word, text=text) for word, text in zip(heard, texts, strict=True)]
            divided += [
                dataclasses.replace(
                    line, text=joint.join(word.text for word in part), start=part[0].start, end=part[-1].end
                )
                for part in _divided(placed, max_seconds)
            ]
        else:
            divided.append(line)
    return tuple(divided)


def _divided(words: list[Word], max_seconds: float) -> list[list[Word]]:
    if len(words) == 1 or words[-1].end - words[0].start <= max_seconds:
        return [words]
    pauses = [after.start - before.end for before, after in zip(words, words[1:], strict=False)]
    at = int(np.argmax(pauses)) + 1
    return [*_divided(words[:at], max_seconds), *_divided(words[at:], max_seconds)]


def write_lyrics(lines: Sequence[LyricLine]) -> str:
    """Return lyrics with one line of text per line, and a section tag where a section begins."""
    written: list[str] = []
    section = ""
    for line in lines:
        if line.section and line.section != section:
            written.append(f"[{line.section}]")
        section = line.section
        written.append(line.text)
    return "\n".join(written)


def cut_record(song: SongRecord, clip_id: str, clip: PlannedClip, lines: Sequence[LyricLine]) -> SongRecord:
    """Return the record of a clip.

    Args:
        song: record of the whole song.
        clip_id: id of the clip.
        clip: start and end in the song.
        lines: lines of the whole song, each in at most one clip.

    Returns:
        A record whose times start with the clip. Energies of the song are dropped, as are transcripts that cannot be
        cut because they have no times.
    """
    span = (clip.start, clip.end)
    own = tuple(
        dataclasses.replace(line, start=_shifted(line.start, span), end=_shifted(line.end, span))
        for line in sorted(lines, key=lambda line: line.start)
        if clip.start <= (line.start + line.end) / 2 < clip.end
    )
    voiced = None if song.voiced is None else tuple(_cut_intervals(song.voiced, span))
    measures = {name: value for name, value in song.measures.items() if not name.startswith("unused_")}
    measures.pop("hard_cuts", None)
    if voiced is not None:
        measures["voiced_share"] = round(covered_seconds(voiced, (0, span[1] - span[0])) / (span[1] - span[0]), 4)
    if clip.hard_cuts:
        measures["hard_cuts"] = clip.hard_cuts
    # A recording that was not cut keeps its lyrics even without times.
    lyrics = write_lyrics(own) if lines else song.lyrics
    is_instrumental = clip.kind == INSTRUMENTAL and not own and not (voiced or lyrics)
    return dataclasses.replace(
        song,
        id=clip_id,
        audio={},
        start=song.start + clip.start,
        duration=clip.end - clip.start,
        lyrics=lyrics,
        lyrics_source="instrumental" if is_instrumental else song.lyrics_source,
        lines=own,
        voiced=voiced,
        transcripts={
            name: _cut_transcript(transcript, span, is_whole=span == (0.0, song.duration))
            for name, transcript in song.transcripts.items()
            if transcript.words or not transcript.text or span == (0.0, song.duration)
        },
        energies={},
        measures=measures,
    )


def _shifted(time: float, span: Interval) -> float:
    return round(min(max(time, span[0]), span[1]) - span[0], 6)


def _cut_intervals(intervals: Sequence[Interval], span: Interval) -> list[Interval]:
    return [
        (_shifted(start, span), _shifted(end, span)) for start, end in intervals if start < span[1] and end > span[0]
    ]


def _cut_transcript(transcript: Transcript, span: Interval, *, is_whole: bool) -> Transcript:
    """Return the part of a transcript in a clip; a word is in the clip that contains its middle."""
    if is_whole:
        return transcript
    own = tuple(
        dataclasses.replace(word, start=_shifted(word.start, span), end=_shifted(word.end, span))
        for word in transcript.words
        if span[0] <= (word.start + word.end) / 2 < span[1]
    )
    known = [word.confidence for word in own if word.confidence is not None]
    return Transcript(
        text=joiner(transcript.language).join(word.text.strip() for word in own),
        language=transcript.language,
        confidence=sum(known) / len(known) if known else None,
        words=own,
    )


def _beats(mix: np.ndarray, rate: int, start: float, end: float) -> list[float]:
    """Return the times of the beats in a passage of a song; `mix` is N samples or channels x N."""
    passage = mix[..., round(start * rate) : round(end * rate)]
    mono = passage.mean(axis=0) if passage.ndim > 1 else passage
    return [start + time for time in beat_times(resample_frames(mono[:, None], rate, ANALYSIS_RATE)[:, 0])]


class SegmentStep(Step):
    """Cuts songs into clips, which replace them.

    The first clip of a song has the measures `unused_<reason>_seconds`: time of the song that is in no clip. Clips
    whose ends cut through a voice, because there is no pause, have the measure `hard_cuts`.
    """

    name = "segment"
    version = 3

    def __init__(self, options: SegmentOptions) -> None:
        self.options = options

    def parameters(self) -> JsonObject:
        """Return all options."""
        return asdict(self.options)

    def inputs(self, record: SongRecord) -> JsonObject:
        """Return all fields that the clips inherit; audio counts by its content."""
        values = {name: value for name, value in asdict(record).items() if name not in _NOT_CUT_BY}
        return values | {"audio": sorted(record.audio)}

    def is_needed(self, record: SongRecord) -> bool:
        """Return whether the record is a whole song."""
        return record.id == record.song

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutput]:
        """Cut songs; a song without any clip is refused."""
        return [self._cut(record, folder) for record in records]

    def _cut(self, record: SongRecord, folder: WorkFolder) -> StepOutput:
        try:
            tracks, rate = self._read_tracks(record, folder)
        except AudioRejected as error:
            return self._refuse(error.code, error.reason)
        num_samples = min(samples.shape[-1] for samples in tracks.values())
        # From here on, the duration is a whole number of samples.
        record = dataclasses.replace(record, duration=num_samples / rate)
        options = self.options
        fits = record.duration <= options.max_seconds and options.keep_short_songs
        if record.lyrics and not record.lines and not fits:
            reason = "it has lyrics, but it is not known when they are sung, so no clip would have its own words"
            if LINES_BEYOND_END in record.measures:
                reason += "; the times that came with them go beyond the end, as in another version of the song"
            return self._refuse("lyrics_without_times", reason)
        # Lines have their times from the first recognizer; the second one is only for comparison.
        words = record.transcripts[FIRST].words if FIRST in record.transcripts else ()
        lines = split_long_lines(record.lines, words, options.max_seconds, record.language)
        plan = plan_clips(
            record.duration,
            record.voiced,
            [(line.start, line.end) for line in lines],
            [(word.start, word.end) for word in words],
            options,
            lambda start, end: _beats(tracks[MIX], rate, start, end),
        )
        if not plan.clips:
            return self._refuse_all(plan, record.duration)
        spans = [_Span(round(clip.start * rate), round(clip.end * rate), clip) for clip in plan.clips]
        return StepOutput(clips=self._write(record, lines, tracks, rate, spans, plan.unused, folder))

    def _write(
        self,
        song: SongRecord,
        lines: Sequence[LyricLine],
        tracks: Mapping[str, np.ndarray],
        rate: int,
        spans: Sequence[_Span],
        unused: Mapping[str, float],
        folder: WorkFolder,
    ) -> tuple[SongRecord, ...]:
        """Write each clip's tracks and describe it."""
        clips = []
        for index, span in enumerate(spans):
            exact = dataclasses.replace(span.clip, start=span.begin / rate, end=span.end / rate)
            clip = cut_record(song, f"{song.id}{CLIP_MARK}{index:03d}", exact, lines)
            audio = {track: folder.new_file(self.name, clip, track) for track in tracks}
            for track, samples in tracks.items():
                write_audio(folder.path(audio[track]), samples[..., span.begin : span.end], rate)
            measures: dict[str, Any] = dict(clip.measures)
            if index == 0:
                measures |= {f"unused_{reason}_seconds": round(seconds, 3) for reason, seconds in unused.items()}
            duration = (span.end - span.begin) / rate
            clips.append(dataclasses.replace(clip, duration=duration, audio=audio, measures=measures))
        return tuple(clips)

    def _read_tracks(self, record: SongRecord, folder: WorkFolder) -> tuple[dict[str, np.ndarray], int]:
        """Read all tracks at one rate, the mix first.

        Raises:
            AudioRejected: If a file is damaged, or the tracks differ in length.
        """
        rate: int | None = self.options.sample_rate or None
        tracks = {}
        for track in sorted(record.audio, key=lambda name: (name != MIX, name)):
            tracks[track], rate = read_audio(folder.track(record, track), sample_rate=rate, mono=self.options.mono)
        assert rate is not None, "a record has a mix"
        lengths = {track: samples.shape[-1] / rate for track, samples in tracks.items()}
        shortest, longest = (chosen(lengths, key=lengths.__getitem__) for chosen in (min, max))
        if lengths[longest] - lengths[shortest] > LENGTH_TOLERANCE_SECONDS:
            reason = (
                f"track {shortest!r} has {lengths[shortest]:.3f} s, but track {longest!r} has {lengths[longest]:.3f} s"
            )
            raise AudioRejected("track_lengths_differ", reason)
        return tracks, rate

    def _refuse(self, code: str, reason: str) -> StepOutput:
        return StepOutput(refusal=Refusal(self.name, code, reason))

    def _refuse_all(self, plan: ClipPlan, duration: float) -> StepOutput:
        """Refuse a song without any clip, for the reason that holds for most of its time."""
        main = max(plan.unused, key=plan.unused.__getitem__)
        if main == "too_short":
            least = self.options.min_seconds
            reason = f"no passage is as long as the shortest clip, {least:g} s"
            return StepOutput(refusal=Refusal(self.name, "too_short", reason, value=round(duration, 3), limit=least))
        return self._refuse(f"no_clip_{main}", f"no clip can be made: {UNUSED_REASONS[main]}")


SECTION = Section(
    "segment",
    "clips of each song",
    SegmentOptions,
    Phase.CUTTING,
    [SegmentStep],
    refusal_codes={
        **length_codes("too_short"),
        "lyrics_without_times": RefusalCode(
            "the song is longer than a clip, and it is not known when its lyrics are sung",
            "Switch `transcribe` on: with the words heard, lines get their times and long songs can be cut. Or give "
            "the lyrics with times (NAME.lrc).",
        ),
        "no_clip_instrumental": RefusalCode(
            "nobody sings for most of the song, and instrumental passages are left out"
        ),
        "no_clip_line_too_long": RefusalCode("no clip can be cut: lines are longer than the longest clip"),
        "no_clip_voice_without_lyrics": RefusalCode(
            "no clip can be cut: there is singing without a line of the lyrics"
        ),
    },
)
