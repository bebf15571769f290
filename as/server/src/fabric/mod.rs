//! The cluster as this node sees it.

mod cluster;

pub(crate) use cluster::Cluster;
