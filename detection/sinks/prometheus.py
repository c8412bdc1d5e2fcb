"""The last verdict of each machine, and counts of all, at /metrics for Prometheus to scrape."""

import math
import time
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from detection.sinks.interface import Note

MACHINE = ["machine_type", "machine_id", "sensor"]  # sensor: channel_0 … where each channel is judged, else empty
FIGURES = {
    "score": "Score of the last recording; higher is more anomalous.",
    "threshold": "Score above which a recording is anomalous.",
    "p_value": "Share of healthy recordings that score as high as the last one; NaN where nothing can be promised.",
    "drift": "Drift statistic after the last recording; NaN where there is none.",
}


class Prometheus:
    """A server at `address` and `port`. Raises OSError when it cannot listen there."""

    def __init__(self, address: str, port: int, name: str = "prometheus"):
        self.name = name
        self._registry = CollectorRegistry()

        def gauge(name: str, text: str, labels: list[str]) -> Gauge:
            return Gauge(name, text, labels, namespace="rcmae", registry=self._registry)

        def counter(name: str, text: str, labels: Sequence[str]) -> Counter:
            return Counter(name, text, labels, namespace="rcmae", registry=self._registry)

        self._figures = {key: gauge(key, text, MACHINE) for key, text in FIGURES.items()}
        self._verdicts = counter("verdicts", "Recordings judged.", [*MACHINE, "outcome"])
        self._errors = counter("errors", "Recordings that could not be judged.", [])
        self._age = gauge("seconds_since_last_recording", "Time since the last verdict (s).", MACHINE)
        self._waiting = gauge("verdicts_waiting", "Verdicts that wait on the disk for a receiver.", ["sink"])
        self._dropped = gauge("verdicts_dropped", "Verdicts that a receiver will never get.", ["sink"])
        self._last: dict[tuple[str, ...], float] = {}  # machine -> time of its last verdict
        self._server, self._thread = start_http_server(port, address, self._registry)

    @property
    def port(self) -> int:
        return self._server.server_port

    def put(self, note: Note) -> None:
        if note.outcome == "error":
            self._errors.inc()
            return
        machine = (note.json["machine_type"], note.json["machine_id"], note.sensor)
        for key, gauge in self._figures.items():
            value = note.json.get(key)
            gauge.labels(*machine).set(math.nan if value is None else value)
        self._verdicts.labels(*machine, note.outcome).inc()
        if machine not in self._last:
            self._age.labels(*machine).set_function(lambda: time.monotonic() - self._last[machine])
        self._last[machine] = time.monotonic()

    def show_queue(self, sink: str, waiting: Callable[[], float], dropped: Callable[[], float]) -> None:
        """Show how many verdicts of another sink wait, and were dropped."""
        self._waiting.labels(sink).set_function(waiting)
        self._dropped.labels(sink).set_function(dropped)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
