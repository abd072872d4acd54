"""The review page: its routes and their answers. Requests name clips and tracks by id, never files by path.

The endpoints are plain functions, which Starlette calls in threads; `ReviewDesk` has a lock.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from songgen.data.audio import AudioRejected
from songgen.data.manifests.folders.song_folder import AUDIO_SUFFIXES
from songgen.prepare.engine.audio_files import read_audio
from songgen.prepare.engine.record import JsonObject, SongRecord
from songgen.prepare.review.addresses import review_routes
from songgen.prepare.review.corrections import REASON, EditConflict, can_be_accepted
from songgen.prepare.review.desk import PAGE_SIZE, Clip, ReviewDesk, Selection, copy_of
from songgen.prepare.review.fields import FieldProblems, checked_changes, line_times
from songgen.tasks import TRACKS
from songgen.web.answers import AUDIO_TYPES, PartialFileResponse, existing_file, json_response
from songgen.web.application import PageRoute
from songgen.web.document import LOOK_FILE

ASSETS = Path(__file__).with_name("review_assets")

ASSET_TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
"""Ending of a file of the page -> its media type; Starlette adds the charset to text."""

TRACK_TYPES = AUDIO_TYPES | {".oga": "audio/ogg", ".caf": "audio/x-caf"}
"""Ending of a track -> its media type."""

NUM_PEAKS = 800
"""Number of bars of a waveform."""

TEASER_LENGTH = 90
"""Number of characters of the lyrics that the list shows."""


_NO_CLIP = "there is no such clip; the data set may have been prepared again"


class Texts(Protocol):
    """Texts of the page in one language."""

    language: str
    """Code of the language."""

    def __call__(self, english: str, **values: object) -> str:
        """Return the translation of a text, with names in braces replaced by values."""
        ...

    def scripts(self) -> dict[str, str]:
        """Return English text -> translation of the texts that scripts show."""
        ...


class English:
    """The texts as they are written."""

    language = "en"

    def __call__(self, english: str, **values: object) -> str:
        """Return the text."""
        return english.format(**values) if values else english

    def scripts(self) -> dict[str, str]:
        """Return no translations."""
        return {}


class ReviewPage:
    """The endpoints of the page."""

    def __init__(
        self,
        desk: ReviewDesk,
        title: str,
        texts: Callable[[Request], Texts] = lambda request: English(),
        *,
        back: str = "",
        roots: Sequence[Path] | None = None,
    ) -> None:
        """Read the files of the page.

        Args:
            desk: the clips.
            title: name of the data set, shown on the page.
            texts: returns the texts in the language of a request.
            back: address of the page that leads here; empty for none.
            roots: folders that songs may be played from that no step has cut; None for any.
        """
        self.desk = desk
        self.title = title
        self._texts = texts
        self._back = back
        self._roots = roots
        self._assets = {
            path.name: path.read_bytes() for path in (*ASSETS.iterdir(), LOOK_FILE) if path.suffix in ASSET_TYPES
        }
        self._template = Environment(
            loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined
        ).get_template("index.html")

    def routes(self) -> list[PageRoute]:
        """Return every address of the page."""
        return review_routes(lambda request: self)

    def index(self, request: Request) -> Response:
        """Return the page itself."""
        return HTMLResponse(self._template.render(t=self._texts(request), back=self._back))

    def asset(self, request: Request) -> Response:
        """Return a file of the page."""
        name = request.path_params["name"]
        if name not in self._assets:
            raise HTTPException(404, "there is no such file")
        return Response(self._assets[name], media_type=ASSET_TYPES[Path(name).suffix])

    def listing(self, request: Request) -> Response:
        """Return one page of the list, with the values that the filters can be set to."""
        query = request.query_params
        try:
            selection = Selection(
                state=query.get("state", ""),
                reason=query.get("reason", ""),
                language=query.get("language"),
                search=query.get("search", "").strip(),
                order=query.get("order", ""),
            )
            wanted = int(query.get("page", "1")[:9])
        except ValueError as error:
            raise HTTPException(400, f"no such list: {error}") from error
        chosen = selection.of(self.desk.clips())
        pages = max(1, -(-len(chosen) // PAGE_SIZE))
        number = min(max(1, wanted), pages)
        first = (number - 1) * PAGE_SIZE
        orphans = [{"song": edit.song, "start": edit.start, "end": edit.end, "time": edit.time, "changes": edit.changes}
                   for edit in self.desk.orphans()]  # fmt: skip
        return json_response(
            {
                "title": self.title,
                "clips": [summary(clip) for clip in chosen[first : first + PAGE_SIZE]],
                "first": first + 1,
                "found": len(chosen),
                "page": number,
                "pages": pages,
                "progress": self.desk.progress(),
                "facets": self.desk.facets(),
                "orphans": orphans,
            }
        )

    def clip(self, request: Request) -> Response:
        """Return everything that is known of a clip."""
        return self._state(self._clip(request))

    def save(self, request: Request) -> Response:
        """Change a clip; the answer is 409 with the clip as it is now if it was changed elsewhere."""
        clip = self._clip(request)
        try:
            changes = checked_changes(clip.record, request.state.body.get("changes"))
        except FieldProblems as error:
            return json_response({"error": str(error), "problems": error.problems}, 422)
        return self._changed(request, lambda version: self.desk.save(clip.record.id, version, changes))

    def undo(self, request: Request) -> Response:
        """Undo the newest change of a clip."""
        clip = self._clip(request)
        return self._changed(request, lambda version: self.desk.undo(clip.record.id, version))

    def keep(self, request: Request) -> Response:
        """Keep a copy in place of the one that was kept."""
        clip = self._clip(request)
        try:
            return self._changed(request, lambda version: self.desk.keep_instead(clip.record.id, version))
        except ValueError as error:
            return json_response({"error": str(error), "problems": [str(error)]}, 422)

    def peaks(self, request: Request) -> Response:
        """Return the waveform of a track: the largest amplitude of equal parts, 0 to 100."""
        path = self._track(request)
        try:
            samples, _ = read_audio(path)
        except AudioRejected as error:
            raise HTTPException(404, error.reason) from error
        return json_response({"peaks": peaks_of(samples)})

    def audio(self, request: Request) -> Response:
        """Return a track to listen to, or the part of it that the player asks for."""
        path = self._track(request)
        media_type = TRACK_TYPES.get(path.suffix.lower(), "application/octet-stream")
        return PartialFileResponse(path, media_type=media_type, stat_result=path.stat())

    def _clip(self, request: Request) -> Clip:
        try:
            return self.desk.clip(request.path_params["id"])
        except KeyError as error:
            raise HTTPException(404, _NO_CLIP) from error

    def _track(self, request: Request) -> Path:
        record, track = self._clip(request).record, request.path_params["track"]
        if track not in record.audio:
            raise HTTPException(404, "the clip has no such track")
        path = self.desk.folder.track(record, track)
        # Songs that no step has cut or separated yet are still where the user has them; all else is in the work folder.
        is_original = Path(record.audio[track]).is_absolute()
        if is_original and path.suffix.lower() not in AUDIO_SUFFIXES:
            raise HTTPException(404, "there is no such file")  # a work folder of somebody else may name any file
        if is_original and self._roots is not None:
            real = path.resolve()
            if not any(real.is_relative_to(root) for root in self._roots):
                raise HTTPException(404, "the song is outside of the folders of this page")
        return existing_file(path, path.parent if is_original else self.desk.folder.root)

    def _changed(self, request: Request, change: Callable[[int], Clip]) -> Response:
        version = request.state.body.get("version")
        if not isinstance(version, int) or isinstance(version, bool):
            raise HTTPException(400, "version: the number of the clip's version is expected")
        try:
            return self._state(change(version))
        except EditConflict:
            return self._state(self._clip(request), status=409)
        except KeyError as error:  # a run has written other clips since the clip was looked up
            raise HTTPException(404, _NO_CLIP) from error

    def _state(self, clip: Clip, status: int = 200) -> Response:
        values = {"clip": details(clip), "summary": summary(clip), "progress": self.desk.progress()}
        return json_response(values | ({"error": "the clip was changed elsewhere"} if status != 200 else {}), status)


def summary(clip: Clip) -> JsonObject:
    """Return what the list shows of a clip."""
    record = clip.record
    sung = " / ".join(line for line in record.lyrics.splitlines() if not line.startswith("["))
    return {
        "id": record.id,
        "duration": record.duration,
        "language": record.language,
        "teaser": sung[:TEASER_LENGTH] or record.caption[:TEASER_LENGTH],
        "verdict": clip.correction.verdict,
        "code": record.refusal.code if record.refusal is not None else "",
        "confidence": clip.confidence,
        "is_corrected": clip.is_in_state("corrected"),
    }


def details(clip: Clip) -> JsonObject:
    """Return what the page shows of the clip that is open."""
    record = clip.record
    return {
        "id": record.id,
        "song": record.song,
        "start": record.start,
        "duration": record.duration,
        "version": clip.correction.version,
        "can_undo": clip.correction.last is not None,
        "can_accept": can_be_accepted(record),
        "copy_of": copy_of(record),
        "tracks": [track for track in TRACKS if track in record.audio],
        "language": record.language,
        "lyrics": record.lyrics,
        "lyrics_source": record.lyrics_source,
        "times": line_times(record),
        "caption": record.caption,
        "tags": list(record.tags),
        "verdict": clip.correction.verdict,
        "reason": clip.correction.values.get(REASON, ""),
        "refusal": None if record.refusal is None else dataclasses.asdict(record.refusal),
        "transcripts": [{"name": name, **dataclasses.asdict(heard)} for name, heard in record.transcripts.items()],
        "figures": figures(record),
    }


def figures(record: SongRecord) -> list[tuple[str, Any]]:
    """Return what was measured of a record, name and value."""
    known: list[tuple[str, Any]] = [("tempo", record.tempo), ("key", record.key), ("split", record.split)]
    known += [(f"energy, {track}", energy) for track, energy in record.energies.items()]
    known += record.measures.items()
    return [(name.replace("_", " "), round(value, 4) if isinstance(value, float) else value)
            for name, value in known if value not in (None, "")]  # fmt: skip


def peaks_of(samples: np.ndarray) -> list[int]:
    """Return the largest amplitude in each of some equal parts of a recording.

    Args:
        samples: N, full scale is 1.0.

    Returns:
        At most `NUM_PEAKS` numbers, 0 to 100.
    """
    edges = np.linspace(0, len(samples), min(NUM_PEAKS, len(samples)) + 1).astype(int)
    loudest = np.maximum.reduceat(np.abs(samples), edges[:-1])
    return [round(value) for value in (np.minimum(loudest, 1.0) * 100).tolist()]
