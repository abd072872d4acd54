"""Access to a local page: requests need its token, and a host name that no foreign page can use.

A browser lets any page send requests to this machine. Three things keep other pages out: the token, which they do not
know; the `Host` header, which shows when a foreign name was made to resolve to this machine (DNS rebinding); and the
`Origin` header, which names the page that sends a request.
"""

import hmac
import ipaddress
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
"""Address that only this machine can reach."""

LOCAL_NAMES = frozenset({"localhost", LOOPBACK, "::1"})
"""Names of this machine that no foreign DNS server can give out; a forwarded port keeps them too."""

TOKEN_BYTES = 32
"""Length of a generated token."""

TOKEN_VARIABLE = "SONGGEN_PAGE_TOKEN"
"""Environment variable with the token; a command line could be read by other users of the machine."""

MIN_TOKEN_LENGTH = 16
"""Minimum number of characters of a token that a user chooses."""

_TOKEN = re.compile(rf"[A-Za-z0-9_-]{{{MIN_TOKEN_LENGTH},200}}")
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(?P<port>\d{1,5}))?")
_BEARER = "Bearer "


@dataclass(frozen=True)
class Access:
    """Credentials that a request must have to be answered."""

    host: str
    """Address or name that the server listens on."""

    token: str
    """Secret of this server process."""

    def knows_host(self, headers: Sequence[str]) -> bool:
        """Return whether a request was sent to one of this server's own names.

        Args:
            headers: every `Host` header of the request; there must be exactly one. Its port is ignored: a forwarded
                port has another number.
        """
        match = _HOST.fullmatch(headers[0]) if len(headers) == 1 else None
        if match is None:
            return False
        name = match["name"].strip("[]").lower()
        if name in LOCAL_NAMES or name == self.host.lower():
            return True
        # A server that listens on every address is reached by any of them; a rebound name is never an address.
        return _is_wildcard(self.host) and _address(name) is not None

    def is_token(self, given: str) -> bool:
        """Return whether a text is the token, in a time that does not depend on how much of it is right."""
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self.token.encode())

    def has_cookie(self, headers: Sequence[str], name: str) -> bool:
        """Return whether a cookie of a given name holds the token.

        Args:
            headers: every `Cookie` header of the request.
            name: name of the cookie.
        """
        pairs = (entry.strip().partition("=") for header in headers for entry in header.split(";"))
        # A list, so that every candidate is compared and the time does not show which one was right.
        return any([self.is_token(value) for key, _, value in pairs if key == name])

    def has_bearer(self, header: str | None) -> bool:
        """Return whether an `Authorization` header holds the token, as a script sends it."""
        return header is not None and header.startswith(_BEARER) and self.is_token(header.removeprefix(_BEARER))


def make_access(host: str = LOOPBACK, token: str | None = None) -> Access:
    """Return the credentials that requests to a server must have.

    Args:
        host: address to listen on.
        token: secret that the user has chosen; None generates one.

    Raises:
        ValueError: if other machines can reach the address and no token was chosen, or if the token is too easy to
            guess.
    """
    if token is None:
        if not is_loopback(host):
            raise ValueError(
                f"host: {host!r} can be reached by other machines; choose a token for them in the environment variable "
                f"{TOKEN_VARIABLE} or with --token_file (at least {MIN_TOKEN_LENGTH} letters and digits), or stay "
                f"on {LOOPBACK} and forward the port (ssh -L)"
            )
        return Access(host, secrets.token_urlsafe(TOKEN_BYTES))
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"token: at least {MIN_TOKEN_LENGTH} characters are needed: letters, digits, - and _")
    return Access(host, token)


def is_loopback(host: str) -> bool:
    """Return whether an address can only be reached from this machine."""
    address = _address(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def is_same_origin(origin: str, host_header: str) -> bool:
    """Return whether an `Origin` header names the page that the request was sent to."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host_header.lower()


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _is_wildcard(host: str) -> bool:
    address = _address(host)
    return host == "" or (address is not None and address.is_unspecified)
