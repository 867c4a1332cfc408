"""The drawing process: `python -m export.process` keeps one headless Chromium with plotly.js loaded and answers JSON lines.

stdin, one line per figure:  {"figure": plotly JSON text, "title", "width_px", "height_px", "width_mm", "height_mm",
                              "formats": ["svg", "pdf", "png"], "dpi"}
      or, a whole page to print:  {"document": HTML, "formats": ["pdf"]}
stdout, one line each:       {"ready": true} first, then {"svg": text, "pdf": base64, "png": base64} or {"error": sentence}

It uses the browser layer of kaleido (choreographer). Kaleido itself draws the figure again for each format and loads its page
anew after each; here plotly draws once, into SVG, and PDF and PNG are prints of that SVG: equal in every format, the page in
exact millimetres (kaleido's PDF shrinks the figure into a margin of 0.1 inch), several times faster. Nothing is fetched: the
page is about:blank and plotly.js comes from the plotly package. The process ends when its stdin closes or it was idle for long.
"""

from __future__ import annotations

import asyncio
import base64
import html
import json
import logging
import os
import sys
import threading

from export.paper import set_png_density, size_pdf, size_svg
from export.typeface import faces

IDLE_SECONDS = 600
# Draws SVG; while a text leaves the page, that side gets a wider margin (fonts differ between machines, panels get narrow).
DRAW = """async function(text, width, height, ratio) {
  const figure = JSON.parse(text), layout = figure.layout, config = {staticPlot: true, plotGlPixelRatio: ratio};
  const margin = Object.assign({l: 80, r: 80, t: 100, b: 80}, layout.template?.layout?.margin, layout.margin);
  const most = {l: margin.l + width / 4, r: margin.r + width / 4, t: margin.t + height / 4, b: margin.b + height / 4};
  for (let round = 0; ; round++) {
    const svg = await Plotly.toImage({data: figure.data, layout: {...layout, margin}, config},
                                     {format: 'svg', width: width, height: height, imageDataOnly: true});
    const holder = document.createElement('div');
    holder.innerHTML = svg;
    document.body.append(holder);
    const page = holder.firstElementChild.getBoundingClientRect(), over = {l: 0, r: 0, t: 0, b: 0};
    for (const label of holder.querySelectorAll('text')) {
      const box = label.getBoundingClientRect();
      if (!box.width) continue;
      over.l = Math.max(over.l, page.left - box.left);  over.r = Math.max(over.r, box.right - page.right);
      over.t = Math.max(over.t, page.top - box.top);    over.b = Math.max(over.b, box.bottom - page.bottom);
    }
    holder.remove();
    const sides = Object.keys(over).filter(side => over[side] > 0.5 && margin[side] < most[side]);
    if (round === 4 || sides.length === 0) return svg;
    for (const side of sides) margin[side] = Math.min(margin[side] + 1.5 * over[side] + 4, most[side]);
  }
}"""
DECODED = "Promise.all([...document.querySelectorAll('image')].map(i => i.decode().catch(() => null))).then(() => document.fonts.ready).then(() => 1)"
FONTS = "(css => { const style = document.createElement('style'); style.textContent = css; document.head.append(style);"
FONTS += " return Promise.all([...document.fonts].map(face => face.load())).then(() => 1); })"
PAPER = "<!doctype html><meta charset=utf-8><title>{title}</title><style>{fonts}html,body{{margin:0}}svg{{display:block}}</style>{svg}"


class Failed(RuntimeError):
    """Chromium or plotly.js answered with an error."""


