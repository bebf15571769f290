"""Users and roles by the calls of the official client, on a server with access control."""
import time

import aerospike
import pytest
from aerospike import exception

from conftest import IS_SECURED, NAMESPACE, SET, config_of

pytestmark = pytest.mark.skipif(not IS_SECURED, reason="a server without access control")

READ = {"code": aerospike.PRIV_READ, "ns": NAMESPACE, "set": SET}
WRITE = {"code": aerospike.PRIV_WRITE, "ns": NAMESPACE, "set": ""}
TRUNCATE = {"code": aerospike.PRIV_TRUNCATE, "ns": "", "set": ""}


@pytest.fixture
def user(client):
    client.admin_create_user("bob", "first", ["read"])
    yield "bob"
    try:
        client.admin_drop_user("bob")
    except exception.InvalidUser:
        pass


@pytest.fixture
def role(client):
    client.admin_create_role("office", [READ])
    yield "office"
    try:
        client.admin_drop_role("office")
    except exception.InvalidRole:
        pass


def connected(address, user, password):
    return aerospike.client(config_of(address, user, password)).connect()


def fails(code, call, *arguments):
    with pytest.raises(exception.AerospikeError) as raised:
        call(*arguments)
    assert raised.value.code == code


def test_users_are_created_queried_and_dropped(client, user):
    assert client.admin_query_user_info(user)["roles"] == ["read"]
    everybody = client.admin_query_users_info()
    assert set(everybody) == {"admin", "bob"}
    info = everybody["admin"]
    assert set(info["roles"]) == {"data-admin", "read-write-udf", "sys-admin", "user-admin"}
    assert info["conns_in_use"] > 0 and len(info["read_info"]) == 4
    fails(61, client.admin_create_user, user, "x", [])
    fails(70, client.admin_create_user, "eve", "x", ["no-such-role"])
    client.admin_drop_user(user)
    fails(60, client.admin_query_user_info, user)
    fails(60, client.admin_drop_user, user)


def test_passwords_change(client, address, user):
    bob = connected(address, user, "first")
    bob.admin_change_password(user, "second")
    bob.close()
    fails(65, connected, address, user, "first")
    connected(address, user, "second").close()
    client.admin_set_password(user, "third")
    connected(address, user, "third").close()
    fails(60, client.admin_set_password, "nobody", "x")


def test_roles_are_granted_and_revoked(client, address, user, key):
    client.put(key, {"n": 1})
    bob = connected(address, user, "first")
    assert bob.get(key)[2] == {"n": 1}
    fails(81, bob.put, key, {"n": 2})
    client.admin_grant_roles(user, ["write", "truncate"])
    assert client.admin_query_user_info(user)["roles"] == ["read", "truncate", "write"]
    bob.put(key, {"n": 2})
    client.admin_revoke_roles(user, ["read", "truncate"])
    fails(81, bob.get, key)
    bob.put(key, {"n": 3})
    fails(81, bob.admin_create_user, "eve", "x", [])
    fails(70, client.admin_grant_roles, user, ["no-such-role"])
    fails(60, client.admin_revoke_roles, "nobody", ["read"])
    bob.close()
    assert client.get(key)[2] == {"n": 3}


def test_roles_have_privileges(client, role):
    assert client.admin_get_role(role)["privileges"] == [READ]
    client.admin_grant_privileges(role, [WRITE, TRUNCATE])
    assert client.admin_get_role(role)["privileges"] == [READ, WRITE, TRUNCATE]
    client.admin_revoke_privileges(role, [READ])
    assert client.admin_get_role(role)["privileges"] == [WRITE, TRUNCATE]
    assert client.admin_query_role(role) == [WRITE, TRUNCATE]
    everything = client.admin_get_roles()
    assert set(everything) == {
        "data-admin", "office", "read", "read-write", "read-write-udf", "sindex-admin", "sys-admin", "truncate",
        "udf-admin", "user-admin", "write",
    }
    assert set(client.admin_query_roles()) == set(everything)
    fails(71, client.admin_create_role, role, [READ])
    fails(71, client.admin_create_role, "read", [READ])
    fails(70, client.admin_get_role, "no-such-role")
    fails(70, client.admin_drop_role, "read")


def test_whitelists(client, address, user, role):
    allowed = ["127.0.0.1", "10.1.2.0/24"]
    client.admin_grant_roles(user, [role])
    client.admin_set_whitelist(role, allowed)
    assert client.admin_get_role(role)["whitelist"] == allowed
    connected(address, user, "first").close()
    client.admin_set_whitelist(role, ["10.1.2.3"])
    fails(82, connected, address, user, "first")
    client.admin_set_whitelist(role, None)
    assert client.admin_get_role(role)["whitelist"] == []
    connected(address, user, "first").close()
    fails(73, client.admin_set_whitelist, role, ["bad_IP"])
    fails(70, client.admin_set_whitelist, "no-such-role", ["10.1.2.3"])


def test_quotas(client, address, user, role, key):
    client.put(key, {"n": 1})
    client.admin_set_quotas(role, read_quota=5, write_quota=7)
    found = client.admin_get_role(role)
    assert (found["read_quota"], found["write_quota"]) == (5, 7)
    client.admin_grant_roles(user, [role])
    bob = connected(address, user, "first")
    results = []
    for _ in range(60):
        try:
            bob.get(key)
            results.append(0)
        except exception.AerospikeError as error:
            results.append(error.code)
    assert set(results) == {0, 83}
    info = client.admin_query_user_info(user)
    assert info["read_info"][0] == 5 and info["write_info"][0] == 7
    client.admin_set_quotas(role, read_quota=0, write_quota=0)
    time.sleep(1)
    assert all(bob.get(key)[2] == {"n": 1} for _ in range(60))
    bob.close()
    fails(70, client.admin_set_quotas, "no-such-role", 1, 1)

