"""Info requests as the client sends them."""
import re

import pytest
from aerospike import exception

from conftest import IS_SECURED


def value(client, name):
    answer = client.info_random_node(name)
    found, _, text = answer.rstrip("\n").partition("\t")
    assert found == name
    return text


def pairs(text, separator=";"):
    return dict(part.split("=", 1) for part in text.split(separator) if "=" in part)


def test_who_answers(client):
    assert re.fullmatch(r"\d+(\.\d+){3}.*", value(client, "build"))
    assert re.fullmatch(r"[0-9A-F]{2,16}", value(client, "node"))
    assert "Edition" in value(client, "edition")
    assert value(client, "status") == "ok"


def test_namespaces(client):
    assert "test" in value(client, "namespaces").split(";")


def test_features_that_clients_look_for(client):
    features = set(value(client, "features").split(";"))
    assert {"batch-any", "float", "peers", "pipelining", "pscans", "replicas", "truncate-namespace"} <= features


def test_the_node_holds_every_partition(client):
    replicas = value(client, "replicas")
    names = [entry.split(":", 1)[0] for entry in replicas.split(";")]
    assert "test" in names
    assert int(value(client, "partition-generation")) >= 0


def test_one_node_has_no_peers(client):
    assert re.fullmatch(r"\d+,\d*,\[\]", value(client, "peers-clear-std"))


def test_where_it_is_reached(client, address):
    kind = "tls" if IS_SECURED else "clear"
    assert value(client, f"service-{kind}-std") == "{}:{}".format(*address)


def test_statistics_are_numbers_and_words_by_name(client):
    statistics = pairs(value(client, "statistics"))
    assert statistics["cluster_size"] == "1"
    assert int(statistics["client_connections"]) > 0


def test_records_are_counted_in_the_namespace_and_its_sets(client, key):
    client.put(key, {"a": 1})
    assert int(pairs(value(client, "namespace/test"))["objects"]) > 0
    sets = [pairs(row, ":") for row in value(client, "sets/test").split(";")]
    (row,) = [row for row in sets if row.get("set") == key[1]]
    assert int(row["objects"]) > 0


def test_configuration_is_shown(client):
    service = pairs(value(client, "get-config:context=service"))
    assert int(service["proto-fd-max"]) > 0
    namespace = pairs(value(client, "get-config:context=namespace;id=test"))
    assert namespace["nsup-period"].isdigit()


def test_an_unknown_command_is_an_error(client):
    with pytest.raises(exception.InvalidRequest, match="unrecognized command"):
        client.info_random_node("no-such-command")


def test_all_nodes_at_once(client):
    answers = client.info_all("status")
    assert [error for error, _ in answers.values()] == [None]
    assert [answer for _, answer in answers.values()] == ["ok\n"]
