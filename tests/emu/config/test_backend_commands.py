"""Commands of other back-end programs, and their placeholders."""

from __future__ import annotations

import shlex

import pytest

from emu.config.backend_commands import (
    PLACEHOLDERS,
    READY_MADE,
    BackEndCommand,
    DeviceFiles,
    names,
)
from emu.errors import OptionError

DISKS = [DeviceFiles(n, 4, f"/run/{n}.sock", f"/images/{n}.img") for n in range(2)]
NICS = [DeviceFiles(n, 6, f"/run/{n}.sock") for n in range(2)]


def words(device_class: str, text: str, devices: list[DeviceFiles]) -> list[str]:
    """The words that are run at side A."""
    command = BackEndCommand.parse(device_class, text)
    return command.argv(devices, side="A", pid_file="/run/pid")


def test_a_program_for_each_device() -> None:
    """Every placeholder has the device's value, also several in one word."""
    text = "serve -s {socket} --disk=file={image},queues={queues} {side}{index} -p {pid_file}"
    assert words("blk", text, DISKS[1:]) == shlex.split(
        "serve -s /run/1.sock --disk=file=/images/1.img,queues=4 A1 -p /run/pid"
    )


def test_a_program_for_all_devices_has_the_words_of_each() -> None:
    """Words about one device are repeated, in the devices' order; the others are not."""
    text = "serve --disk={index},{sockets} --image={image} --queues={queues} {side}"
    assert words("blk", text, DISKS) == shlex.split(
        "serve --disk=0,/run/0.sock --disk=1,/run/1.sock --image=/images/0.img "
        "--image=/images/1.img --queues=4 A"
    )


def test_the_queues_of_a_nic_are_pairs() -> None:
    """As QEMU and DPDK count them."""
    assert words("net", "serve {socket} {queues}", NICS[:1]) == ["serve", "/run/0.sock", "3"]


def test_quotes_and_braces_of_json() -> None:
    """Only a name in braces is a placeholder."""
    text = """serve '{"driver": "file"}' "a b" {socket} {image}"""
    assert words("blk", text, DISKS[:1]) == [
        "serve",
        '{"driver": "file"}',
        "a b",
        "/run/0.sock",
        "/images/0.img",
    ]


@pytest.mark.parametrize(
    ("device_class", "text", "expected"),
    [
        ("blk", "", "needs a command, or one of qemu-storage-daemon"),
        ("blk", "serve 'x", "is not a command"),
        ("blk", "serve \0 {socket}", "has a null byte"),
        ("blk", "serve {image}", "has to say where its socket is"),
        ("blk", "serve {socket}", "has to name {image}"),
        ("blk", "serve {socket} {sockets} {image}", "either {socket} or {sockets}"),
        ("blk", "serve {socket} {queue}", "{queue} is not a placeholder: use {socket}, "),
        ("net", "serve {socket} {image}", "NICs have no {image}"),
        ("net", "qemu-storage-daemon", "it serves disks, see --blk-backend"),
        ("blk", "qsd", "no back-end has this name (there is qemu-storage-daemon)"),
        ("blk", "testpmd", "it serves NICs, see --net-backend"),
    ],
)
def test_what_is_refused(device_class: str, text: str, expected: str) -> None:
    """By the name of the option."""
    with pytest.raises(OptionError) as refused:
        BackEndCommand.parse(device_class, text)
    assert expected in str(refused.value)
    assert str(refused.value).startswith(f"--{device_class}-backend")


@pytest.mark.parametrize("name", READY_MADE)
def test_a_ready_made_command_is_one_by_name(name: str) -> None:
    """It stands for its command, and serves all devices of its class."""
    ready = READY_MADE[name]
    command = BackEndCommand.parse(ready.device_class, name)
    assert command.name == name
    assert command.shared
    assert command == BackEndCommand(command.device_class, name, tuple(shlex.split(ready.command)))
    assert name in names(ready.device_class)


def test_the_title_of_a_ready_made_command_is_its_name() -> None:
    """Not that of another command of the same program."""
    ready = BackEndCommand.parse("blk", "qemu-storage-daemon")
    assert ready.title == "qemu-storage-daemon"
    other = BackEndCommand.parse("blk", f"{ready.text} --monitor")
    assert (other.name, other.title) == (ready.name, other.text)


def test_the_text_of_a_command_can_be_given_again() -> None:
    """The report has it."""
    text = "serve 'a b' --socket={socket} {image}"
    assert BackEndCommand.parse("blk", text).text == text
    again = BackEndCommand.parse("blk", BackEndCommand.parse("blk", text).text)
    assert again.words == ("serve", "a b", "--socket={socket}", "{image}")
    text = "serve '--name=a b,{index}' {socket} {image}"
    assert BackEndCommand.parse("blk", text).text == text


def test_the_placeholders_are_those_that_are_replaced() -> None:
    """None is left in what is run."""
    for name in PLACEHOLDERS:
        socket = "" if name in {"socket", "sockets"} else "{socket}"
        text = f"serve {{{name}}} {{image}} {socket}"
        assert "{" not in " ".join(words("blk", text, DISKS[:1]))


def test_the_document_has_the_commands_and_placeholders(pytestconfig: pytest.Config) -> None:
    """As they are run."""
    text = (pytestconfig.rootpath / "docs/how-to/own-back-ends.md").read_text()
    for name, ready in READY_MADE.items():
        assert f"| `--{ready.device_class}-backend {name}` | `{ready.command}` |" in text
    for name in PLACEHOLDERS:
        assert f"| `{{{name}}}` |" in text
