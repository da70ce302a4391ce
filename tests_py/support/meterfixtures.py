"""Metrics of the process, for tests that switch them on. The library is only imported by tests that ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


@pytest.fixture
def unmetered() -> Iterator[None]:
    """Nothing counts for the next test, and nobody wants to look."""
    yield
    from gendurable_py import prometheus
    from gendurable_py.telemetry import instrument

    prometheus.uninstrument()
    assert instrument.meter is None
    assert instrument.looks_every() is None


@pytest.fixture
def registry() -> CollectorRegistry:
    from prometheus_client import CollectorRegistry

    return CollectorRegistry()
