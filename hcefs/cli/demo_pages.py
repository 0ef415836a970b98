"""The metrics pages of the demo's processes, read as Prometheus would."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

PAGE_SECONDS = 5.0
PAGE_BYTES_MAX = 4 << 20


@dataclass(frozen=True)
class Page:
    """The samples of one ``/metrics`` page: by name and sorted labels."""

    samples: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of a name whose labels include these; 0 without any."""
        wanted = labels.items()
        return sum(
            value
            for (found, pairs), value in self.samples.items()
            if found == name and wanted <= dict(pairs).items()
        )

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """The samples of a name that are not 0, by one of its labels."""
        found: dict[str, float] = {}
        for (sample, pairs), value in self.samples.items():
            key = dict(pairs).get(label)
            if sample == name and key is not None and value:
                found[key] = found.get(key, 0) + value
        return found


def parse_page(text: str) -> Page:
    """A page in Prometheus' text format.

    Raises:
        ValueError: it is not.
    """
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[(sample.name, tuple(sorted(sample.labels.items())))] = sample.value
    return Page(samples)


def fetch_page(address: str) -> Page:
    """The page of a process at ``host:port``; blocking.

    Raises:
        OSError: nobody answers there.
        ValueError: what answers is no metrics page.
    """
    connection = http.client.HTTPConnection(address, timeout=PAGE_SECONDS)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        return parse_page(answer.read(PAGE_BYTES_MAX).decode("utf-8"))
    finally:
        connection.close()
