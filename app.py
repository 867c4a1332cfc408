"""The app: pages, the routes beside them, and the workers that live as long as it does.

    streamlit run app.py
"""

import asyncio
import threading
from contextlib import asynccontextmanager

from pages import later

later.postpone("torch")  # before anything that names it: pages read results, workers run models

import streamlit as st
from starlette.middleware import Middleware

from analysis.run import home
from jobs.lifespan import start_workers, stop_workers
from models import uploads
from pages import fonts
from pages.routes import first_page
from pages.routes.guests import Guests
from pages.routes.upload import routes
from pages.shared import drawn, frame  # noqa: F401  what every page needs, before the first one is asked for


@asynccontextmanager
async def lifespan(_app):
    fonts.use()
    start_workers(home())
    threading.Thread(target=drawn.warm, name="warm", daemon=True).start()
    sweeping = asyncio.create_task(sweep_hourly())
    try:
        yield
    finally:
        sweeping.cancel()
        stop_workers(home())


async def sweep_hourly() -> None:
    """Expired and abandoned uploads go."""
    while True:
        await asyncio.to_thread(uploads.sweep, home())
        await asyncio.sleep(3600)


app = st.App("pages/navigation.py", routes=[*routes(home), first_page.route()], middleware=[Middleware(Guests)], lifespan=lifespan)
