"""Notices about oddities that are not errors; many of one kind become one line, so that they do not hide the others."""

from dataclasses import dataclass, field

from songgen.data.manifests.clip import escaped

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

    first: list[tuple[str, str]] = field(default_factory=list)
    """Place and message of the first ones."""


@dataclass
class Notices:
    """Notices in the order in which their kinds came up."""

    _kinds: dict[str, _Kind] = field(default_factory=dict)
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
            notices.first.append((escaped(place), escaped(message)))

    def update(self, other: "Notices") -> None:
        """Add all notices of another object."""
        for kind, notices in other._kinds.items():
            for place, message in notices.first:
                self.add(message, place, kind=kind)
            if kind in self._kinds:
                self._kinds[kind].count += notices.count - len(notices.first)
        self._num_dropped += other._num_dropped

    def lines(self) -> list[str]:
        """Return the notices as lines; those that stand for many come last."""
        single: list[str] = []
        grouped: list[str] = []
        for kind, notices in self._kinds.items():
            if notices.count <= SINGLE_NOTICES or not notices.first[0][0]:
                single += [f"{place}: {message}" if place else message for place, message in notices.first]
                continue
            places = ", ".join(place for place, _ in notices.first)
            rest = notices.count - len(notices.first)
            more = f" and {rest} more" if rest else ""
            grouped.append(f"{notices.count} times: {escaped(kind)}: {places}{more}")
        return single + grouped

    @property
    def num_lines(self) -> int:
        """Number of lines, with those of kinds that are not kept."""
        return len(self.lines()) + self._num_dropped

    def __bool__(self) -> bool:
        """Return whether there is any notice."""
        return bool(self._kinds)
