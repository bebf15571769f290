//! Arguments of user-defined functions. A whole server converts them to Lua, changes them there and returns
//! them.
//!
//! Input: the function (one byte), packed arguments.

use std::cell::RefCell;

use crate::server::{Client, udf_put};

/// Each function of the module does something different with two values and an integer.
const MODULE: &str = "
function f0(r, ...) return ... end
function f1(r, a, b) return tostring(a) .. tostring(b) end
function f2(r, a, b, n) local l = list{a, b} list.insert(l, n, a) l[n] = b list.append(l, l) return l end
function f3(r, a, b, n) local m = map{x = a, y = b} m[a] = b m[b] = n m[n] = m return m end
function f4(r, a, b, n) list.concat(a, b) list.trim(a, n) return list.take(a, n) end
function f5(r, a, b, n) bytes.append_bytes(a, b, n) bytes.set_int64(a, n, n) return bytes.get_bytes(a, n, n) end
function f6(r, a, b) return map.merge(a, b, function(x, y) return y end) end
function f7(r, a, b) return a:find(b), a:gsub(b, a), string.format(a, b) end
function f8(r, a, b) r.a, r.b = a, b aerospike:create(r) aerospike:update(r) return r.a end
function f9(r, a, b) for k, v in map.pairs(a) do b[k] = v end return list.nbytes(list{a, b}) end
";
const FUNCTIONS: u8 = 10;

thread_local! {
    static CLIENT: RefCell<Option<Client>> = const { RefCell::new(None) };
}

/// Runs one input as described at the top of this file.
pub fn run(input: &[u8]) {
    let Some((&function, arguments)) = input.split_first() else { return };
    CLIENT.with_borrow_mut(|client| {
        let client = client.get_or_insert_with(|| {
            let mut client = Client::default();
            client.prepare(&udf_put("fuzz.lua", MODULE));
            client
        });
        client.message(&call(function % FUNCTIONS, arguments));
    });
}

/// A request that calls the function and allows it 200 ms.
fn call(function: u8, arguments: &[u8]) -> Vec<u8> {
    let mut body = vec![22, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    body.extend(200u32.to_be_bytes());
    body.extend([0, 5, 0, 0]);
    let name = format!("f{function}");
    let fields: [(u8, &[u8]); 5] =
        [(0, b"test"), (4, &[7; 20]), (30, b"fuzz"), (31, name.as_bytes()), (32, arguments)];
    for (number, value) in fields {
        body.extend((value.len() as u32 + 1).to_be_bytes());
        body.push(number);
        body.extend(value);
    }
    body
}
