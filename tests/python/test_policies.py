"""Policies: whether a record must exist, its generation, its stored key, replacement of all bins."""
import aerospike
import pytest
from aerospike import exception


def exists(policy):
    return {"exists": policy}


def test_create_only(client, key):
    client.put(key, {"a": 1}, policy=exists(aerospike.POLICY_EXISTS_CREATE))
    with pytest.raises(exception.RecordExistsError):
        client.put(key, {"a": 2}, policy=exists(aerospike.POLICY_EXISTS_CREATE))
    assert client.get(key)[2] == {"a": 1}


def test_update_only(client, key):
    with pytest.raises(exception.RecordNotFound):
        client.put(key, {"a": 1}, policy=exists(aerospike.POLICY_EXISTS_UPDATE))
    client.put(key, {"a": 1})
    client.put(key, {"b": 2}, policy=exists(aerospike.POLICY_EXISTS_UPDATE))
    assert client.get(key)[2] == {"a": 1, "b": 2}


def test_replace_only(client, key):
    with pytest.raises(exception.RecordNotFound):
        client.put(key, {"a": 1}, policy=exists(aerospike.POLICY_EXISTS_REPLACE))
    client.put(key, {"a": 1})
    client.put(key, {"b": 2}, policy=exists(aerospike.POLICY_EXISTS_REPLACE))
    _, meta, bins = client.get(key)
    assert (meta["gen"], bins) == (2, {"b": 2})


def test_create_or_replace(client, key):
    policy = exists(aerospike.POLICY_EXISTS_CREATE_OR_REPLACE)
    client.put(key, {"a": 1}, policy=policy)
    client.put(key, {"b": 2}, policy=policy)
    assert client.get(key)[2] == {"b": 2}


def test_generation_must_be_equal(client, key):
    policy = {"gen": aerospike.POLICY_GEN_EQ}
    client.put(key, {"a": 1})
    client.put(key, {"a": 2}, meta={"gen": 1}, policy=policy)
    with pytest.raises(exception.RecordGenerationError):
        client.put(key, {"a": 3}, meta={"gen": 1}, policy=policy)
    assert client.get(key)[2] == {"a": 2}
    with pytest.raises(exception.RecordGenerationError):
        client.remove(key, meta={"gen": 1}, policy=policy)
    client.remove(key, meta={"gen": 2}, policy=policy)
    assert client.exists(key)[1] is None


def test_generation_must_be_greater(client, key):
    policy = {"gen": aerospike.POLICY_GEN_GT}
    client.put(key, {"a": 1})
    with pytest.raises(exception.RecordGenerationError):
        client.put(key, {"a": 2}, meta={"gen": 1}, policy=policy)
    client.put(key, {"a": 2}, meta={"gen": 9}, policy=policy)
    _, meta, bins = client.get(key)
    assert (meta["gen"], bins) == (2, {"a": 2})


def test_a_sent_key_is_stored_and_stays(client, key):
    send = {"key": aerospike.POLICY_KEY_SEND}
    client.put(key, {"a": 1}, policy=send)
    assert client.get(key, policy=send)[2] == {"a": 1}
    client.put(key, {"a": 2})
    assert client.get(key, policy=send)[2] == {"a": 2}


def test_commit_level_master(client, key):
    client.put(key, {"a": 1}, policy={"commit_level": aerospike.POLICY_COMMIT_LEVEL_MASTER})
    assert client.get(key)[2] == {"a": 1}


def test_durable_delete_belongs_to_another_edition(client, key):
    client.put(key, {"a": 1})
    try:
        client.remove(key, policy={"durable_delete": True})
    except exception.AerospikeError as error:
        assert error.code == 25
