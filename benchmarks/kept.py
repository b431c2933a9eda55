"""Results kept in files, so that a benchmark can be stopped and started again; never those of other settings."""

import json
import sys

from spaces.wholefile import write_whole

SETTINGS = "settings.json"


def same_settings(folder, **settings):
    """Make a folder for results; end where it holds those of other settings.

    Args:
        folder: For results.
        settings: Whatever its files do not have in their names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / SETTINGS
    if (before := kept(file, lambda: settings)) != settings:
        sys.exit(f"{folder} holds results of {before}, not of {settings}; choose another folder by --out")


def kept(file, make):
    """What a file holds, as JSON; made now, where there is none."""
    if not file.exists():
        write_whole(file, json.dumps(make()))
    return json.loads(file.read_text())
