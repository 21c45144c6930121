"""What all tests share: one thread each, the real images, and a reason wherever a test is skipped."""

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Before torch is imported, by us or by a process that a test starts: on one thread results do not depend on the number
# of cores, and the workers of pytest-xdist do not fight for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What is kept between runs, images above all, is kept apart from the user's.
os.environ.setdefault("LINNAEUS_CACHE", tempfile.mkdtemp(prefix="linnaeus-tests-"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") and not _has_cuda():
        pytest.skip("needs a CUDA device, and there is none")


@functools.cache
def _has_cuda() -> bool:
    import torch  # here, so that the tests of the architecture do not wait for it

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of the real data sets; skips where there is none."""
    folder = os.environ.get("LINNAEUS_TEST_DATA")
    if not folder:
        pytest.skip("LINNAEUS_TEST_DATA is not set: run `make test-data`")
    if not Path(folder).is_dir():
        pytest.skip(f"LINNAEUS_TEST_DATA={folder} is absent: run `make test-data`")
    return Path(folder)


@pytest.fixture(scope="session")
def real_data(test_data: Path) -> Callable[[str], Path]:
    """`real_data("hymenoptera")` is the folder of that set; skips where it is absent. Read only: others use it too."""

    def find(name: str) -> Path:
        if not (test_data / name).is_dir():
            pytest.skip(f"LINNAEUS_TEST_DATA/{name} is absent: run `make test-data`")
        return test_data / name

    return find
