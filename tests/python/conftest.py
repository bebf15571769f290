"""The official Python client against the server at ASD_ADDRESS (host:port), namespace `test`.

With ASD_USER the server has access control: the tests run as that user, over TLS, with compressed messages.

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


PATIENCE = {"total_timeout": 20_000, "socket_timeout": 20_000}
IS_SECURED = "ASD_USER" in os.environ


def config_of(address, user=None, password=None):
    """The least a client needs, with time enough for a busy machine."""
    kinds = ("read", "write", "operate", "remove", "info", "batch", "query", "scan", "apply")
    if not IS_SECURED:
        return {"hosts": [address], "policies": {kind: dict(PATIENCE) for kind in kinds[:5]}}
    compressed = {**PATIENCE, "compress": True, "compression_threshold": 1}
    policies = {kind: dict(PATIENCE if kind == "info" else compressed) for kind in kinds}
    # Passwords are hashed slowly on purpose.
    policies["admin"] = {"timeout": 20_000}
    return {
        "hosts": [(*address, os.environ["ASD_TLS_NAME"])],
        "tls": {"enable": True, "cafile": os.environ["ASD_TLS_CA"]},
        "user": user or os.environ["ASD_USER"],
        "password": password or os.environ["ASD_PASSWORD"],
        "policies": policies,
    }


@pytest.fixture(scope="session")
def config(address):
    return config_of(address)


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
