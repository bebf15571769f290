"""Records as a whole: put, get, exists, select, remove, touch, time to live."""
import time

import aerospike
import pytest
from aerospike import exception

NEVER = 0xFFFFFFFF


def test_get_returns_what_was_put(client, key):
    client.put(key, {"a": 1, "b": "text"})
    (namespace, set_name, _, digest), meta, bins = client.get(key)
    assert (namespace, set_name, len(digest)) == ("test", "python", 20)
    assert meta["gen"] == 1
    assert bins == {"a": 1, "b": "text"}


def test_put_merges_bins_and_counts_generations(client, key):
    client.put(key, {"a": 1})
    client.put(key, {"b": 2})
    client.put(key, {"a": 3})
    _, meta, bins = client.get(key)
    assert (meta["gen"], bins) == (3, {"a": 3, "b": 2})


def test_a_missing_record_is_not_found(client, key):
    with pytest.raises(exception.RecordNotFound):
        client.get(key)
    with pytest.raises(exception.RecordNotFound):
        client.remove(key)
    with pytest.raises(exception.RecordNotFound):
        client.touch(key)
    with pytest.raises(exception.RecordNotFound):
        client.select(key, ["a"])
    assert client.exists(key)[1] is None


def test_exists_tells_of_the_record_but_not_its_bins(client, key):
    client.put(key, {"a": 1})
    _, meta = client.exists(key)
    assert meta["gen"] == 1


def test_remove_removes(client, key):
    client.put(key, {"a": 1})
    client.remove(key)
    assert client.exists(key)[1] is None
    client.put(key, {"b": 1})
    _, meta, bins = client.get(key)
    assert (meta["gen"], bins) == (1, {"b": 1})


def test_select_returns_the_bins_asked_for(client, key):
    client.put(key, {"a": 1, "b": 2, "c": 3})
    assert client.select(key, ["a", "c", "missing"])[2] == {"a": 1, "c": 3}


def test_remove_bin_removes_bins_and_with_the_last_the_record(client, key):
    client.put(key, {"a": 1, "b": 2, "c": 3})
    client.remove_bin(key, ["a", "c"])
    assert client.get(key)[2] == {"b": 2}
    client.remove_bin(key, ["b"])
    assert client.exists(key)[1] is None


def test_the_same_key_in_another_set_is_another_record(client, key):
    other = (key[0], "python2", key[2])
    client.put(key, {"a": 1})
    client.put(other, {"a": 2})
    assert client.get(key)[2] == {"a": 1}
    assert client.get(other)[2] == {"a": 2}
    client.remove(other)


@pytest.mark.parametrize("user_key", [7, -1, "text", "ключ", b"bytes", bytearray(b"\x00\xff")])
def test_every_type_of_key(client, user_key):
    key = ("test", "python-keys", user_key)
    client.put(key, {"a": 1})
    assert client.get(key)[2] == {"a": 1}
    client.remove(key)


def test_a_record_is_found_by_its_digest(client, key):
    client.put(key, {"a": 1})
    digest = aerospike.calc_digest(*key)
    assert client.get((key[0], key[1], None, digest))[2] == {"a": 1}


def test_time_to_live_is_kept_and_renewed(client, key):
    client.put(key, {"a": 1}, meta={"ttl": 1000})
    assert 990 <= client.get(key)[1]["ttl"] <= 1000
    client.touch(key, 2000)
    _, meta, bins = client.get(key)
    assert 1990 <= meta["ttl"] <= 2000 and meta["gen"] == 2 and bins == {"a": 1}


def test_time_to_live_left_alone_and_taken_away(client, key):
    client.put(key, {"a": 1}, meta={"ttl": 1000})
    client.put(key, {"a": 2}, meta={"ttl": aerospike.TTL_DONT_UPDATE})
    assert 980 <= client.get(key)[1]["ttl"] <= 1000
    client.put(key, {"a": 3}, meta={"ttl": aerospike.TTL_NEVER_EXPIRE})
    assert client.get(key)[1]["ttl"] == NEVER


def test_an_expired_record_is_gone(client, key):
    client.put(key, {"a": 1}, meta={"ttl": 1})
    deadline = time.monotonic() + 20
    while client.exists(key)[1] is not None:
        assert time.monotonic() < deadline, "never expired"
        time.sleep(0.1)
    with pytest.raises(exception.RecordNotFound):
        client.get(key)


def test_a_time_to_live_beyond_ten_years_is_refused(client, key):
    with pytest.raises(exception.InvalidRequest):
        client.put(key, {"a": 1}, meta={"ttl": 315_360_001})
    assert client.exists(key)[1] is None
