//! System calls behind safe types.

pub mod block;
pub mod disks;
pub mod epoll;
pub mod eventfd;
pub mod facts;
pub(crate) mod futex;
pub mod interfaces;
pub mod limits;
pub mod notify;
pub mod probe;
pub mod process;
pub mod signals;
pub mod socket;
