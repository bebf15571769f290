"""Connecting, in every way that a client without security does, and with credentials nobody asked for."""
import aerospike
import pytest
from aerospike import exception

from conftest import IS_SECURED

open_only = pytest.mark.skipif(IS_SECURED, reason="a server with access control")


def test_connects_and_closes(config):
    client = aerospike.client(config).connect()
    assert client.is_connected()
    client.close()
    assert not client.is_connected()


def test_the_only_node_is_where_it_was_reached(client, address):
    assert [(node[0], node[1]) for node in client.get_nodes()] == [address]
    (node,) = client.get_node_names()
    assert int(node["node_name"], 16) > 0 and len(node["node_name"]) <= 16


@open_only
def test_credentials_are_taken_by_a_server_without_security(config, key):
    client = aerospike.client(config | {"user": "someone", "password": "secret"}).connect("someone", "secret")
    client.put(key, {"a": 1})
    assert client.get(key)[2] == {"a": 1}
    client.close()


@open_only
def test_user_administration_is_refused(client):
    with pytest.raises((exception.SecurityNotEnabled, exception.SecurityNotSupported)):
        client.admin_query_users_info()


def test_many_clients_at_once(config, key):
    clients = [aerospike.client(config).connect() for _ in range(10)]
    for number, client in enumerate(clients):
        client.put(key, {f"bin{number}": number})
    expected = {f"bin{number}": number for number in range(10)}
    assert all(client.get(key)[2] == expected for client in clients)
    for client in clients:
        client.close()


def test_an_unknown_namespace_is_named_as_such(client):
    # The client knows the partition map and finds no such namespace in it.
    with pytest.raises((exception.NamespaceNotFound, exception.InvalidNodeError, exception.ClientError)):
        client.get(("nowhere", "python", "k"))
