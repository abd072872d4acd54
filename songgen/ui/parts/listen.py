"""Listen: generate songs, compare two models with one seed, and keep what was generated."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from songgen.families.use.generating import option_groups
from songgen.families.use.song_folder import RESERVED_OPTIONS
from songgen.lyrics.languages import LANGUAGES
from songgen.lyrics.tokenizer import SECTION_TAGS
from songgen.ui.commands import command_form
from songgen.ui.site import Site, body_of, number_of, table_of, text_of
from songgen.ui.songs import ENDINGS, Songs, found_models, groups_of, shown_commands
from songgen.web.answers import json_response
from songgen.web.application import PageRoute

SONGS_AT_ONCE = 20
"""Number of songs that are sent at once."""


class ListenPart:
    """The endpoints of generating songs."""

    def __init__(self, site: Site) -> None:
        """Remember the site."""
        self._site = site
        self._songs = Songs(site.workspace)

    def routes(self) -> list[PageRoute]:
        """Return every address of this part."""
        page, api = self._site.page, self._site.api
        return [
            PageRoute("/listen", page(self.index)),
            PageRoute("/api/listen/models", api(self.models)),
            PageRoute("/api/listen/family", api(self.family)),
            PageRoute("/api/listen/preview", api(self.preview), methods=["POST"]),
            PageRoute("/api/songs", api(self.listing)),
            PageRoute("/api/songs", api(self.create), methods=["POST"]),
            PageRoute("/api/songs/{name}", api(self.song)),
            PageRoute("/api/songs/{name}/start", api(self.start), methods=["POST"]),
            PageRoute("/api/songs/{name}/delete", api(self.delete), methods=["POST"]),
        ]

    def index(self, request: Request) -> Response:
        """Return the page: the form, and a list that a script fills."""
        families = {f"only for {group.title}": group.title for group in option_groups()}
        fields = [field for field in command_form("generate").fields if field.name not in RESERVED_OPTIONS]
        return self._site.render(
            request,
            "listen.html",
            fields={field.name: field for field in fields},
            families=[
                (heading, title, [field for field in fields if field.group == heading])
                for heading, title in families.items()
            ],
            tags=SECTION_TAGS,
            languages_of_lyrics=LANGUAGES,
            endings=ENDINGS,
        )

    def models(self, request: Request) -> Response:
        """Return what songs can be generated with."""
        return json_response({"models": found_models(self._site.workspace)})

    def family(self, request: Request) -> Response:
        """Return the title of the options of a model's family: `?model=PATH`; null if it is not known."""
        group = groups_of(request.query_params.get("model", ""), self._site.workspace)
        return json_response({"group": None if group is None else group.title})

    def preview(self, request: Request) -> Response:
        """Return the commands that do the same as a request, or what a form that is still being filled in lacks."""
        try:
            text = shown_commands(self._songs.commands(*_request_of(request)))
        except ValueError as error:
            text = self._site.language(request).message(str(error))
        return json_response({"text": text})

    def listing(self, request: Request) -> Response:
        """Return songs, newest first: `?search=TEXT&offset=N`."""
        search, offset = request.query_params.get("search", ""), number_of(request, "offset", "0")
        songs, total = self._songs.find(search, offset, SONGS_AT_ONCE)
        return json_response({"songs": [self._shown(request, song) for song in songs], "total": total})

    def create(self, request: Request) -> Response:
        """Generate songs: `{"values": {OPTION: VALUE}, "takes": [{"model": M, "adapter": [A]}], "ending": ".wav"}`."""
        song = self._songs.values(self._songs.create(*_request_of(request)))
        return json_response({"song": self._shown(request, song)})

    def song(self, request: Request) -> Response:
        """Return state, progress and files of a song."""
        return json_response({"song": self._values(request)})

    def start(self, request: Request) -> Response:
        """Generate the songs of a folder again, from the same request."""
        self._songs.start(self._songs.existing(request.path_params["name"]))
        return json_response({"song": self._values(request)})

    def delete(self, request: Request) -> Response:
        """Move a song to the trash."""
        self._songs.delete(self._songs.existing(request.path_params["name"]))
        return json_response({})

    def _values(self, request: Request) -> dict[str, Any]:
        return self._shown(request, self._songs.values(self._songs.existing(request.path_params["name"])))

    def _shown(self, request: Request, song: dict[str, Any]) -> dict[str, Any]:
        """Return a song with the reason of its end in the language of a request."""
        return song | {"reason": self._site.language(request).message(song.get("reason", ""))}


def _request_of(request: Request) -> tuple[dict[str, Any], list[Any], str]:
    """Return the request for songs that a page sends.

    Raises:
        ValueError: if it has another form.
    """
    values, takes = table_of(request, "values"), body_of(request).get("takes", [])
    if not isinstance(takes, list):
        raise ValueError("takes: a list of models is expected")
    return values, takes, text_of(request, "ending", ENDINGS[0])
