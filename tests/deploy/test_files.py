"""deploy/: every command line in it is one that this version takes, and ports are the same wherever they are named.

That the files are well-formed for the tools that read them is checked by those tools' own schemas and linters, as
their first lines say; none of them is needed here.
"""

import configparser
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from swarmtrain.cli.app import app
from swarmtrain.cli.terms import Said, parse_caps, parse_terms
from swarmtrain.core.units import parse_bytes
from swarmtrain.monitor.figures import health_route
from swarmtrain.peer.volunteer import LINGER_SECONDS as PEER_LINGER_SECONDS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FILES = (
    "Dockerfile",
    "compose.yaml",
    "systemd/swarmtrain-peer.service",
    "kubernetes/coordinator.yaml",
    "kubernetes/peers.yaml",
    "skypilot/peers.yaml",
    "prometheus/prometheus.yml",
)
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
LINE = re.compile(rf"\bswarmtrain ({'|'.join(COMMANDS)})\b(.*)")


def read(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def environment() -> dict[str, str]:
    """What the unit's EnvironmentFile says."""
    lines = (line for line in read("systemd/peer.env").splitlines() if not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines if line)


def unit() -> configparser.ConfigParser:
    found = configparser.ConfigParser(strict=False, interpolation=None)
    found.read_string(read("systemd/swarmtrain-peer.service"))
    return found


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all(read(name)))


def below(value: Any) -> Iterator[Any]:
    """Every list and every text in a document."""
    yield value
    children = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        for child in children:
            yield from below(child)


def command_lines(name: str) -> list[list[str]]:
    """Every command of ours in a file, as words: lists of arguments, shell lines, and those in comments."""
    found: list[list[str]] = []
    texts = [line.lstrip("# ") for line in read(name).splitlines() if line.startswith("#")]
    if name.endswith((".yaml", ".yml")):
        for value in (value for document in documents(name) for value in below(document)):
            if isinstance(value, str):
                texts += value.replace("\\\n", " ").splitlines()
            elif isinstance(value, list) and value[1:] and value[0] in tuple(COMMANDS):
                found.append([str(word) for word in value])
    else:
        lines = [line for line in read(name).splitlines() if not line.startswith("#")]
        terms = environment()["SWARMTRAIN_TERMS"]
        texts += [line.replace("$SWARMTRAIN_TERMS", terms) for line in lines]
    return found + [words for text in texts if (words := shell_words(text))]


def shell_words(text: str) -> list[str]:
    """The words of our command in a shell line; what the shell would fill in is 'x'."""
    plain = re.sub(r"\$\$?\((?!POD)[^()]*hostname[^()]*\)", "x", text)
    match = LINE.search(plain)
    if match is None:
        return []
    words = shlex.split(re.sub(r"\$\w+", "x", match[2].split(")")[0]))
    return [match[1], *words]


def parsed(words: list[str]) -> dict[str, Any]:
    """The values of the options; fails as the command line itself would."""
    context = COMMANDS[words[0]].make_context(words[0], list(words[1:]))
    return dict(context.params)


def ports_of(words: list[str]) -> set[int]:
    values = parsed(words)
    named = [
        values[key] for key in ("listen", "announce", "dashboard", "metrics") if values.get(key)
    ]
    ports = {int(port) for value in named if (port := str(value).rpartition(":")[2]).isdecimal()}
    return ports | {port for port in (values.get("directory_port"),) if port}


@pytest.mark.parametrize("name", FILES)
def test_every_command_is_one_that_this_version_takes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = command_lines(name)
    assert lines or name == "Dockerfile"
    # As the unit's EnvironmentFile would.
    monkeypatch.setenv("SWARMTRAIN_JOIN", "127.0.0.1:8765")
    for words in lines:
        values = parsed(words)
        for path in values.get("files") or ():
            assert (ROOT / path).is_file() or path.name == "RUN.toml", path


def test_a_flag_that_is_gone_is_noticed() -> None:
    with pytest.raises(Exception, match="no-such-flag"):
        parsed(shell_words('exec swarmtrain peer --join "$$(hostname):1" --no-such-flag'))


def exposed() -> set[int]:
    match = re.search(r"^EXPOSE (.*)$", read("Dockerfile"), re.MULTILINE)
    assert match is not None
    return {int(port) for port in match[1].split()}


def main_command(name: str, command: str) -> list[str]:
    """The longest line with that command: those in comments are shorter."""
    return max((words for words in command_lines(name) if words[0] == command), key=len)


def test_the_image_exposes_what_its_commands_listen_on() -> None:
    for name in ("compose.yaml", "kubernetes/coordinator.yaml", "kubernetes/peers.yaml"):
        for words in command_lines(name):
            assert ports_of(words) <= exposed(), (name, words)


