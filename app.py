"""The app: pages, the routes beside them, and the workers that live as long as it does.

    streamlit run app.py
"""

from contextlib import asynccontextmanager

import streamlit as st

from analysis.run import home
from jobs.lifespan import start_workers, stop_workers
from pages import fonts
from pages.routes.upload import routes
from pages.shared import frame  # noqa: F401  what every page needs, before the first one is asked for


@asynccontextmanager
async def lifespan(_app):
    fonts.use()
    start_workers(home())
    try:
        yield
    finally:
        stop_workers(home())


app = st.App("pages/navigation.py", routes=routes(home), lifespan=lifespan)
