"""Reading what Prometheus would read."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families


def get(url: str, method: str = "GET", timeout: float = 20) -> tuple[int, str]:
    """The status and the text of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def probe(url: str) -> tuple[int, dict[str, Any]]:
    """The status of a probe, and what it says."""
    status, text = get(url)
    return status, json.loads(text)


class Scrape:
    """One scrape of an endpoint."""

    def __init__(self, url: str) -> None:
        status, self.text = get(f"{url}/metrics")
        assert status == 200, self.text
        self.families: dict[str, Metric] = {each.name: each for each in text_string_to_metric_families(self.text)}

    def points(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """The labels and values of a sample, of those that have these labels."""
        return [
            (dict(sample.labels), sample.value)
            for family in self.families.values()
            for sample in family.samples
            if sample.name == f"gendurable_{name}" and labels.items() <= sample.labels.items()
        ]

    def total(self, name: str, **labels: str) -> float:
        return sum(value for _, value in self.points(name, **labels))
