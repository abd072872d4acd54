"""Local pages: Starlette applications behind access checks, served by uvicorn to the person at this machine.

Import from the modules: `songgen.web.document` and `songgen.web.access` need the standard library alone, the others
need the extra `page`.
"""
