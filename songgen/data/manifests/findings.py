"""Findings of reading manifests: problems, and notices about oddities, of which many of one kind become one line."""

from dataclasses import dataclass, field

from songgen.data.manifests.clip import escaped

LISTED_PROBLEMS = 200
"""Maximum number of problems listed in an error message; further ones are counted."""

SINGLE_NOTICES = 3
"""Notices of one kind that are listed one by one; more become one line."""

EXAMPLES = 5
"""Places that the line of many notices names."""

MAX_KINDS = 1000
"""Kinds that are kept; a message with a name in it is a kind of its own."""


@dataclass
class _Kind:
    """Notices that say the same of different places."""

    count: int = 0
    """Number of all of them."""

    first: list[tuple[int, str, str]] = field(default_factory=list)
    """Number among all notices, place and message of the first ones."""


@dataclass
class Notices:
    """Notices of any number in bounded memory."""

    _kinds: dict[str, _Kind] = field(default_factory=dict)
    _num_notices: int = 0
    _num_dropped: int = 0

    def add(self, message: str, place: str = "", *, kind: str = "") -> None:
        """Add a notice.

        Args:
            message: what is odd, and what to do.
            place: file, or file and line; empty if the message names it.
            kind: message without names, by which notices are counted; the message itself if empty.
        """
        kind = kind or message
        if kind not in self._kinds and len(self._kinds) >= MAX_KINDS:
            self._num_dropped += 1
            return
        notices = self._kinds.setdefault(kind, _Kind())
        notices.count += 1
        if len(notices.first) < EXAMPLES:
            notices.first.append((self._num_notices, escaped(place), escaped(message)))
        self._num_notices += 1

    def update(self, other: "Notices") -> None:
        """Add all notices of another object."""
        # One after another in their order, whatever their kind.
        for _, kind, place, message in sorted(
            (at, kind, place, message) for kind, notices in other._kinds.items() for at, place, message in notices.first
        ):
            self.add(message, place, kind=kind)
        for kind, notices in other._kinds.items():
            if kind in self._kinds:
                self._kinds[kind].count += notices.count - len(notices.first)
        self._num_dropped += other._num_dropped

    def lines(self) -> list[str]:
        """Return the notices as lines, in their order; those that stand for many come last."""
        single: list[tuple[int, str]] = []
        grouped: list[str] = []
        for kind, notices in self._kinds.items():
            if notices.count <= SINGLE_NOTICES or not notices.first[0][1]:
                single += [(at, f"{place}: {message}" if place else message) for at, place, message in notices.first]
                continue
            places = ", ".join(place for _, place, _ in notices.first)
            rest = notices.count - len(notices.first)
            more = f" and {rest} more" if rest else ""
            grouped.append(f"{notices.count} times: {escaped(kind)}: {places}{more}")
        return [line for _, line in sorted(single)] + grouped

    @property
    def num_lines(self) -> int:
        """Number of lines, with those of kinds that are not kept."""
        return len(self.lines()) + self._num_dropped

    def __bool__(self) -> bool:
        """Return whether there is any notice."""
        return bool(self._kinds)


class ManifestError(ValueError):
    """Raised if manifests cannot be used; the message lists the problems."""


@dataclass
class ManifestFindings:
    """Findings of reading, in addition to the rows."""

    problems: list[str] = field(default_factory=list)
    """Problems that make the manifests unusable."""

    oddities: Notices = field(default_factory=Notices)
    """Oddities that are not errors."""

    num_problems: int = 0
    """Number of all problems, listed or not."""

    repeated_rows: int = 0
    """Number of identical rows of a saved data set that were used only once."""

    def add_problem(self, file: str, line: int | None, message: str) -> None:
        """Add a problem; `line` is None for a problem of the whole file."""
        self.num_problems += 1
        if len(self.problems) < LISTED_PROBLEMS:
            place = f"{file}:{line}" if line is not None else file
            # Line breaks come from our messages only: texts of a manifest are escaped within a line.
            self.problems.append("\n".join(map(escaped, f"{place}: {message}".split("\n"))))

    @property
    def notices(self) -> list[str]:
        """Oddities as lines; many of one kind are one line."""
        return self.oddities.lines()

    @property
    def num_notices(self) -> int:
        """Number of lines of notices, listed or not."""
        return self.oddities.num_lines

    def raise_problems(self) -> None:
        """Raise one error for all problems, if there are any.

        Raises:
            ManifestError: if there are problems; the message lists file, line and column of each.
        """
        if self.problems:
            listed = "\n  ".join(self.problems)
            rest = self.num_problems - len(self.problems)
            more = f"\n  ... and {rest} more" if rest else ""
            raise ManifestError(f"the manifests have {self.num_problems} problem(s):\n  {listed}{more}")
