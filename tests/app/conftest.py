"""What the tests of the workflows share."""

import pytest


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Nothing that another test has left is known."""
    monkeypatch.setenv("LINNAEUS_CACHE", str(tmp_path / "cache"))
