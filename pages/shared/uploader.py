"""Files from the browser to `/upload`, in pieces that resume; the page hears only the id when all has arrived.

Streamlit's own uploader keeps files in the server's memory. This is a small component of the page itself (no frame), so
its requests come from the app's own origin with the ticket that the page gave it.
"""

from __future__ import annotations

import streamlit as st

HTML = """
<div class="drop" tabindex="0" role="button" aria-label="Choose files of a checkpoint or drop them here">
  <strong>Drop the files of a checkpoint here</strong><span class="hint"></span>
  <input type="file" multiple hidden>
</div>
<div class="bar" hidden><div></div></div><p class="word" role="status"></p>
"""
CSS = """
.drop {border: 1px dashed var(--st-border-color, #8893a0); border-radius: 5px; padding: 1.1rem 1rem; cursor: pointer; display: flex; flex-direction: column; gap: .25rem}
.drop.over, .drop:focus-visible {outline: 2px solid var(--st-text-color); outline-offset: 1px}
.hint, .word {font-size: .867rem; opacity: .75; margin: 0}
.bar {height: 8px; background: var(--st-secondary-background-color); border-radius: 4px; margin-top: .6rem}
.bar div {height: 100%; width: 0; background: var(--st-text-color); border-radius: 4px}
.word {margin-top: .4rem}
"""
JS = """
const PIECE = 32 * 1024 * 1024;
export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const at = (selector) => parentElement.querySelector(selector);
  const drop = at(".drop"), input = at("input"), bar = at(".bar"), fill = at(".bar div"), word = at(".word");
  at(".hint").textContent = data.hint;
  const call = async (method, path, body) => {
    const answer = await fetch("/upload" + path, { method, body, headers: { "X-Microtome-Ticket": data.ticket } });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error || "The server did not answer. Try again.");
    return told;
  };
  const send = async (files) => {
    if (!files.length || drop.dataset.busy) return;
    drop.dataset.busy = "1"; bar.hidden = false;
    const total = files.reduce((sum, file) => sum + file.size, 0);
    const show = (done, name) => { fill.style.width = (100 * done / Math.max(total, 1)) + "%"; word.textContent = name + " · " + Math.floor(100 * done / Math.max(total, 1)) + " %"; };
    try {
      const { id } = await call("POST", "", JSON.stringify({ files: Object.fromEntries(files.map((file) => [file.name, file.size])) }));
      let before = 0;
      for (const file of files) {
        let offset = 0, tries = 0;
        while (offset < file.size) {
          show(before + offset, file.name);
          try {
            offset = (await call("PUT", "/" + id + "/" + encodeURIComponent(file.name) + "?offset=" + offset, file.slice(offset, offset + PIECE))).received;
            tries = 0;
          } catch (error) {
            if (++tries > 5) throw error;
            await new Promise((next) => setTimeout(next, 1000 * tries));
            offset = (await call("GET", "/" + id)).received[file.name];
          }
        }
        before += file.size;
      }
      show(total, "Received");
      setTriggerValue("received", { id, names: files.map((file) => file.name) });
    } catch (error) { word.textContent = error.message; bar.hidden = true; }
    delete drop.dataset.busy;
  };
  drop.onclick = () => input.click();
  drop.onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); input.click(); } };
  input.onchange = () => send([...input.files]);
  drop.ondragover = (event) => { event.preventDefault(); drop.classList.add("over"); };
  drop.ondragleave = () => drop.classList.remove("over");
  drop.ondrop = (event) => { event.preventDefault(); drop.classList.remove("over"); send([...event.dataTransfer.files]); };
}
"""


def draw(ticket: str, hint: str, key: str = "uploader") -> dict | None:
    """{"id", "names"} in the run after all files have arrived, else None."""
    component = st.components.v2.component("checkpoint_uploader", html=HTML, css=CSS, js=JS)
    result = component(data={"ticket": ticket, "hint": hint}, key=key, on_received_change=lambda: None)
    return result.received
