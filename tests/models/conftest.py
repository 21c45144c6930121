"""The network that a test of a contract is about; `built`, of a module of its own, makes (name, network) once."""

import pytest


@pytest.fixture
def name(built):
    return built[0]


@pytest.fixture
def model(built):
    return built[1].eval()
