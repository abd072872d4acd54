"""Pages for the person at this machine: a small server on the standard library that answers nobody else."""

from songgen.web.access import LOOPBACK, Access, make_access
from songgen.web.messages import FileBody, HttpProblem, Request, Response, Route, json_response
from songgen.web.server import LocalServer

__all__ = [
    "LOOPBACK",
    "Access",
    "FileBody",
    "HttpProblem",
    "LocalServer",
    "Request",
    "Response",
    "Route",
    "json_response",
    "make_access",
]