def test_prometheus_asks_where_containers_answer() -> None:
    config = documents("prometheus/compose.yml")[0]
    coordinator, peers = config["scrape_configs"]
    services = documents("compose.yaml")[0]["services"]
    dashboard = parsed(main_command("compose.yaml", "coordinator"))["dashboard"]
    assert coordinator["static_configs"][0]["targets"] == [
        f"coordinator:{dashboard.rpartition(':')[2]}"
    ]
    (found,) = peers["dns_sd_configs"]
    assert set(found["names"]) <= set(services)
    metrics = {parsed(w)["metrics"] for w in command_lines("compose.yaml") if w[0] == "peer"}
    assert metrics == {f"0.0.0.0:{found['port']}"}


def test_files_that_compose_mounts_are_there() -> None:
    services = documents("compose.yaml")[0]["services"].values()
    for mount in (mount for service in services for mount in service.get("volumes", ())):
        if mount.startswith("."):
            assert (DEPLOY / mount.split(":")[0]).exists(), mount


@pytest.mark.parametrize("name", ["coordinator", "peers"])
def test_kubernetes_names_the_ports_that_are_listened_on(name: str) -> None:
    path = f"kubernetes/{name}.yaml"
    deployment = next(one for one in documents(path) if one["kind"] == "Deployment")
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    listened = ports_of([word.replace("$(POD_IP)", "x") for word in container["args"]])
    assert {port["containerPort"] for port in container["ports"]} == listened
    assert int(pod["metadata"]["annotations"]["prometheus.io/port"]) in listened
    for service in (one for one in documents(path) if one["kind"] == "Service"):
        assert {port["port"] for port in service["spec"]["ports"]} == listened
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    for budget in (one for one in documents(path) if one["kind"] == "PodDisruptionBudget"):
        labels = budget["spec"]["selector"]["matchLabels"]
        assert labels.items() <= pod["metadata"]["labels"].items()


def test_peers_join_the_service_of_the_coordinator() -> None:
    service = next(
        one for one in documents("kubernetes/coordinator.yaml") if one["kind"] == "Service"
    )
    (address,) = parsed(main_command("kubernetes/peers.yaml", "peer"))["join"]
    host, _, port = address.rpartition(":")
    assert host == service["metadata"]["name"]
    assert int(port) in {entry["port"] for entry in service["spec"]["ports"]}
    announced = parsed(main_command("kubernetes/coordinator.yaml", "coordinator"))["announce"]
    assert announced == f"{host}:{port}"


def test_the_probe_asks_for_a_page_that_the_dashboard_has() -> None:
    (probe,) = re.findall(r"path: (/\w+)", read("kubernetes/coordinator.yaml"))
    assert probe == health_route().path


def test_skypilot_opens_the_port_that_peers_listen_on() -> None:
    task = documents("skypilot/peers.yaml")[0]
    listened = {ports for w in command_lines("skypilot/peers.yaml") if w[0] == "peer"
                for ports in ports_of(w)}  # fmt: skip
    assert set(task["resources"]["ports"]) == listened
    assert COMMANDS["peer"].params[0].envvar in task["envs"]


def test_the_unit_reads_the_file_that_its_comment_installs() -> None:
    comment, service = read("systemd/swarmtrain-peer.service").split("[Unit]")[0], unit()["Service"]
    assert f"deploy/systemd/peer.env {service['EnvironmentFile']}" in comment
    assert service["SuccessExitStatus"] == "130"
    # One word each, unlike ${...}: the terms are several options.
    assert service["ExecStart"].split()[-1] == "$SWARMTRAIN_TERMS"
    assert set(environment()) == {COMMANDS["peer"].params[0].envvar, "SWARMTRAIN_TERMS"}


def test_the_unit_takes_no_more_than_the_terms_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMTRAIN_JOIN", environment()["SWARMTRAIN_JOIN"])
    values = parsed(main_command("systemd/swarmtrain-peer.service", "peer"))
    said = Said(
        (values["upload_limit"], values["download_limit"]),
        values["daily_transfer"], values["disk"],
        (values["only_when_idle"], values["idle_after"]),
        values["hours"], values["not_on_battery"], values["nice"], None,
    )  # fmt: skip
    terms, caps = parse_terms(said), parse_caps(said)
    assert caps.upload is not None and caps.download is not None and terms.not_on_battery
    day_bytes, disk_bytes = terms.daily_transfer_bytes, terms.disk_bytes
    assert day_bytes is not None and disk_bytes is not None
    # At its upload cap alone a day would be spent sooner: the daily cap is the one that binds.
    assert day_bytes < 86_400 * caps.upload.bytes_per_second
    memory_bytes = parse_bytes(values["max_memory"])
    assert memory_bytes < int(unit()["Service"]["MemoryMax"].removesuffix("G")) << 30
    assert int(unit()["Service"]["TimeoutStopSec"].removesuffix("s")) > PEER_LINGER_SECONDS


def test_graceful_ends_are_longer_than_a_coordinator_waits() -> None:
    from swarmtrain.cli.host import LINGER_SECONDS

    (deployment,) = (
        one for one in documents("kubernetes/coordinator.yaml") if one["kind"] == "Deployment"
    )
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > LINGER_SECONDS
