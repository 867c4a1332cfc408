"""Who is signed in, and the way in and out: shown while the app serves others and its operator has set up a provider."""

from __future__ import annotations

import streamlit as st
from streamlit.errors import StreamlitSecretNotFoundError

from models import shelf
from pages.shared.wording import plain


def draw() -> None:
    """In the sidebar of every page; nothing while the app serves its own user."""
    if not shelf.public():
        return
    with st.sidebar, st.container(key="foot_account", gap="xsmall"):
        if not set_up():
            st.caption("Sign-in is not set up here: what you upload is yours until you close this browser.")
        elif st.user.get("is_logged_in"):
            st.caption(f"Signed in as {plain(st.user.get('email') or st.user.get('name') or st.user.get('sub') or 'somebody')}")
            st.button("Sign out", type="tertiary", icon=":material/logout:", key="sign_out", on_click=st.logout)
        else:
            st.caption("You are a guest: what you upload is yours until you close this browser.")
            st.button("Sign in", type="tertiary", icon=":material/login:", key="sign_in", on_click=st.login)


def set_up() -> bool:
    """Whether .streamlit/secrets.toml names an identity provider."""
    try:
        return "auth" in st.secrets
    except (StreamlitSecretNotFoundError, FileNotFoundError):
        return False
