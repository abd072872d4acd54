"""Numbers in the requests of the configuration form."""

from starlette.requests import Request

from songgen.ui.site import body_of

MAX_PROCESSES = 4096
"""Maximum number of processes of a launch."""

MAX_CLIPS = 10**12
"""Maximum number of clips, for steps and epochs."""


def processes_of(request: Request) -> int:
    """Return the number of processes of the launch.

    Raises:
        ValueError: if it is not one.
    """
    count = body_of(request).get("processes", 1)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_PROCESSES:
        raise ValueError(f"processes: a number from 1 to {MAX_PROCESSES} is expected")
    return count


def number_of(request: Request, name: str) -> float | None:
    """Return a number of the body; None if it is not given.

    Raises:
        ValueError: if it is not a number above 0.
    """
    value = body_of(request).get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MAX_CLIPS:
        raise ValueError(f"{name}: a number above 0 is expected")
    return float(value)
