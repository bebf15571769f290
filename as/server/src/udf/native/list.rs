//! Lists: their elements, and the functions of programs on them.
//!
//! # Storage
//! The userdata of a list has a [`Head`] and room for some elements behind it. More elements are in a block, a userdata without
//! a metatable that is the list's first user value. Numbers and booleans are there as they are. What Lua's collector must see,
//! texts and proxies, is in a table, the second user value, and its element has the slot there; free slots are a chain
//! in the table. The elements begin anywhere in the room, so that a list grows at both ends without moving them, and an
//! insertion moves only the shorter side.
//!
//! # Time
//! What takes time for many elements looks at the clock before, and each time after so many elements.

use std::ffi::c_int;
use std::ptr;

use mlua::ffi;

use super::super::raw::RegistryKey;
use super::super::value::class;
use super::frame::{
    ITERATOR_KEY, NoInteger, Tag, Tagged, integer_argument, is_of_class, is_proxy_with_value, is_whole_text,
    leave, look, look_sometimes, steps_of, tagged_at,
};

/// Maximum number of elements of a list, far more than a record can hold; `list.lua` has the same number.
const COUNT_MAX: u32 = 1 << 23;
/// Elements that have room in the userdata of a new list.
const INNER_CAPACITY: u32 = 6;
/// How many elements a list grows by, in the C server; one that grows by none has a limit.
const STEP: u32 = 10;
/// Indexes count in 32 bits.
const INDEX_MASK: i64 = 0xffff_ffff;
/// Elements that are moved, copied or released between two looks at the clock.
const WATCHED_ELEMENTS: u32 = 4_096;
/// Index of the block among the user values of a list.
const BLOCK: c_int = 1;
/// Index of the table with texts and proxies.
const SLOTS: c_int = 2;

/// Key of the metatable of lists.
pub(super) static LIST_KEY: RegistryKey = RegistryKey::new(5);

/// An element of a list.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Element {
    Nil,
    Boolean(bool),
    Integer(i64),
    Number(f64),
    /// A text or a proxy, which is in this slot.
    Slot(u32),
}

/// The beginning of a list's userdata.
#[repr(C)]
pub(in super::super) struct Head {
    tag: Tag,
    /// The room of the elements.
    room: *mut Element,
    capacity: u32,
    /// Elements of the room in front of the first one.
    start: u32,
    count: u32,
    /// How many elements it grows by, in the C server.
    step: u32,
    /// Maximum number of elements if `step` is 0.
    limit: u32,
    /// The first free slot; 0 if there is none.
    free_slot: u32,
    /// Number of slots.
    slots: u32,
    /// The flags from the description in the bin or argument that the list comes from; -1 without one.
    flags: i32,
}

const _: () = assert!(size_of::<Head>().is_multiple_of(align_of::<Element>()));

impl Head {
    pub(in super::super) fn count(&self) -> u32 {
        self.count
    }

    pub(in super::super) fn flags(&self) -> u8 {
        u8::try_from(self.flags).unwrap_or(0)
    }

    /// The element at this index, counted from 0.
    pub(in super::super) fn get(&self, index: u32) -> Option<Element> {
        // SAFETY: the room has all elements from `start` on.
        (index < self.count).then(|| unsafe { self.room.add((self.start + index) as usize).read() })
    }

    /// The place of the element at this index.
    fn place(&self, index: u32) -> *mut Element {
        debug_assert!(self.start + index < self.capacity);
        // SAFETY: the room has `capacity` elements.
        unsafe { self.room.add((self.start + index) as usize) }
    }

    /// Whether the list may have `count` elements; `None` if that is too many for any list.
    fn may_have(&self, count: u64) -> Option<bool> {
        (count <= u64::from(COUNT_MAX)).then_some(self.step != 0 || count <= u64::from(self.limit))
    }
}

// SAFETY: `push_list` alone makes such userdata.
unsafe impl Tagged for Head {
    const TAG: Tag = Tag::List;
}

