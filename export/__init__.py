"""Figures for papers and slides: vector and pixel files at the sizes that papers use, interactive HTML, and the data whole.

    sizes.py     what 89 mm, 183 mm and a slide mean, and how large text is on them
    drawing.py   a figure card's view made ready for print
    browser.py   finding Chromium; the one warm process that draws
    process.py   that process: plotly.js in headless Chromium behind JSON lines
    typeface.py  IBM Plex Sans where it was fetched
    paper.py     exact page sizes in the files: SVG in mm, PDF page boxes, PNG density
    files.py     the files of a figure: SVG, PDF, PNG, HTML, CSV, Parquet
"""
