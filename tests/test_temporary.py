"""Temporary folders: other users cannot enter them, and those of ended processes are cleared."""

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

OWNER_CODE = """
import sys
from forcetune.temporary import make_folder
print(make_folder("tune").path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Return the only folder in which temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(temporary, "_roots", lambda: [tmp_path])
    return tmp_path


def start_owner(root):
    environment = {**os.environ, "TMPDIR": str(root), "PYTHONPATH": str(Path(__file__).parents[1])}
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER_CODE], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return owner, Path(owner.stdout.readline().strip())


def end_owner(owner):
    owner.stdin.close()
    owner.stdout.close()
    owner.wait()


def test_the_next_start_clears_what_a_dead_owner_left(root):
    (alive, kept), (killed, abandoned) = start_owner(root), start_owner(root)
    killed.send_signal(signal.SIGKILL)
    end_owner(killed)
    assert abandoned.is_dir()
    with make_folder("tune"):
        assert kept.is_dir()
        assert not abandoned.exists()
    end_owner(alive)


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
    """Clear folders of earlier versions, which held no lock; Ray's processes name them in the path of their token."""
    used, abandoned = (Path(tempfile.mkdtemp(prefix="forcetune-ray-", dir=root)) for _ in range(2))
    young = Path(tempfile.mkdtemp(prefix="forcetune-tune-", dir=root))
    for path in (used, abandoned):
        os.utime(path, (0, 0))
    variables = {**os.environ, "RAY_AUTH_TOKEN_PATH": f"{used}/token"}
    process = subprocess.Popen([sys.executable, "-c", "input()"], env=variables, stdin=subprocess.PIPE)
    temporary.clear_abandoned()
    assert (used.is_dir(), young.is_dir(), abandoned.exists()) == (True, True, False)
    process.kill()
    process.communicate()


def test_files_of_others_stay(root):
    (root / "forcetune-ray-12345678").symlink_to(root)
    (root / "forcetune-rays-12345678").mkdir()
    os.utime(root / "forcetune-rays-12345678", (0, 0))
    temporary.clear_abandoned()
    assert {path.name for path in root.iterdir()} == {"forcetune-ray-12345678", "forcetune-rays-12345678"}


def test_a_temporary_folder_with_a_long_path_is_skipped(tmp_path, monkeypatch):
    """Make a folder for Ray's sockets, whose paths are limited, where TMPDIR is as long as Slurm's."""
    long_folder = tmp_path / "job" / ("x" * 40)
    long_folder.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long_folder))
    folder, ray_folder = make_ray_folder()
    with folder:
        assert len(str(ray_folder)) <= temporary.RAY_FOLDER_LIMIT_BYTES
        assert folder.path.stat().st_mode & 0o777 == 0o700


def test_a_system_without_a_short_folder_is_refused(root):
    with pytest.raises(InputError, match=r"its path is too long for Ray's sockets\). Set RAY_TMPDIR"):
        make_ray_folder()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_other_users_cannot_enter_a_ray_folder():
    with tempfile.TemporaryDirectory(dir="/tmp") as shared_folder:
        Path(shared_folder).chmod(0o777)
        (Path(shared_folder) / "file").touch(mode=0o666)
        assert break_in(Path(shared_folder)), "the intruder can do what is allowed"
    folder, ray_folder = make_ray_folder()
    with folder:
        ray_folder.mkdir()
        ray_folder.chmod(0o777)  # Ray does so
        (ray_folder / "code.py").write_text("")
        (ray_folder / "code.py").chmod(0o666)
        assert break_in(folder.path) == []