/// The head of the list at `index`; `None` for other values.
///
/// # Safety
/// The list stays on the stack as long as the result is used.
pub(in super::super) unsafe fn list_at(state: *mut ffi::lua_State, index: c_int) -> Option<*mut Head> {
    // SAFETY: as the caller says.
    unsafe { tagged_at(state, index) }
}

/// Pushes a new list with room for `capacity` elements.
///
/// # Safety
/// There is room for two more values.
pub(in super::super) unsafe fn push_list(
    state: *mut ffi::lua_State,
    capacity: u32,
    flags: Option<u8>,
) -> *mut Head {
    let capacity = capacity.max(INNER_CAPACITY);
    let size = size_of::<Head>() + capacity as usize * size_of::<Element>();
    // SAFETY: as the caller says. Lua gives the bytes that are asked for, aligned for any value.
    unsafe {
        let head = ffi::lua_newuserdatauv(state, size, SLOTS).cast::<Head>();
        head.write(Head {
            tag: Head::TAG,
            room: head.add(1).cast::<Element>(),
            capacity,
            start: 0,
            count: 0,
            step: STEP,
            limit: 0,
            free_slot: 0,
            slots: 0,
            flags: flags.map_or(-1, i32::from),
        });
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, LIST_KEY.address());
        ffi::lua_setmetatable(state, -2);
        head
    }
}

/// Makes room for `added` elements at an end of the list at `index`.
///
/// # Safety
/// `head` is that of the list, and `index` a positive number. There is room for a value. The count stays below [`COUNT_MAX`].
unsafe fn make_room(state: *mut ffi::lua_State, index: c_int, head: *mut Head, added: u32, in_front: bool) {
    // SAFETY: as the caller says. When there is no memory, the list stays as it was.
    unsafe {
        let Head { room, capacity, start, count, .. } = head.read();
        let has_room = if in_front { start >= added } else { capacity - start - count >= added };
        if has_room {
            return;
        }
        let needed = count + added;
        let (new_room, new_capacity) = if needed <= capacity / 2 {
            (room, capacity)
        } else {
            let new_capacity = needed + needed / 2 + INNER_CAPACITY;
            let size = new_capacity as usize * size_of::<Element>();
            (ffi::lua_newuserdatauv(state, size, 0).cast::<Element>(), new_capacity)
        };
        let free = new_capacity - needed;
        // A list that has grown at its beginning, or that moves along its room, may grow at both ends.
        let before = if in_front || new_room == room { free / 2 } else { 0 };
        let new_start = before + if in_front { added } else { 0 };
        ptr::copy(room.add(start as usize), new_room.add(new_start as usize), count as usize);
        if new_room != room {
            ffi::lua_setiuservalue(state, index, BLOCK);
        }
        (*head).room = new_room;
        (*head).capacity = new_capacity;
        (*head).start = new_start;
    }
}

/// What a value is as an element.
#[derive(Clone, Copy)]
enum Given {
    Plain(Element),
    /// A text or a proxy, which needs a slot.
    Kept,
    /// It cannot be in a list.
    Unfit,
}

/// What the value at `index` is as an element. A text is replaced by its part before a zero byte.
///
/// # Safety
/// `index` is a positive number. There is room for two more values.
unsafe fn given(state: *mut ffi::lua_State, index: c_int) -> Given {
    // SAFETY: as the caller says.
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TNUMBER if ffi::lua_isinteger(state, index) != 0 => {
                Given::Plain(Element::Integer(ffi::lua_tointegerx(state, index, ptr::null_mut())))
            }
            ffi::LUA_TNUMBER => {
                Given::Plain(Element::Number(ffi::lua_tonumberx(state, index, ptr::null_mut())))
            }
            ffi::LUA_TBOOLEAN => Given::Plain(Element::Boolean(ffi::lua_toboolean(state, index) != 0)),
            // The second one stands for nil.
            ffi::LUA_TNIL | ffi::LUA_TLIGHTUSERDATA => Given::Plain(Element::Nil),
            ffi::LUA_TSTRING => {
                if !is_whole_text(state, index) {
                    // C's functions for strings find its end.
                    ffi::lua_pushstring(state, ffi::lua_tolstring(state, index, ptr::null_mut()));
                    ffi::lua_replace(state, index);
                }
                Given::Kept
            }
            ffi::LUA_TUSERDATA if is_proxy_with_value(state, index) => Given::Kept,
            _ => Given::Unfit,
        }
    }
}

