"""Faults are the server's: one client of ours is enough."""

import pytest

from support.vault import Vault


@pytest.fixture
def kind():
    return "ours"


@pytest.fixture
def vault():
    return Vault
