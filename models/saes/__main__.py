"""SAEs from a shell: python -m models.saes list | add FOLDER | fetch OWNER/NAME[@REVISION] FOLDER | release RELEASE ID"""

from __future__ import annotations

import argparse
import sys

from models.home import home
from models.refusal import Refused
from models.saes import hub, shelf


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.saes", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the SAEs at hand")
    commands.add_parser("add", help="put a folder on the shelf; it stays where it is").add_argument("folder")
    fetch = commands.add_parser("fetch", help="download one folder of a hub repository and put it on the shelf")
    fetch.add_argument("repository", help="owner/name or owner/name@revision")
    fetch.add_argument("folder", help="inside the repository, e.g. layers.30")
    release = commands.add_parser("release", help="download one SAE of a sae-lens release")
    release.add_argument("release")
    release.add_argument("id")
    asked = parser.parse_args(arguments)
    try:
        if asked.command == "list":
            for sae in shelf.known(home()):
                print(f"{sae.name}\t{sae.site.written}\t{sae.model}")
            return 0
        folder = {
            "add": lambda: asked.folder,
            "fetch": lambda: hub.fetch(asked.repository, asked.folder),
            "release": lambda: hub.fetch_release(asked.release, asked.id),
        }[asked.command]()
        print(shelf.register(folder, home()))
        return 0
    except Refused as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
