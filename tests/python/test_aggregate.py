"""Aggregations: the server runs its part of a stream function, the client reduces what comes of it."""
import os
import time

import aerospike
import pytest
from aerospike import predicates
from conftest import NAMESPACE, config_of

SET = "aggregate"
RECORDS = 100
MODULE = """
local function one(r) return 1 end
local function add(a, b) return a + b end
function count(s) return s : map(one) : reduce(add) end
function count_above(s, low) return s : filter(function(r) return r.n > low end) : map(one) : reduce(add) end
function groups(s)
    local function collect(m, r)
        local k = r.n % 3
        m[k] = (m[k] or 0) + 1
        return m
    end
    return s : aggregate(map(), collect) : reduce(function(a, b) return map.merge(a, b, add) end)
end
function fail(s) return s : map(function(r) error('as it should') end) end
"""


@pytest.fixture(scope="module")
def asked(address, tmp_path_factory):
    """A client that finds the module for its own part, records with n = 0, 1, …, and an index of them."""
    folder = tmp_path_factory.mktemp("lua")
    path = os.path.join(folder, "py_aggregate.lua")
    with open(path, "w", encoding="utf-8") as file:
        file.write(MODULE)
    config = config_of(address) | {"lua": {"user_path": str(folder)}}
    client = aerospike.client(config).connect()
    client.udf_put(path)
    for n in range(RECORDS):
        client.put((NAMESPACE, SET, n), {"n": n})
    client.index_single_value_create(NAMESPACE, SET, "n", aerospike.INDEX_NUMERIC, "py-aggregate")
    time.sleep(0.5)
    yield client
    client.index_remove(NAMESPACE, "py-aggregate")
    client.udf_remove("py_aggregate.lua")
    for n in range(RECORDS):
        client.remove((NAMESPACE, SET, n))
    client.close()


def apply(client, function, arguments=(), where=None):
    query = client.query(NAMESPACE, SET)
    if where:
        query.where(where)
    query.apply("py_aggregate", function, list(arguments))
    return query.results()


def test_all_records_of_a_set(asked):
    assert apply(asked, "count") == [RECORDS]


def test_a_range(asked):
    assert apply(asked, "count", where=predicates.between("n", 10, 19)) == [10]


def test_arguments(asked):
    assert apply(asked, "count_above", [89], predicates.between("n", 0, RECORDS)) == [10]


def test_maps_are_merged(asked):
    assert apply(asked, "groups") == [{0: 34, 1: 33, 2: 33}]


def test_an_error_of_the_function(asked):
    with pytest.raises(aerospike.exception.AerospikeError):
        apply(asked, "fail")


def test_a_module_that_is_not_there(asked):
    query = asked.query(NAMESPACE, SET)
    query.apply("py_nobody", "count", [])
    with pytest.raises(aerospike.exception.AerospikeError):
        query.results()
