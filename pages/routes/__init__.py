"""Routes beside the pages: plain ASGI, for what a page cannot do (streaming a large file to disk)."""

from importlib.util import find_spec

ROUTES = ()
if find_spec("pages.routes.upload"):
    from pages.routes.upload import ROUTES
