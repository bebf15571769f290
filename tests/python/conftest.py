"""The official Python client against the server at ASD_ADDRESS (host:port), namespace `test`.

Every test uses records of its own, so that it does not matter what the server holds or which test ran before.
"""
import itertools
import os

import aerospike
import pytest

NAMESPACE = "test"
SET = "python"
_serial = itertools.count()


@pytest.fixture(scope="session")
def address():
    host, _, port = os.environ["ASD_ADDRESS"].rpartition(":")
    return host, int(port)


@pytest.fixture(scope="session")
def config(address):
    """The least a client needs, with time enough for a busy machine."""
    patience = {"total_timeout": 20_000, "socket_timeout": 20_000}
    return {"hosts": [address], "policies": {kind: dict(patience) for kind in ("read", "write", "operate", "remove", "info")}}


@pytest.fixture(scope="session")
def client(config):
    client = aerospike.client(config).connect()
    yield client
    client.close()


@pytest.fixture
def key(client):
    """The key of a record that does not exist before, and is removed after."""
    key = (NAMESPACE, SET, f"{os.getpid()}-{next(_serial)}")
    yield key
    try:
        client.remove(key)
    except aerospike.exception.RecordNotFound:
        pass
