"""Which sinks there are and where they send, from one YAML file; docs/monitoring.md has an example.

Secrets are never in the file: it names the environment variables that hold them.
"""

import os
import ssl
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator

from detection.sinks.forwarding import Forwarding, Transport
from detection.sinks.interface import Sink, Sinks
from detection.sinks.outbox import Outbox
from detection.sinks.table import Table
from storage.files import read_yaml
from storage.settings import Group, dotted, mistake


def _web_address(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("an address that begins with http:// or https:// is needed")
    if parts.username or parts.password:
        raise ValueError("a password has no place here: take url_env, or a secret_env that the receiver checks")
    return url


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]  # name of an environment variable
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]+$")]
Text = Annotated[str, Field(min_length=1)]
Topic = Annotated[str, Field(pattern=r"^[^+#$/\x00-\x1f]+(/[^+#/\x00-\x1f]+)*$", max_length=200)]
Seconds = Annotated[float, Field(gt=0, le=300)]


class CsvSettings(Group):
    type: Literal["csv"]
    name: Name = "csv"
    path: Text

    def open(self, folder: Path) -> Sink:
        return Table(folder / self.path, self.name).open()


class JsonLinesSettings(Group):
    type: Literal["json_lines"]
    name: Name = "json_lines"
    path: Text

    def open(self, folder: Path) -> Sink:
        from detection.sinks.json_lines import JsonLines

        return JsonLines(folder / self.path, self.name)


class MqttSettings(Group):
    type: Literal["mqtt"]
    name: Name = "mqtt"
    host: Host
    port: Port | None = None  # 1883, with TLS 8883
    topic: Topic = "rcmae"
    username: str = ""
    password_env: Variable | None = None
    tls: Annotated[bool, Field(strict=True)] = False
    ca: Text | None = None  # PEM file of the authority that signed the broker's certificate; default: the system's

    @model_validator(mode="after")
    def _complete(self) -> "MqttSettings":
        if self.password_env and not self.username:
            raise ValueError("password_env needs a username")
        if self.ca and not self.tls:
            raise ValueError("ca needs tls: true")
        return self

    def transport(self, folder: Path) -> Transport:
        from detection.sinks.mqtt import Mqtt

        context = None
        if self.tls:
            try:
                context = ssl.create_default_context(cafile=folder / self.ca if self.ca else None)
            except OSError as error:
                raise ValueError(f"sink {self.name}: {folder / str(self.ca)} holds no certificates ({error})") from None
        port = self.port or (8883 if self.tls else 1883)
        return Mqtt(self.host, port, self.topic, self.username, _secret(self.password_env, self.name), context)


class PrometheusSettings(Group):
    type: Literal["prometheus"]
    name: Name = "prometheus"
    address: Host = "127.0.0.1"  # where it listens; 0.0.0.0 opens it to the network, without a password
    port: Port = 9464

    def open(self, folder: Path) -> Sink:
        from detection.sinks.prometheus import Prometheus

        try:
            return Prometheus(self.address, self.port, self.name)
        except OSError as error:
            raise OSError(f"sink {self.name}: cannot listen at {self.address}:{self.port} ({error.strerror})") from None


class WebhookSettings(Group):
    type: Literal["webhook"]
    name: Name = "webhook"
    url: Annotated[str, AfterValidator(_web_address)] | None = None
    url_env: Variable | None = None  # for an address that is a secret itself
    secret_env: Variable | None = None  # of the signature
    timeout: Seconds = 10.0  # s

    @model_validator(mode="after")
    def _has_address(self) -> "WebhookSettings":
        if (self.url is None) == (self.url_env is None):
            raise ValueError("exactly one of url and url_env is needed")
        return self

    def transport(self, folder: Path) -> Transport:
        from detection.sinks.webhook import Webhook

        url = self.url
        if url is None:
            try:
                url = _web_address(_secret(self.url_env, self.name))
            except ValueError as error:
                raise ValueError(f"{self.url_env}: {error}") from None
        return Webhook(url, _secret(self.secret_env, self.name), self.timeout)


