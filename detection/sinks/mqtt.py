"""Verdicts to an MQTT broker: a topic per machine whose retained message is its last verdict.

    <topic>/status                     "online", or "offline" as the last will; retained
    <topic>/<type>/<id>                a verdict as JSON; retained
    <topic>/<type>/<id>/channel_<N>    the same where each channel is judged
    <topic>/errors                     what could not be judged, as JSON

All with quality of service 1: a verdict leaves the disk when the broker has confirmed it, and may arrive twice, then
with the same `id`.
"""

import json
import re
import ssl
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from detection.sinks.interface import Note

KEEPALIVE = 30  # s
TIMEOUT = 10.0  # s for the broker's answer


def topic_level(name: str) -> str:
    """A machine's name as a level of a topic: what has a meaning there is written %XX.

    >>> topic_level("Pump 3/A+"), topic_level("$fan")
    ('Pump 3%2FA%2B', '%24fan')
    """
    return re.sub(r"[/+#%\x00-\x1f\x7f]|^\$", lambda found: f"%{ord(found[0]):02X}", name)


class Mqtt:
    """The connection to a broker; `context` is None without TLS. A new client is made for each connection."""

    def __init__(
        self, host: str, port: int, topic: str, username: str, password: str, context: ssl.SSLContext | None = None
    ):
        self._host, self._port, self._topic, self._context = host, port, topic, context
        self._username, self._password = username, password
        self._client: paho.Client | None = None
        self._answer = ""

    def text(self, note: Note) -> str:
        levels = [topic_level(str(note.json[name])) for name in ("machine_type", "machine_id") if name in note.json]
        known = note.outcome != "error" and levels
        topic = "/".join([self._topic, *levels, *filter(None, [note.sensor])] if known else [self._topic, "errors"])
        return json.dumps({"topic": topic, "retain": bool(known), "payload": note.text(windows=False)})

    def send(self, text: str) -> None:
        message = json.loads(text)
        self._publish(self._connected(), message["topic"], message["payload"], message["retain"])

    def idle(self, seconds: float) -> None:
        self._loop(self._connected(), seconds)

    def disconnect(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        try:
            self._publish(client, f"{self._topic}/status", "offline", retain=True)
        except OSError:
            pass  # the connection is broken: the broker publishes the last will
        finally:
            client.disconnect()

    def _connected(self) -> paho.Client:
        if self._client is None:
            client = paho.Client(CallbackAPIVersion.VERSION2)
            client.on_connect = self._on_connect
            if self._username:
                client.username_pw_set(self._username, self._password)
            if self._context:
                client.tls_set_context(self._context)
            status = f"{self._topic}/status"
            client.will_set(status, "offline", qos=1, retain=True)
            self._answer = ""
            client.connect(self._host, self._port, KEEPALIVE)
            self._until(client, client.is_connected)
            self._publish(client, status, "online", retain=True)
            self._client = client
        return self._client

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason_code: Any, _properties: Any) -> None:
        self._answer = str(reason_code) if reason_code.is_failure else ""

    def _publish(self, client: paho.Client, topic: str, payload: str, retain: bool) -> None:
        sent = client.publish(topic, payload, qos=1, retain=retain)
        if sent.rc != paho.MQTT_ERR_SUCCESS:
            raise self._failure(paho.error_string(sent.rc))
        self._until(client, sent.is_published)

    def _until(self, client: paho.Client, done: Callable[[], bool]) -> None:
        end = time.monotonic() + TIMEOUT
        while not done():
            if time.monotonic() > end:
                raise self._failure(f"no answer for {TIMEOUT:g} s")
            self._loop(client, 0.25)

    def _loop(self, client: paho.Client, seconds: float) -> None:
        error = client.loop(seconds)
        if error != paho.MQTT_ERR_SUCCESS:
            raise self._failure(paho.error_string(error))

    def _failure(self, reason: str) -> OSError:
        return OSError(f"{self._host}:{self._port}: {self._answer or reason}")