/// As [`given`], but a record does not fit, and a missing argument neither.
///
/// # Safety
/// As for [`given`].
unsafe fn given_argument(state: *mut ffi::lua_State, index: c_int) -> Given {
    // SAFETY: as the caller says.
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TNONE => Given::Unfit,
            ffi::LUA_TUSERDATA if is_of_class(state, index, class::RECORD) => Given::Unfit,
            _ => given(state, index),
        }
    }
}

/// Puts the value at `value` into a slot of the list at `index`.
///
/// # Safety
/// `head` is that of the list. Both indexes are positive numbers. There is room for three more values.
unsafe fn keep(state: *mut ffi::lua_State, index: c_int, head: *mut Head, value: c_int) -> Element {
    // SAFETY: as the caller says. When there is no memory, the slots stay as they were.
    unsafe {
        if ffi::lua_getiuservalue(state, index, SLOTS) != ffi::LUA_TTABLE {
            ffi::lua_pop(state, 1);
            ffi::lua_createtable(state, 4, 0);
            ffi::lua_pushvalue(state, -1);
            ffi::lua_setiuservalue(state, index, SLOTS);
        }
        let slot = if (*head).free_slot == 0 {
            let slot = (*head).slots + 1;
            ffi::lua_pushvalue(state, value);
            ffi::lua_rawseti(state, -2, i64::from(slot));
            (*head).slots = slot;
            slot
        } else {
            let slot = (*head).free_slot;
            ffi::lua_rawgeti(state, -1, i64::from(slot));
            (*head).free_slot = ffi::lua_tointegerx(state, -1, ptr::null_mut()) as u32;
            ffi::lua_pop(state, 1);
            ffi::lua_pushvalue(state, value);
            ffi::lua_rawseti(state, -2, i64::from(slot));
            slot
        };
        ffi::lua_pop(state, 1);
        Element::Slot(slot)
    }
}

/// Frees what an element of the list at `index` holds.
///
/// # Safety
/// As for [`keep`].
unsafe fn release(state: *mut ffi::lua_State, index: c_int, head: *mut Head, element: Element) {
    // SAFETY: as the caller says. The slot is there, so this takes no memory.
    unsafe {
        let Element::Slot(slot) = element else { return };
        ffi::lua_getiuservalue(state, index, SLOTS);
        ffi::lua_pushinteger(state, i64::from((*head).free_slot));
        ffi::lua_rawseti(state, -2, i64::from(slot));
        ffi::lua_pop(state, 1);
        (*head).free_slot = slot;
    }
}

/// Pushes an element of the list at `index`.
///
/// # Safety
/// There is room for two more values.
pub(in super::super) unsafe fn push_element(state: *mut ffi::lua_State, index: c_int, element: Element) {
    // SAFETY: as the caller says.
    unsafe {
        match element {
            Element::Nil => ffi::lua_pushnil(state),
            Element::Boolean(value) => ffi::lua_pushboolean(state, c_int::from(value)),
            Element::Integer(value) => ffi::lua_pushinteger(state, value),
            Element::Number(value) => ffi::lua_pushnumber(state, value),
            Element::Slot(slot) => {
                ffi::lua_getiuservalue(state, index, SLOTS);
                ffi::lua_rawgeti(state, -1, i64::from(slot));
                ffi::lua_replace(state, -2);
            }
        }
    }
}