SinkSettings = CsvSettings | JsonLinesSettings | MqttSettings | PrometheusSettings | WebhookSettings


class Settings(Group):
    """`folder` is what paths are relative to; it is the settings file's."""

    folder: Path
    waiting: Text = "waiting"  # folder for verdicts that a receiver has not confirmed yet
    waiting_limit: Annotated[int, Field(ge=1, le=10_000_000, strict=True)] = 100_000  # verdicts, per sink
    sinks: list[Annotated[SinkSettings, Field(discriminator="type")]]

    @model_validator(mode="after")
    def _names_differ(self) -> "Settings":
        names = Counter(sink.name for sink in self.sinks)
        for name, count in names.items():
            if count > 1:
                raise ValueError(f"{count} sinks are called {name}: give each another name")
        return self


def read_settings(path: Path) -> Settings:
    """The checked settings. Raises ValueError with a line per mistake, and OSError."""
    found = read_yaml(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: a list called sinks is needed, see docs/monitoring.md")
    if "folder" in found:
        raise ValueError(f"{path}: folder is not a setting")
    try:
        return Settings.model_validate(found | {"folder": path.absolute().parent})
    except ValidationError as error:
        raise ValueError("\n".join(_mistake(path, one) for one in error.errors())) from None


def _mistake(path: Path, error: Any) -> str:
    # pydantic puts the type of a sink into the place: ('sinks', 0, 'mqtt', 'port')
    where = [part for place, part in enumerate(error["loc"]) if not (place == 2 and error["loc"][0] == "sinks")]
    key = dotted(where)
    if error["type"] == "union_tag_invalid":
        return f"{path}: {key}.type is {error['ctx']['tag']!r}, allowed are {error['ctx']['expected_tags']}"
    if error["type"] == "union_tag_not_found":
        return f"{path}: {key}.type is missing"
    name = str(where[-1]) if where else ""
    # what was written there by mistake may be the secret itself
    message = mistake(path, key, error, "a setting", secret=name.endswith(("_env", "url")))
    if error["type"] == "extra_forbidden" and any(word in name for word in ("password", "secret", "token")):
        return f"{message}; secrets are named by an environment variable"
    return message


def _secret(variable: str | None, sink: str) -> str:
    """The value of an environment variable, empty if none is named. Raises ValueError if it is not set."""
    if variable is None:
        return ""
    if not os.environ.get(variable):
        raise ValueError(f"sink {sink}: the environment variable {variable} is not set")
    return os.environ[variable]


def open_sinks(settings: Settings | None = None, record: Table | None = None) -> Sinks:
    """The sinks, ready to use, and the `record` beside them; to be closed at the end.

    Raises ValueError and OSError for what can never work: a file of someone else's, a variable that is not set, a
    port in use, a package that is not installed. A receiver that cannot be reached is no such thing.
    """
    opened: list[Sink] = []
    try:
        if record is not None:
            record.open()
        if settings is not None:
            for sink in settings.sinks:
                opened.append(_open(sink, settings))
        _show_queues(opened)
    except BaseException:
        Sinks(opened, record).close()
        raise
    return Sinks(opened, record)


def _open(sink: SinkSettings, settings: Settings) -> Sink:
    try:
        if isinstance(sink, MqttSettings | WebhookSettings):
            transport = sink.transport(settings.folder)
            outbox = Outbox(settings.folder / settings.waiting / f"{sink.name}.sqlite", settings.waiting_limit)
            return Forwarding(sink.name, outbox, transport)
        return sink.open(settings.folder)
    except ModuleNotFoundError as error:
        raise ValueError(f"sink {sink.name} needs the package {error.name}: see requirements.txt") from None


def _show_queues(sinks: list[Sink]) -> None:
    """Let the pages for Prometheus show what waits for the other sinks."""
    for page in (sink for sink in sinks if hasattr(sink, "show_queue")):
        for sink in sinks:
            if isinstance(sink, Forwarding):
                page.show_queue(sink.name, sink.outbox.__len__, partial(getattr, sink, "dropped"))
