"""Search a small study with an installed forcetune, in a new folder, as a newcomer would.

Usage: python tests/try_installed.py FORCETUNE, the path of the command to try. `make test-wheel` runs it.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# The shipped study, made small enough for a minute.
SMALLER = {r"trials: \d+": "trials: 4", r"epochs: \d+": "epochs: 1", r"width: \d+": "width: 4"}


def main(command):
    with tempfile.TemporaryDirectory() as folder:

        def run(*arguments):
            """Return what the command prints, and end this program where the command fails."""
            ended = subprocess.run([command, *arguments], cwd=folder, capture_output=True, text=True, check=False)
            if ended.returncode:
                sys.exit(
                    f"forcetune {' '.join(arguments)} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}"
                )
            return ended.stdout

        run("init", "digits")
        study_file = Path(folder, "digits.yaml")
        text = study_file.read_text()
        for pattern, replacement in SMALLER.items():
            text, count = re.subn(pattern, replacement, text, count=1)
            assert count == 1, f"the shipped study has no {pattern}"
        study_file.write_text(text)
        run("search", "digits.yaml")
        front = json.loads(run("best", "digits", "--json"))
        assert front, "the front has a point"
        run("report", "digits")
        print(f"{command}: a front of {len(front)} points and its page, {run('--version').strip()}")


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).resolve()))