class Painter:
    """Two tabs: one in which plotly.js draws SVG, one in which that SVG is printed."""

    def __init__(self, drawing, paper, fonts: str):
        self.drawing, self.paper, self.fonts = drawing, paper, fonts

    @classmethod
    async def open(cls, browser) -> Painter:
        import plotly.offline

        drawing, paper = await browser.create_tab(""), await browser.create_tab("")
        await _command(drawing, "Runtime.evaluate", expression=plotly.offline.get_plotlyjs(), returnByValue=False)
        fonts = faces()
        await _command(drawing, "Runtime.evaluate", expression=f"{FONTS}({json.dumps(fonts)})", awaitPromise=True)
        return cls(drawing, paper, fonts)

    async def files(self, job: dict) -> dict[str, str]:
        """The asked formats of one figure: SVG as text, PDF and PNG in base64; of a document its PDF."""
        if "document" in job:
            return {"pdf": _text(await self._document(job["document"]))}
        svg = size_svg(await self._svg(job), job["width_mm"], job["height_mm"])
        files = {"svg": svg}
        if set(job["formats"]) & {"pdf", "png"}:
            await self._lay_out(svg, job["title"])
        if "pdf" in job["formats"]:
            files["pdf"] = _text(size_pdf(await self._pdf(job), job["width_mm"], job["height_mm"]))
        if "png" in job["formats"]:
            files["png"] = _text(set_png_density(await self._png(job), job["dpi"]))
        return {name: files[name] for name in job["formats"]}

    async def _document(self, page: str) -> bytes:
        """HTML on as many A4 pages as it needs; its fonts are ours."""
        frame = (await _command(self.paper, "Page.getFrameTree"))["frameTree"]["frame"]["id"]
        await _command(self.paper, "Page.setDocumentContent", frameId=frame, html=page.replace("</head>", f"<style>{self.fonts}</style></head>", 1))
        await _command(self.paper, "Runtime.evaluate", expression=DECODED, awaitPromise=True)
        printed = await _command(self.paper, "Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        return base64.b64decode(printed["data"])

    async def _svg(self, job: dict) -> str:
        pixels = job["width_mm"] / 25.4 * job["dpi"] / job["width_px"]  # printed dots per px of the layout, for WebGL traces
        window = (await _command(self.drawing, "Runtime.evaluate", expression="globalThis"))["result"]["objectId"]
        given = [job["figure"], job["width_px"], job["height_px"], min(max(round(pixels), 1), 3)]
        drawn = await _command(self.drawing, "Runtime.callFunctionOn", functionDeclaration=DRAW, objectId=window, awaitPromise=True,
                               returnByValue=True, arguments=[{"value": value} for value in given])
        return drawn["result"]["value"]

    async def _lay_out(self, svg: str, title: str) -> None:
        frame = (await _command(self.paper, "Page.getFrameTree"))["frameTree"]["frame"]["id"]
        await _command(self.paper, "Page.setDocumentContent", frameId=frame, html=PAPER.format(title=html.escape(title), fonts=self.fonts, svg=svg))
        await _command(self.paper, "Runtime.evaluate", expression=DECODED, awaitPromise=True)

    async def _pdf(self, job: dict) -> bytes:
        printed = await _command(self.paper, "Page.printToPDF", printBackground=True, marginTop=0, marginBottom=0, marginLeft=0,
                                 marginRight=0, paperWidth=job["width_mm"] / 25.4, paperHeight=job["height_mm"] / 25.4, pageRanges="1")
        return base64.b64decode(printed["data"])

    async def _png(self, job: dict) -> bytes:
        width, height = (job[side] / 25.4 * 96 for side in ("width_mm", "height_mm"))
        await _command(self.paper, "Emulation.setDeviceMetricsOverride", width=int(width) + 1, height=int(height) + 1,
                       deviceScaleFactor=job["dpi"] / 96, mobile=False)
        shot = await _command(self.paper, "Page.captureScreenshot", format="png", clip=dict(x=0, y=0, width=width, height=height, scale=1))
        return base64.b64decode(shot["data"])


async def _command(tab, name: str, **params) -> dict:
    answer = await tab.send_command(name, params=params)
    if "error" in answer:
        raise Failed(f"{name}: {answer['error'].get('message', answer['error'])}")
    result = answer["result"]
    if "exceptionDetails" in result:
        details = result["exceptionDetails"]
        raise Failed(str(details.get("exception", {}).get("description", details.get("text", "")))[:300])
    return result


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


async def serve(out) -> None:
    """Answer until stdin ends."""
    import choreographer

    logging.disable(logging.WARNING)
    lines: asyncio.Queue = asyncio.Queue()
    loop = asyncio.get_running_loop()
    threading.Thread(target=_read, args=(loop, lines), daemon=True).start()
    try:
        browser = choreographer.Browser(path=os.environ.get("BROWSER_PATH") or None)
        await browser.open()
    except (RuntimeError, OSError) as error:
        _write(out, {"error": f"Chromium did not start: {_first_line(error)}"})
        return
    try:
        painter = await Painter.open(browser)
        _write(out, {"ready": True})
        while (line := await asyncio.wait_for(lines.get(), IDLE_SECONDS)) is not None:
            try:
                _write(out, await painter.files(json.loads(line)))
            except (Failed, ValueError) as error:
                _write(out, {"error": f"Chromium could not draw this figure: {_first_line(error)}"})
    except asyncio.TimeoutError:
        pass  # idle: the next figure starts a new process
    finally:
        await browser.close()


def _read(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue) -> None:
    for line in sys.stdin.buffer:
        loop.call_soon_threadsafe(lines.put_nowait, line)
    loop.call_soon_threadsafe(lines.put_nowait, None)


def _write(out, answer: dict) -> None:
    out.write(json.dumps(answer).encode() + b"\n")
    out.flush()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library or Chromium prints must not land among the answers
    asyncio.run(serve(out))


if __name__ == "__main__":
    main()
