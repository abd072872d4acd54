"""Help: questions and answers, as a page and one by one."""

from starlette.requests import Request
from starlette.responses import Response

from songgen.ui.help_texts import SECTIONS, help_entries, help_entry
from songgen.ui.site import PARTS, Site
from songgen.web.answers import json_response
from songgen.web.application import PageRoute


class HelpPart:
    """The endpoints of the help."""

    def __init__(self, site: Site) -> None:
        """Remember the site."""
        self._site = site

    def routes(self) -> list[PageRoute]:
        """Return every address of this part."""
        return [
            PageRoute("/help", self._site.page(self.index)),
            PageRoute("/api/help/{id}", self._site.api(self.entry)),
        ]

    def index(self, request: Request) -> Response:
        """Return the page with all questions."""
        language = self._site.language(request).language
        entries = {
            section: [entry.shown(language) for entry in help_entries() if entry.section == section]
            for section in SECTIONS
        }
        names = dict(PARTS)
        links = {entry.link: names.get("/" + entry.link.split("/")[1], "Jobs") for entry in help_entries()}
        return self._site.render(request, "help.html", entries=entries, links=links)

    def entry(self, request: Request) -> Response:
        """Return one question with its answer."""
        language = self._site.language(request).language
        return json_response({"entry": help_entry(request.path_params["id"]).shown(language)})
