"""`ledger up`: all of it on one machine, from the first start to kill -9."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis

from ledger.child import command_line
from ledger.embedded import free_port
from tests import services
from tests.e2e.processes import children, fake_provider, stop, until

LEDGER = (sys.executable, "-m", "ledger")
QUESTION = {"model": "gpt-5-nano", "max_tokens": 50, "messages": [{"role": "user", "content": "?"}]}


@dataclass(frozen=True)
class Up:
    """A running `ledger up`."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    gateway: str
    provider: str
    said: str

    def ledger(self, *arguments: str) -> Any:
        """What a command prints as JSON."""
        command = [*LEDGER, "--data-dir", str(self.data_dir), *arguments, "--format", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return json.loads(done.stdout)

    def key(self) -> str:
        """A new key that every worker knows."""
        labels = ["--owner", "o", "--team", "t", "--agent", "a", "--workload", "w"]
        key = str(self.ledger("keys", "issue", *labels)["key"])
        headers = {"authorization": f"Bearer {key}"}
        models = self.gateway + "/openai/v1/models"

        def is_known() -> bool:  # so many in a row that each worker had one
            return all(httpx.get(models, headers=headers).status_code == 200 for _ in range(8))

        until(is_known, what="every worker knows the new key")
        return key

    def call(self, key: str, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}", **options.pop("headers", {})}
        path = options.pop("path", "/v1/chat/completions")
        return httpx.post(self.gateway + path, json=QUESTION, headers=headers, timeout=20)

    def works(self, key: str) -> bool:
        """Whether a call gets through."""
        try:
            return self.call(key).status_code == 200
        except httpx.HTTPError:
            return False

    def event_ids(self) -> list[str]:
        return [event["event_id"] for event in self.ledger("events")]

    def pid(self, part: str) -> int:
        """The process id of a part; 0 while it is being started again."""
        try:
            return int((self.data_dir / "run" / f"{part}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return 0


@contextmanager
def running_up(data_dir: Path, provider: str, *options: str) -> Iterator[Up]:
    """A `ledger up` that has said that it is up."""
    address = f"127.0.0.1:{free_port()}"
    command = [*LEDGER, "up", "--data-dir", str(data_dir), "--gateway", address, "--workers", "2"]
    command += ["--provider", f"openai={provider}", "--provider", f"anthropic={provider}", *options]
    log = data_dir.with_name(data_dir.name + ".out")
    environment = {**os.environ, "ANTHROPIC_API_KEY": "sk-ours", "OPENAI_API_KEY": "sk-ours"}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        until(
            lambda: "Gateway" in log.read_text() or process.poll() is not None,
            what="`ledger up` is up",
            deadline_s=90,
        )
        assert process.poll() is None, log.read_text()
        yield Up(process, data_dir, f"http://{address}", provider, log.read_text())
    finally:
        stop(process)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory that PostgreSQL's own account can reach."""
    with services.scratch_directory() as path:
        yield path


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """The base URL of a fake provider."""
    with fake_provider() as url:
        yield url


@pytest.fixture(scope="module")
def up(directory: Path, provider: str) -> Iterator[Up]:
    """One `ledger up` for the tests that leave it running."""
    with running_up(directory / "data", provider) as running:
        yield running


def test_a_call_is_in_the_books(up: Up) -> None:
    """A key from the command line pays for a call through the gateway, and the books have it."""
    response = up.call(up.key())
    assert response.status_code == 200, response.text
    event_id = response.headers["x-tollkeeper-event-id"]
    until(lambda: event_id in up.event_ids(), what="the event is booked", deadline_s=5)


def test_it_says_where_everything_is(up: Up) -> None:
    """The addresses it prints and writes to DIR/env work, and only the owner may read the file."""
    assert up.gateway in up.said
    assert re.search(r"/openai/ +http://127.0.0.1:\d+, with OPENAI_API_KEY", up.said)
    assert "callers' own credential (GEMINI_API_KEY is not set)" in up.said
    env = up.data_dir / "env"
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    addresses = dict(line.split("=", 1) for line in env.read_text().splitlines())
    psycopg.connect(addresses["TOLLKEEPER_POSTGRES_DSN"]).close()
    with redis.Redis.from_url(addresses["TOLLKEEPER_REDIS_URL"]) as client:
        assert client.ping()


def test_a_second_one_is_told_who_runs(up: Up) -> None:
    """On the same data directory a second `ledger up` ends with a sentence that has the pid."""
    code, says = _refused("--data-dir", str(up.data_dir))
    assert code == 1
    assert f"process {up.process.pid}" in says
    assert says.count("\n") == 1


def test_a_taken_port_is_a_sentence(directory: Path) -> None:
    """Where somebody else listens, it says so before it starts anything."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, says = _refused("--data-dir", str(directory / "port"), "--gateway", address)
    assert code == 1
    assert f"cannot listen on {address}" in says
    assert says.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--gateway", "nonsense"),
        ("--provider", "openai"),
        ("--provider", "v1=http://127.0.0.1"),
        ("--provider", "openai=ftp://127.0.0.1"),
        ("--workers", "0"),
        ("--jwks", "/nowhere/keys.json", "--jwt-issuer", "i"),
        ("--jwks", "http://login.example.com/keys", "--jwt-issuer", "i"),
        ("--jwks", "https://login.example.com/keys"),
        ("--jwt-audience", "gateway"),
    ],
)
def test_wrong_usage_is_exit_code_2(directory: Path, arguments: tuple[str, ...]) -> None:
    """What was typed wrongly is said, and nothing is started."""
    code, says = _refused("--data-dir", str(directory / "usage"), *arguments)
    assert code == 2
    assert "Traceback" not in says


def test_an_unknown_path_says_which_there_are(up: Up) -> None:
    """A path that leads to no provider is answered with the prefixes that do."""
    answer = httpx.get(up.gateway + "/nowhere")
    assert answer.status_code == 404
    message = answer.json()["error"]["message"]
    assert all(prefix in message for prefix in ("/openai/", "/anthropic/", "/v1/"))
    assert "/azure/" not in message


def test_escaped_slashes_are_refused(up: Up) -> None:
    """There is one spelling of a path, so that none leads past the meter."""
    answer = up.call(up.key(), path="/v1/chat%2Fcompletions")
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "gateway_error"


def test_the_provider_gets_our_credential_and_nothing_of_ours(up: Up) -> None:
    """The gateway pays with its credential; the provider sees no key, address or header of ours."""
    headers = {"x-forwarded-for": "10.1.2.3", "x-envoy-retry-on": "5xx", "x-tollkeeper-team": "x"}
    key = up.key()
    assert up.call(key, headers=headers).status_code == 200
    seen = _last_request(up)
    assert seen["authorization"] == "Bearer sk-ours"
    assert key not in json.dumps(seen)
    assert not [
        name for name in seen if name.startswith(("x-envoy", "x-forwarded", "x-tollkeeper"))
    ]


def test_a_caller_that_brings_a_credential_pays_with_it(up: Up) -> None:
    """With its own credential, of whatever kind, ours does not ride along."""
    headers = {"x-tollkeeper-key": up.key(), "anthropic-version": "2023-06-01"}
    own = {**headers, "authorization": "Bearer sk-theirs"}
    answer = httpx.post(up.gateway + "/v1/messages", json=QUESTION, headers=own, timeout=20)
    assert answer.status_code == 200, answer.text
    seen = _last_request(up)
    assert seen["authorization"] == "Bearer sk-theirs"
    assert "x-api-key" not in seen


def test_credentials_are_known_to_envoy_alone(up: Up) -> None:
    """No other part has the provider's credential in its environment."""
    holders = {
        part
        for part in ("postgres", "valkey", "writer", "extproc", "envoy")
        if b"sk-ours" in Path(f"/proc/{up.pid(part)}/environ").read_bytes()
    }
    assert holders == {"envoy"}
    assert "sk-ours" not in (up.data_dir / "envoy/envoy.yaml").read_text()


@pytest.mark.parametrize("part", ["envoy", "extproc", "writer", "valkey", "postgres"])
def test_a_part_that_dies_is_started_again(up: Up, part: str) -> None:
    """After kill -9 of any part, calls get through again and are booked."""
    key = up.key()
    before = up.pid(part)
    os.kill(before, signal.SIGKILL)
    until(lambda: up.pid(part) not in (0, before), what=f"{part} is started again")
    until(lambda: up.works(key), what="calls get through again", deadline_s=30)
    event_id = up.call(key).headers["x-tollkeeper-event-id"]
    until(lambda: _is_booked(up, event_id), what="and are booked", deadline_s=20)


def test_a_worker_that_dies_loses_no_call(up: Up) -> None:
    """While one worker of the sidecar is down, the other one serves every call."""
    key = up.key()
    until(lambda: up.works(key), what="calls get through")
    worker = children(up.pid("extproc"))[0]
    os.kill(worker, signal.SIGKILL)
    assert {up.call(key).status_code for _ in range(20)} == {200}


def test_a_provider_that_is_away_is_a_json_error(directory: Path, provider: str) -> None:
    """Envoy's own errors have the shape that SDKs read; --provider adds a route of its own."""
    nobody = f"lonely=http://127.0.0.1:{free_port()}"
    with running_up(directory / "away", provider, "--provider", nobody) as up:
        answer = up.call(up.key(), path="/lonely/v1/chat/completions")
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "provider_unreachable"
        assert "lonely" in answer.json()["error"]["message"]


def test_it_stops_in_seconds_and_keeps_the_data(directory: Path, provider: str) -> None:
    """SIGTERM ends every part, also with a call under way; the next start has the books."""
    data_dir = directory / "kept"
    with running_up(data_dir, provider) as up:
        event_id = up.call(up.key()).headers["x-tollkeeper-event-id"]
        until(lambda: event_id in up.event_ids(), what="the event is booked", deadline_s=5)
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(15) == 0
        assert not _processes_of(data_dir)
    with running_up(data_dir, provider) as up:
        assert event_id in up.event_ids()
        assert up.ledger("audit")["ok"]


def test_kill_9_leaves_nothing_running(directory: Path, provider: str) -> None:
    """The parts end with a killed `ledger up`, and the next one starts on the same data."""
    data_dir = directory / "killed"
    with running_up(data_dir, provider) as up:
        key = up.key()
        up.process.kill()
        up.process.wait()
        until(lambda: not _processes_of(data_dir), what="the parts are gone", deadline_s=40)
    with running_up(data_dir, provider) as up:
        assert up.works(key)


def test_a_long_data_directory_works(directory: Path, provider: str) -> None:
    """Sockets have short paths even where the data directory has not."""
    with running_up(directory / ("deep" * 30), provider) as up:
        assert up.works(up.key())


def _refused(*arguments: str) -> tuple[int, str]:
    """The exit code and the error of a `ledger up` that does not start."""
    command = [*LEDGER, "up", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


def _is_booked(up: Up, event_id: str) -> bool:
    try:
        return event_id in up.event_ids()
    except subprocess.CalledProcessError:
        return False


def _last_request(up: Up) -> dict[str, str]:
    """The headers of the newest request that the provider saw."""
    request = httpx.get(up.provider + "/_fake/requests").json()[-1]
    return dict(request["headers"])


def _processes_of(data_dir: Path) -> list[int]:
    """Live processes whose command line names the data directory."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if str(data_dir) in command_line(pid)]
