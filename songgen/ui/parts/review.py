"""Review: the desk of `songgen review` for any data set of the workspace, below an address of its own."""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from songgen.prepare.review.addresses import review_routes
from songgen.ui.site import Site
from songgen.web.application import PageRoute

if TYPE_CHECKING:
    from songgen.prepare.review.page import ReviewPage

MAX_DESKS = 4
"""Number of data sets whose clips are kept in memory."""

PREFIX = "/review/{folder}"


class ReviewPart:
    """The addresses of the review of every data set."""

    def __init__(self, site: Site) -> None:
        """Remember the site."""
        self._site = site
        self._pages: OrderedDict[Path, ReviewPage] = OrderedDict()
        self._lock = threading.Lock()

    def routes(self) -> list[PageRoute]:
        """Return every address of this part."""
        first, *others = review_routes(self._page, PREFIX)
        return [
            PageRoute(PREFIX, self.redirect),
            PageRoute(first.path, self._site.page(first.endpoint)),
            *others,
        ]

    def redirect(self, request: Request) -> Response:
        """Add the slash that the relative addresses of the page need."""
        return RedirectResponse(f"/review/{quote(request.path_params['folder'], safe='')}/", 303)

    def _page(self, request: Request) -> "ReviewPage":
        """Return the page of a data set, opened when it is asked for first.

        Raises:
            HTTPException: 404 if the folder has no clips to review, or is outside of the folders of the page.
            ValueError: the same, for the page itself, which shows it.
        """
        from songgen.prepare.review.desk import ReviewDesk, find_work_folder
        from songgen.prepare.review.page import ReviewPage

        workspace = self._site.workspace
        try:
            folder = workspace.path(request.path_params["folder"], "folder")
            work = find_work_folder(folder)
            workspace.path(str(work), "folder")
        except ValueError as error:
            if request.scope["raw_path"].endswith(b"/"):  # not decoded: a name may end with an escaped slash
                raise
            raise HTTPException(404, str(error)) from error
        with self._lock:
            page = self._pages.get(work)
        if page is None:  # outside of the lock: reading the clips of a large data set takes seconds
            shown = workspace.shown(work.with_name(work.name.removesuffix(".work")))
            back = f"/data/set/{quote(shown, safe='')}"
            page = ReviewPage(ReviewDesk(work), shown, self._site.language, back=back, roots=workspace.folders)
        with self._lock:
            page = self._pages.setdefault(work, page)  # another request may have opened it meanwhile
            self._pages.move_to_end(work)
            while len(self._pages) > MAX_DESKS:
                self._pages.popitem(last=False)
        return page