/// Appends an element to the list at `index`, without its limits: a plain one, or the value at `value`.
///
/// # Safety
/// As for [`keep`]; the list has less than [`COUNT_MAX`] elements.
unsafe fn push_back(state: *mut ffi::lua_State, index: c_int, head: *mut Head, given: Given, value: c_int) {
    // SAFETY: as the caller says.
    unsafe {
        make_room(state, index, head, 1, false);
        let element = match given {
            Given::Plain(element) => element,
            Given::Kept => keep(state, index, head, value),
            Given::Unfit => Element::Nil,
        };
        (*head).place((*head).count).write(element);
        (*head).count += 1;
    }
}

/// Appends the value on top of the stack to the list at `index`, and pops it. A value that cannot be in a list counts as nil.
///
/// # Safety
/// `head` is that of the list. `index` is a positive number. There is room for three more values.
pub(in super::super) unsafe fn append_top(state: *mut ffi::lua_State, index: c_int, head: *mut Head) {
    // SAFETY: as the caller says. A packed list may have more elements than a program may append, but not more than the memory.
    unsafe {
        let top = ffi::lua_gettop(state);
        let given = given(state, top);
        push_back(state, index, head, given, top);
        ffi::lua_pop(state, 1);
    }
}

/// How a function of a program ends.
enum Done {
    /// It is carried out, or does nothing.
    Yes,
    /// The function of the prelude raises the error.
    Refused,
}

/// Puts the value at `value` behind the first `before` elements of the list that is the first argument.
///
/// # Safety
/// In a function of a program, with room for a few values.
unsafe fn insert(state: *mut ffi::lua_State, head: *mut Head, before: u32, value: c_int) -> Done {
    // SAFETY: as the caller says. Before there is memory for the element, nothing is changed.
    unsafe {
        let given = given_argument(state, value);
        if matches!(given, Given::Unfit) {
            return Done::Yes;
        }
        let count = (*head).count;
        match (*head).may_have(u64::from(before.max(count)) + 1) {
            None => return Done::Refused,
            Some(false) => return Done::Yes,
            Some(true) => {}
        }
        if before > count {
            fill(state, head, before);
        }
        let count = (*head).count;
        let moved = before.min(count - before);
        if moved > WATCHED_ELEMENTS {
            look(state);
        }
        let in_front = before < count - before;
        make_room(state, 1, head, 1, in_front);
        let element = match given {
            Given::Plain(element) => element,
            _ => keep(state, 1, head, value),
        };
        if in_front {
            (*head).start -= 1;
            (*head).count += 1;
            ptr::copy((*head).place(1), (*head).place(0), before as usize);
        } else {
            (*head).count += 1;
            let place = (*head).place(before);
            ptr::copy(place, place.add(1), (count - before) as usize);
        }
        (*head).place(before).write(element);
        Done::Yes
    }
}

/// Puts nil behind the elements of the list that is the first argument, until there are `count`.
///
/// # Safety
/// As for [`insert`]; it may have so many.
unsafe fn fill(state: *mut ffi::lua_State, head: *mut Head, count: u32) {
    // SAFETY: as the caller says.
    unsafe {
        let added = count - (*head).count;
        if added > WATCHED_ELEMENTS {
            look(state);
        }
        make_room(state, 1, head, added, false);
        for index in (*head).count..count {
            (*head).place(index).write(Element::Nil);
        }
        (*head).count = count;
    }
}

/// The optional argument that is a position, as the number of elements before it; `None` if it is no position. An error if it is
/// no number.
///
/// # Safety
/// There is a stack.
unsafe fn position_argument(state: *mut ffi::lua_State, index: c_int) -> Result<Option<u32>, NoInteger> {
    // SAFETY: as the caller says.
    let position = unsafe { integer_argument(state, index, 0)? };
    Ok((position > 0).then(|| ((position & INDEX_MASK) as u32).wrapping_sub(1)))
}

