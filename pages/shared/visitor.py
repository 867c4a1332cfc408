"""Who is at the other end of this session: the owner of uploads and jobs."""

from __future__ import annotations

import hashlib
import re
import secrets

import streamlit as st

from models import shelf
from pages.routes.guests import COOKIE

_GUEST = "guest_id"


def owner() -> str:
    """Empty while the app serves its own user; while it serves others the logged-in account, or the guest that the browser's
    cookie names; without cookies a random name as long as the tab is open. So guests do not see each other's uploads."""
    if not shelf.public():
        return ""
    if st.user.get("is_logged_in"):
        account = st.user.get("sub") or st.user.get("email")
        return f"account {st.user.get('iss', '')} {account}"
    cookie = str(st.context.cookies.get(COOKIE, ""))
    if re.fullmatch(r"[0-9a-f]{32}", cookie):
        return f"guest {hashlib.sha256(cookie.encode()).hexdigest()[:32]}"
    return st.session_state.setdefault(_GUEST, f"guest {secrets.token_hex(16)}")


def is_guest() -> bool:
    return owner().startswith("guest ")
