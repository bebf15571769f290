//! The parameter tables, one file per part of the configuration file.

pub mod misc;
pub mod namespace;
pub mod network;
pub mod security;
pub mod service;
pub mod storage;
pub mod xdr;