/// Answers what a function of a program did, which returns nothing.
///
/// # Safety
/// As for [`leave`].
unsafe fn end(state: *mut ffi::lua_State, arguments: c_int, done: Done) -> c_int {
    match done {
        Done::Yes => 0,
        // SAFETY: as the caller says.
        Done::Refused => unsafe { leave(state, arguments) },
    }
}

/// `list.append(list, value)`
pub(super) unsafe extern "C-unwind" fn append(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        let Some(head) = list_at(state, 1) else { return leave(state, arguments) };
        let done = insert(state, head, (*head).count, 2);
        end(state, arguments, done)
    }
}

/// `list.prepend(list, value)`
pub(super) unsafe extern "C-unwind" fn prepend(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        let Some(head) = list_at(state, 1) else { return leave(state, arguments) };
        let done = insert(state, head, 0, 2);
        end(state, arguments, done)
    }
}

/// `list.insert(list, index, value)`
pub(super) unsafe extern "C-unwind" fn insert_at(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        let done = match (list_at(state, 1), position_argument(state, 2)) {
            (Some(head), Ok(Some(before))) => insert(state, head, before, 3),
            (Some(_), Ok(None)) => Done::Yes,
            _ => Done::Refused,
        };
        end(state, arguments, done)
    }
}

/// `list.remove(list, index)`
pub(super) unsafe extern "C-unwind" fn remove(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        let (Some(head), Ok(position)) = (list_at(state, 1), position_argument(state, 2)) else {
            return leave(state, arguments);
        };
        let count = (*head).count;
        let Some((before, element)) = position.and_then(|before| Some((before, (*head).get(before)?))) else {
            return 0;
        };
        let behind = count - before - 1;
        if before.min(behind) > WATCHED_ELEMENTS {
            look(state);
        }
        release(state, 1, head, element);
        if before < behind {
            ptr::copy((*head).place(0), (*head).place(0).add(1), before as usize);
            (*head).start += 1;
        } else {
            let place = (*head).place(before);
            ptr::copy(place.add(1), place, behind as usize);
        }
        (*head).count = count - 1;
        0
    }
}

/// Appends the elements from `from` on of the list at `source` to the list at `target`, which has room for them.
///
/// # Safety
/// Both are lists with these heads. There is room for a few values.
unsafe fn copy_elements(
    state: *mut ffi::lua_State,
    (source, of_source): (c_int, *mut Head),
    (target, of_target): (c_int, *mut Head),
    (from, count): (u32, u32),
) {
    // SAFETY: as the caller says. The count of the target is set when all are there.
    unsafe {
        let before = (*of_target).count;
        if (*of_source).slots == 0 && count > 0 {
            if count > WATCHED_ELEMENTS {
                look(state);
            }
            let place = (*of_target).room.add(((*of_target).start + before) as usize);
            ptr::copy((*of_source).place(from), place, count as usize);
            (*of_target).count = before + count;
            return;
        }
        for index in 0..count {
            if index % WATCHED_ELEMENTS == WATCHED_ELEMENTS - 1 {
                look(state);
            }
            let Some(mut element) = (*of_source).get(from + index) else { break };
            if matches!(element, Element::Slot(_)) {
                push_element(state, source, element);
                element = keep(state, target, of_target, ffi::lua_gettop(state));
                ffi::lua_pop(state, 1);
            }
            (*of_target).place(before + index).write(element);
        }
        (*of_target).count = before + count;
    }
}

/// `list.concat(list, other)`
pub(super) unsafe extern "C-unwind" fn concat(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        let (Some(head), Some(other)) = (list_at(state, 1), list_at(state, 2)) else {
            return leave(state, arguments);
        };
        let added = (*other).count;
        match (*head).may_have(u64::from((*head).count) + u64::from(added)) {
            None => leave(state, arguments),
            Some(false) => 0,
            Some(true) => {
                make_room(state, 1, head, added, false);
                copy_elements(state, (2, other), (1, head), (0, added));
                0
            }
        }
    }
}

