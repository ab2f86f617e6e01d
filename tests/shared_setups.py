"""Files of tests that pytest-xdist gives to one worker, because they share a set-up of minutes."""

from xdist.scheduler import LoadFileScheduling

FILES_BY_FIXTURE = {  # each worker would make the fixture anew, and two clusters of Ray take each other's cores
    "cluster": ("test_chaos.py", "test_jobs.py", "test_nodes.py", "test_workers.py"),
    "searched_study": ("test_cron.py", "test_nights.py"),
}
FIXTURE_BY_FILE = {f"tests/cluster/{name}": fixture for fixture, names in FILES_BY_FIXTURE.items() for name in names}


class SharedSetupScheduling(LoadFileScheduling):
    """The distribution of `--dist loadfile`, in which the files of a fixture are one file."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return FIXTURE_BY_FILE.get(file, file)
