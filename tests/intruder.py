"""Another account of the same machine, which tries what it can do to the files of this one."""

import json
import os
import subprocess
import sys
from pathlib import Path

NOBODY_ID = 65534
PROGRAM = """
import json, os, sys

os.setgroups([])
os.setgid({nobody})
os.setuid({nobody})
done = []


def attempt(what, path, call):
    try:
        call()
    except OSError:
        return
    done.append(f"{{what}} {{path}}")


for path in json.load(sys.stdin):
    if os.path.islink(path):
        continue
    if path.endswith("/"):
        attempt("list", path, lambda: os.listdir(path))
        attempt("write into", path, lambda: open(path + "intruder", "x"))
    else:
        attempt("read", path, lambda: open(path, "rb").read(1))
        attempt("write", path, lambda: open(path, "ab"))
        attempt("rename", path, lambda: (os.rename(path, path + "~"), os.rename(path + "~", path)))
        attempt("replace", path, lambda: (open(path + "~", "w"), os.replace(path + "~", path)))
print(json.dumps(done))
"""


def break_in(folder: Path) -> list[str]:
    """Return what an account without privileges could do in a folder: list, read, write, rename, replace."""
    paths = [f"{folder}/"]
    for parent, folders, files in os.walk(folder):
        paths += [f"{parent}/{name}/" for name in folders] + [f"{parent}/{name}" for name in [*folders, *files]]
    program = PROGRAM.format(nobody=NOBODY_ID)
    completed = subprocess.run([sys.executable, "-c", program], input=json.dumps(paths), capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    return [str(line) for line in json.loads(completed.stdout)]