/// `list.trim(list, index)`
pub(super) unsafe extern "C-unwind" fn trim(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        let (Some(head), Ok(position)) = (list_at(state, 1), position_argument(state, 2)) else {
            return leave(state, arguments);
        };
        let Some(kept) = position.filter(|before| *before < (*head).count) else { return 0 };
        while let Some(last) = (*head).count.checked_sub(1).filter(|last| *last >= kept) {
            if last % WATCHED_ELEMENTS == WATCHED_ELEMENTS - 1 {
                look(state);
            }
            (*head).get(last).into_iter().for_each(|element| release(state, 1, head, element));
            (*head).count = last;
        }
        0
    }
}

/// Returns a list of some elements of the list that is the first argument; `range` gives the first one and the count, of
/// the argument and the count of all.
///
/// # Safety
/// In a function of a program, at its beginning.
unsafe fn part(state: *mut ffi::lua_State, range: fn(u32, u32) -> (u32, u32)) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        let (Some(head), Ok(wanted)) = (list_at(state, 1), integer_argument(state, 2, 0)) else {
            return leave(state, arguments);
        };
        if wanted <= 0 {
            ffi::lua_pushnil(state);
            return 1;
        }
        let (from, count) = range((wanted & INDEX_MASK) as u32, (*head).count);
        let new = push_list(state, count, None);
        (*new).step = (*head).step;
        (*new).limit = count;
        copy_elements(state, (1, head), (ffi::lua_gettop(state), new), (from, count));
        1
    }
}

/// `list.take(list, count)`
pub(super) unsafe extern "C-unwind" fn take(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe { part(state, |wanted, count| (0, wanted.min(count))) }
}

/// `list.drop(list, count)`
pub(super) unsafe extern "C-unwind" fn drop(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe { part(state, |wanted, count| (wanted.min(count), count - wanted.min(count))) }
}

/// `list.new(capacity, step)`
pub(super) unsafe extern "C-unwind" fn new(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        if !(1..=2).contains(&arguments) {
            return 0;
        }
        let Ok(limit) = integer_argument(state, 1, -1) else { return leave(state, arguments) };
        if limit < 0 {
            return 0;
        }
        let Ok(step) = integer_argument(state, 2, i64::from(STEP)) else { return leave(state, arguments) };
        if step < 0 {
            return 0;
        }
        let head = push_list(state, 0, None);
        (*head).step = (step & INDEX_MASK) as u32;
        (*head).limit = (limit & INDEX_MASK) as u32;
        1
    }
}

/// `list(table)`: the values of a table whose keys are numbers, in the table's order.
pub(super) unsafe extern "C-unwind" fn of_table(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values. A table of more elements than a list may have needs more memory than there is.
    unsafe {
        let has_source = ffi::lua_gettop(state) == 2 && ffi::lua_type(state, 2) == ffi::LUA_TTABLE;
        let size = if has_source { ffi::lua_rawlen(state, 2) } else { 0 };
        // The length of a table may be any number.
        let head = push_list(state, u32::try_from(size).unwrap_or(0).min(WATCHED_ELEMENTS), None);
        if !has_source {
            return 1;
        }
        let list = ffi::lua_gettop(state);
        let mut steps = 0;
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, 2) != 0 {
            steps += steps_of(state, -1);
            if steps >= WATCHED_ELEMENTS as usize {
                steps = 0;
                look(state);
            }
            if ffi::lua_type(state, -2) == ffi::LUA_TNUMBER {
                append_top(state, list, head);
            } else {
                ffi::lua_pop(state, 1);
            }
        }
        1
    }
}

/// `list[index]`
pub(super) unsafe extern "C-unwind" fn get(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        look_sometimes(state);
        let (Some(head), Ok(index)) = (list_at(state, 1), integer_argument(state, 2, 0)) else {
            return leave(state, ffi::lua_gettop(state));
        };
        // Without elements before it, it is beyond all.
        let before = ((index & INDEX_MASK) as u32).wrapping_sub(1);
        push_element(state, 1, (*head).get(before).unwrap_or(Element::Nil));
        1
    }
}

