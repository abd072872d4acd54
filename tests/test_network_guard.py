"""The guard of conftest.py, without which a test could pass only where there is a network."""

import os
import socket
from typing import Any

import pytest


def test_connections_elsewhere_are_refused_and_remembered(no_network: list[Any]) -> None:
    with socket.socket() as connection:
        connection.settimeout(0.1)
        with pytest.raises(OSError, match="do not use the network"):
            connection.connect(("192.0.2.1", 80))
        with pytest.raises(OSError, match="do not use the network"):
            connection.connect_ex(("example.org", 443))
    assert no_network == [("192.0.2.1", 80), ("example.org", 443)]
    no_network.clear()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_can_be_reached(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection((host, server.getsockname()[1]), timeout=5) as client:
            assert client.getpeername()[1] == server.getsockname()[1]


def test_no_account_reaches_a_test() -> None:
    assert "HF_TOKEN" not in os.environ and "WANDB_API_KEY" not in os.environ
    assert "songgen-tests-" in os.environ["HF_HOME"]
