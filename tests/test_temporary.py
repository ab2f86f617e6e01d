"""Temporary folders: nobody else gets in, and those of the dead are cleared."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from intruder import break_in

from forcetune import temporary
from forcetune.errors import InputError
from forcetune.temporary import make_folder, make_ray_folder

OWNER = """
import sys
from forcetune.temporary import make_folder
print(make_folder("tune").path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The only folder for temporary folders."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(temporary, "_roots", lambda: [tmp_path])
    return tmp_path


def start(root):
    environment = {**os.environ, "TMPDIR": str(root), "PYTHONPATH": str(Path(__file__).parents[1])}
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return owner, Path(owner.stdout.readline().strip())


def end(owner):
    owner.stdin.close()
    owner.stdout.close()
    owner.wait()


def test_the_next_start_clears_what_a_dead_owner_left(root):
    (alive, kept), (killed, left) = start(root), start(root)
    killed.send_signal(signal.SIGKILL)
    end(killed)
    assert left.is_dir()
    with make_folder("tune"):
        assert kept.is_dir()
        assert not left.exists()
    end(alive)


def test_a_folder_that_is_left_to_another_process_stays(root):
    folder = make_folder("ray")
    code = "import sys; sys.stdin.read()"
    heir = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, pass_fds=[folder.lock])
    folder.release()
    temporary.clear_abandoned()
    assert folder.path.is_dir()
    heir.stdin.close()
    heir.wait()
    temporary.clear_abandoned()
    assert not folder.path.exists()


def test_a_folder_of_an_earlier_version_stays_while_a_process_names_it(root):
    """Earlier versions held no lock; a token stands in the environment of Ray's processes."""
    used, left = (Path(tempfile.mkdtemp(prefix="forcetune-ray-", dir=root)) for _ in range(2))
    young = Path(tempfile.mkdtemp(prefix="forcetune-tune-", dir=root))
    for path in (used, left):
        os.utime(path, (0, 0))
    variables = {**os.environ, "RAY_AUTH_TOKEN_PATH": f"{used}/token"}
    user = subprocess.Popen([sys.executable, "-c", "input()"], env=variables, stdin=subprocess.PIPE)
    temporary.clear_abandoned()
    assert (used.is_dir(), young.is_dir(), left.exists()) == (True, True, False)
    user.kill()
    user.communicate()


def test_what_is_not_ours_stays(root):
    (root / "forcetune-ray-12345678").symlink_to(root)
    (root / "forcetune-rays-12345678").mkdir()
    os.utime(root / "forcetune-rays-12345678", (0, 0))
    temporary.clear_abandoned()
    assert {path.name for path in root.iterdir()} == {"forcetune-ray-12345678", "forcetune-rays-12345678"}


def test_a_long_temporary_folder_is_passed_over(tmp_path, monkeypatch):
    """Slurm's has 50 characters, and Ray's sockets lie in it."""
    long = tmp_path / "job" / ("x" * 40)
    long.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder, ray = make_ray_folder()
    with folder:
        assert len(str(ray)) <= temporary.RAY_FOLDER_LIMIT_BYTES
        assert folder.path.stat().st_mode & 0o777 == 0o700


def test_no_folder_that_will_do(root):
    with pytest.raises(InputError, match=r"its path is too long for Ray's sockets\). Set RAY_TMPDIR"):
        make_ray_folder()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_nobody_gets_into_it():
    with tempfile.TemporaryDirectory(dir="/tmp") as shared:
        Path(shared).chmod(0o777)
        (Path(shared) / "file").touch(mode=0o666)
        assert break_in(Path(shared)), "the intruder can do what is allowed"
    folder, ray = make_ray_folder()
    with folder:
        ray.mkdir()
        ray.chmod(0o777)  # as Ray does
        (ray / "code.py").write_text("")
        (ray / "code.py").chmod(0o666)
        assert break_in(folder.path) == []