/// `list[index] = value`
pub(super) unsafe extern "C-unwind" fn set(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        look_sometimes(state);
        let arguments = ffi::lua_gettop(state);
        let (Some(head), Ok(index)) = (list_at(state, 1), integer_argument(state, 2, 0)) else {
            return leave(state, arguments);
        };
        let Some(before) = ((index & INDEX_MASK) as u32).checked_sub(1) else { return 0 };
        if let Some(old) = (*head).get(before) {
            let new = match given_argument(state, 3) {
                Given::Unfit => return 0,
                Given::Plain(element) => element,
                Given::Kept => keep(state, 1, head, 3),
            };
            release(state, 1, head, old);
            (*head).place(before).write(new);
            return 0;
        }
        let done = insert(state, head, before, 3);
        end(state, arguments, done)
    }
}

/// `list.size(list)`, `#list`
pub(super) unsafe extern "C-unwind" fn size(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        look_sometimes(state);
        let Some(head) = list_at(state, 1) else { return leave(state, ffi::lua_gettop(state)) };
        ffi::lua_pushinteger(state, i64::from((*head).count));
        1
    }
}

/// An iterator over a list; the list is its user value.
#[repr(C)]
struct Iterator {
    tag: Tag,
    at: u32,
}

// SAFETY: `iterate` alone makes such userdata.
unsafe impl Tagged for Iterator {
    const TAG: Tag = Tag::ListIterator;
}

/// The list of the iterator that is the first argument, which is pushed, and the iterator; `None` for other values.
///
/// # Safety
/// In a C function, with room for a value.
unsafe fn iterator(state: *mut ffi::lua_State) -> Option<(*mut Head, *mut Iterator)> {
    // SAFETY: as the caller says. The user value is a list.
    unsafe {
        let iterator = tagged_at::<Iterator>(state, 1)?;
        ffi::lua_getiuservalue(state, 1, 1);
        Some((ffi::lua_touserdata(state, -1).cast::<Head>(), iterator))
    }
}

/// `list.iterator(list)`: the function in the closure, which gives the next element, and an iterator.
pub(super) unsafe extern "C-unwind" fn iterate(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        if list_at(state, 1).is_none() {
            return leave(state, ffi::lua_gettop(state));
        }
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(2));
        let iterator = ffi::lua_newuserdatauv(state, size_of::<Iterator>(), 1).cast::<Iterator>();
        iterator.write(Iterator { tag: Iterator::TAG, at: 0 });
        ffi::lua_pushvalue(state, 1);
        ffi::lua_setiuservalue(state, -2, 1);
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, ITERATOR_KEY.address());
        ffi::lua_setmetatable(state, -2);
        2
    }
}

/// Pushes the next element of the iterator that is the first argument; `None` if it is no iterator over a list, otherwise
/// whether there is one.
///
/// # Safety
/// In a C function, at its beginning.
pub(super) unsafe fn push_next(state: *mut ffi::lua_State) -> Option<bool> {
    // SAFETY: a C function has room for 20 values.
    unsafe {
        let (head, iterator) = iterator(state)?;
        let Some(element) = (*head).get((*iterator).at) else { return Some(false) };
        (*iterator).at += 1;
        push_element(state, ffi::lua_gettop(state), element);
        Some(true)
    }
}

/// The next step of `list.iterator(list)`
pub(super) unsafe extern "C-unwind" fn step(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: this is its beginning.
    unsafe { c_int::from(push_next(state) == Some(true)) }
}

/// Whether the iterator that is the first argument has a next element; `None` if it is no iterator over a list.
///
/// # Safety
/// In a C function, with room for a value.
pub(super) unsafe fn has_next(state: *mut ffi::lua_State) -> Option<bool> {
    // SAFETY: as the caller says.
    unsafe {
        let (head, iterator) = iterator(state)?;
        Some((*iterator).at < (*head).count)
    }
}
