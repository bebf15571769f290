//! A partition in the view of one node: its replicas, working master and remaining migrations. A rebalance
//! sets this state, and migrations change it step by step.
//!
//! At the end of an emigration the sender's copy gets the final version, marked as a subset while the sender
//! is no replica or still expects records. At the end of an immigration the eventual master removes the
//! sender from its duplicates, or takes over if the sender was the acting master. After its last immigration
//! the eventual master sends to the other replicas. After those emigrations it signals the witnesses, which
//! drop superfluous copies.

use datamodel::partition_version::PartitionVersion;
use proto::peer::NodeId;

use super::DUPLICATE_RESOLUTION_MARGIN_MS;
use super::plan::{Plan, Superfluous};

/// A node's state of a partition. The default is that of a node without a cluster: it serves nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Partition {
    pub version: PartitionVersion,
    pub final_version: PartitionVersion,
    /// Empty while the node has no cluster.
    pub replicas: Vec<NodeId>,
    /// The node itself if it is working master; the acting master if the node is eventual master; otherwise
    /// none.
    pub working_master: NodeId,
    /// The node that is most probably the working master.
    pub proxy_destination: NodeId,
    /// At a working or eventual master: nodes that may have newer copies.
    pub duplicates: Vec<NodeId>,
    /// Replicas that still expect records, by their index in `replicas`.
    pub immigrators: Vec<bool>,
    pub pending_immigrations: u16,
    pub pending_emigrations: u16,
    /// How many of these emigrations are lead ones, which do not wait for immigrations.
    pub pending_lead_emigrations: u16,
    /// At the eventual master: nodes to signal when all migrations are done.
    pub witnesses: Vec<NodeId>,
    /// Records written later than this need no duplicate resolution. Milliseconds since 2010.
    pub duplicate_resolution_cutoff_ms: u64,
    /// This node is the acting master and has sent all records: no further write begins here.
    pub is_handing_over: bool,
    /// No write may begin here now, even if this node is master. See [`crate::node`].
    pub holds_writes: bool,
    /// The node is quiesced: it keeps a superfluous copy, because it may come back.
    pub keeps_superfluous: bool,
}

/// The state column of `partition-info`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartitionState {
    /// A replica with all records.
    Sync,
    /// A replica that still expects records.
    Desync,
    /// No replica and no data.
    Absent,
    /// No replica, but data.
    Zombie,
    /// No replica and no data, but a version that is not null.
    Other,
}

/// The change of a node's tree of the partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tree {
    Keep,
    Create,
    Drop,
}

/// A transfer of a partition's records to another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Emigration {
    pub destination: NodeId,
    /// This node is working master until the receiver has all records.
    pub is_acting_master: bool,
    /// It does not wait. Other emigrations wait for immigrations.
    pub is_lead: bool,
    /// The destination has no data. The result is only a further copy, so the emigration may wait.
    pub is_fill: bool,
}

/// A message to a witness that all migrations of the partition are done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signal {
    pub destination: NodeId,
}

/// The consequences of a migration's end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MigrationDone {
    pub emigrations: Vec<Emigration>,
    pub signals: Vec<Signal>,
    /// The columns of the clients' map changed: the partition generation increases.
    pub changed_columns: bool,
    /// The version changed and must be stored.
    pub changed_version: bool,
}

/// The reason why an immigration cannot start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartRefused {
    /// The node expects no records.
    NothingExpected,
    /// The node expects records, but not from this source.
    WrongSource,
}

/// The columns of the clients' map that a node owns, one bit each.
pub type ClientColumns = u64;

/// The destination of a client's request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// This node applies it.
    Here,
    /// The node that most probably applies it.
    Proxy(NodeId),
    /// The node has no cluster.
    Unavailable,
}

impl Partition {
    /// Applies a plan. `now_ms` is the clock of last-update-times. Returns the change of the tree, and the
    /// emigrations that start at once.
    pub fn rebalance(
        &mut self,
        plan: &Plan,
        self_node: NodeId,
        now_ms: u64,
        superfluous: Superfluous,
    ) -> (Tree, Vec<Emigration>) {
        let Some(place) = plan.place_of(self_node) else {
            debug_assert!(false, "a plan is for members");
            return (Tree::Keep, Vec::new());
        };
        let had_data = self.version.has_data();
        let master = plan.master_place();
        let is_replica = place < plan.replica_count;
        let cutoff = if plan.resets_duplicate_resolution {
            now_ms + DUPLICATE_RESOLUTION_MARGIN_MS
        } else {
            self.duplicate_resolution_cutoff_ms
        };
        let mut immigrators = vec![false; plan.replica_count];
        plan.immigrators.iter().for_each(|place| immigrators[*place] = true);
        *self = Partition {
            version: plan.next_version(place, superfluous),
            final_version: plan.final_version(place),
            replicas: plan.nodes[..plan.replica_count].to_vec(),
            working_master: if place == 0 || place == master { plan.nodes[master] } else { NodeId::NONE },
            proxy_destination: plan.nodes[master],
            immigrators,
            duplicate_resolution_cutoff_ms: cutoff,
            keeps_superfluous: superfluous == Superfluous::BecomeSubset,
            ..Partition::default()
        };
        let mut emigrations = Vec::new();
        if !plan.immigrators.is_empty() {
            if place == 0 {
                emigrations = self.plan_as_eventual_master(plan, master);
            } else {
                emigrations.extend(self.plan_as_other(plan, place, master));
            }
        }
        debug_assert!(is_replica || self.pending_immigrations == 0);
        let tree = match (had_data, self.version.has_data()) {
            (false, true) => Tree::Create,
            (true, false) => Tree::Drop,
            _ => Tree::Keep,
        };
        (tree, emigrations)
    }

    fn plan_as_eventual_master(&mut self, plan: &Plan, master: usize) -> Vec<Emigration> {
        let others = plan.duplicates.iter().filter(|place| **place != 0);
        self.duplicates = others.map(|place| plan.nodes[*place]).collect();
        self.pending_immigrations = self.duplicates.len() as u16 + u16::from(master != 0);
        self.pending_emigrations = plan.immigrators.iter().filter(|place| **place != 0).count() as u16;
        self.witnesses = plan.witnesses();
        if self.pending_immigrations != 0 {
            return Vec::new();
        }
        self.pending_lead_emigrations = self.pending_emigrations;
        let emigration = |place: &usize| Emigration {
            destination: plan.nodes[*place],
            is_acting_master: false,
            is_lead: true,
            is_fill: !plan.versions[*place].has_data(),
        };
        plan.immigrators.iter().filter(|place| **place != 0).map(emigration).collect()
    }

    fn plan_as_other(&mut self, plan: &Plan, place: usize, master: usize) -> Option<Emigration> {
        let is_acting_master = place == master;
        if is_acting_master {
            self.duplicates = plan.duplicates.iter().map(|place| plan.nodes[*place]).collect();
        }
        self.pending_immigrations = u16::from(plan.immigrators.contains(&place));
        if !is_acting_master && !plan.duplicates.contains(&place) {
            return None;
        }
        self.pending_emigrations = 1;
        self.pending_lead_emigrations = 1;
        let is_fill = is_acting_master && !plan.versions[0].has_data();
        Some(Emigration { destination: plan.nodes[0], is_acting_master, is_lead: true, is_fill })
    }

    /// Leaves the cluster: the node serves nothing until the next rebalance, but keeps its data and their
    /// version.
    pub fn freeze(&mut self) {
        *self = Partition {
            version: self.version,
            duplicate_resolution_cutoff_ms: self.duplicate_resolution_cutoff_ms,
            ..Partition::default()
        };
    }

    /// The index of a node among the replicas.
    #[must_use]
    pub fn replica_place(&self, node: NodeId) -> Option<usize> {
        self.replicas.iter().position(|replica| *replica == node)
    }

    fn is_eventual_master(&self, self_node: NodeId) -> bool {
        self.replicas.first() == Some(&self_node)
    }

    /// Checks that this node expects records from `source`.
    ///
    /// # Errors
    /// When the node does not expect them.
    pub fn check_source(&self, self_node: NodeId, source: NodeId) -> Result<(), StartRefused> {
        if self.pending_immigrations == 0 {
            return Err(StartRefused::NothingExpected);
        }
        let is_source = if self.is_eventual_master(self_node) {
            source == self.working_master || self.duplicates.contains(&source)
        } else {
            self.replicas.first() == Some(&source)
        };
        if is_source { Ok(()) } else { Err(StartRefused::WrongSource) }
    }

    /// Notes the start of an immigration. Returns whether the version changed.
    ///
    /// # Errors
    /// When the node expects nothing from `source`.
    pub fn immigration_started(&mut self, self_node: NodeId, source: NodeId) -> Result<bool, StartRefused> {
        self.check_source(self_node, source)?;
        if self.is_eventual_master(self_node) {
            return Ok(false);
        }
        // Incoming records mix with the local ones: the copy is now a subset of the final version.
        let before = self.version;
        let is_subset_of_final = before.cluster_key() == self.final_version.cluster_key()
            && before.family() == 0
            && before.is_subset();
        if !is_subset_of_final {
            self.version = self.as_final(before).with_master(false).with_subset(true);
        }
        Ok(self.version != before)
    }

    /// Notes the end of an immigration.
    ///
    /// # Errors
    /// When the node expected nothing from `source`.
    pub fn immigration_done(
        &mut self,
        self_node: NodeId,
        source: NodeId,
    ) -> Result<MigrationDone, StartRefused> {
        self.check_source(self_node, source)?;
        let (columns, version) = (self.client_columns(self_node), self.version);
        self.pending_immigrations -= 1;
        if self.pending_immigrations == 0 {
            self.version = self.final_version;
        }
        let mut done = MigrationDone::default();
        if self.is_eventual_master(self_node) {
            if source == self.working_master {
                self.working_master = self_node;
                self.version = self.final_version;
            } else {
                self.duplicates.retain(|node| *node != source);
            }
            if self.pending_immigrations == 0 {
                if self.pending_emigrations != 0 {
                    done.emigrations = self.contingent_emigrations();
                } else {
                    done.signals = self.signals();
                }
            }
        }
        done.changed_columns = self.client_columns(self_node) != columns;
        done.changed_version = self.version != version;
        Ok(done)
    }

    fn contingent_emigrations(&self) -> Vec<Emigration> {
        let receivers =
            self.replicas.iter().zip(&self.immigrators).skip(1).filter(|(_, immigrates)| **immigrates);
        let emigration = |(destination, _): (&NodeId, _)| Emigration {
            destination: *destination,
            is_acting_master: false,
            is_lead: false,
            is_fill: false,
        };
        receivers.map(emigration).collect()
    }

    fn signals(&self) -> Vec<Signal> {
        self.witnesses.iter().map(|destination| Signal { destination: *destination }).collect()
    }

    /// Notes the end of an emigration; `None` if there was none.
    pub fn emigration_done(&mut self, self_node: NodeId, emigration: &Emigration) -> Option<MigrationDone> {
        if self.pending_emigrations == 0 {
            return None;
        }
        let (columns, version) = (self.client_columns(self_node), self.version);
        self.pending_emigrations -= 1;
        if emigration.is_lead {
            self.pending_lead_emigrations = self.pending_lead_emigrations.saturating_sub(1);
        }
        if !self.is_eventual_master(self_node) {
            if emigration.is_acting_master {
                self.working_master = NodeId::NONE;
                self.is_handing_over = false;
                self.proxy_destination = self.replicas.first().copied().unwrap_or_default();
                self.duplicates.clear();
                self.version = self.version.with_master(false);
            }
            self.version = self.as_final(self.version);
            if self.pending_immigrations != 0 || self.replica_place(self_node).is_none() {
                self.version = self.version.with_subset(true);
            }
        }
        if let Some(place) = self.replica_place(emigration.destination) {
            self.immigrators[place] = false;
        }
        let mut done = MigrationDone::default();
        let all_done = self.pending_emigrations == 0 && self.pending_immigrations == 0;
        if all_done && self.is_eventual_master(self_node) {
            done.signals = self.signals();
        }
        done.changed_columns = self.client_columns(self_node) != columns;
        done.changed_version = self.version != version;
        Some(done)
    }

    /// Applies the eventual master's signal that all migrations of the partition are done. Returns `None`
    /// while this node still sends.
    pub fn all_done(&mut self, self_node: NodeId) -> Option<Tree> {
        if self.pending_emigrations != 0 {
            return None;
        }
        if self.replica_place(self_node).is_some() || self.version.is_null() {
            return Some(Tree::Keep);
        }
        if self.keeps_superfluous {
            self.version = self.as_final(self.version).with_master(false).with_subset(true);
            return Some(Tree::Keep);
        }
        let had_data = self.version.has_data();
        self.version = PartitionVersion::default();
        Some(if had_data { Tree::Drop } else { Tree::Keep })
    }

    /// The flags of `version`, with key and family of the final one.
    fn as_final(&self, version: PartitionVersion) -> PartitionVersion {
        PartitionVersion::new(self.final_version.cluster_key(), 0)
            .with_master(version.is_master())
            .with_subset(version.is_subset())
            .with_evade(version.is_evade())
            .with_revived(version.is_revived())
    }

    /// Marks this node's copy as a subset when the acting master has sent all records and the eventual master
    /// is about to take over. From now on this copy may lack the eventual master's writes, unless this node
    /// is a replica. If the cluster changes before the takeover is confirmed, the copy must not count as
    /// complete.
    pub fn hand_over(&mut self, self_node: NodeId) {
        self.is_handing_over = true;
        if self.replica_place(self_node).is_none() {
            self.version = self.version.with_subset(true);
        }
    }

    /// The destination of a request.
    #[must_use]
    pub fn route(&self, self_node: NodeId, is_read: bool) -> Route {
        if self.replicas.is_empty() {
            return Route::Unavailable;
        }
        let is_handed_over = self.is_handing_over && self.working_master == self_node && !is_read;
        let best = if is_handed_over {
            self.replicas[0]
        } else if !self.working_master.is_none() {
            self.working_master
        } else if is_read && self.pending_immigrations == 0 && self.replica_place(self_node) > Some(0) {
            self_node
        } else {
            self.proxy_destination
        };
        if best == self_node { Route::Here } else { Route::Proxy(best) }
    }

    /// Whether a query may read the partition here: all records are here, and no other copy is newer.
    #[must_use]
    pub fn is_queryable(&self, self_node: NodeId) -> bool {
        match self.replica_place(self_node) {
            Some(_) => self.pending_immigrations == 0,
            None => self.working_master == self_node && self.duplicates.is_empty(),
        }
    }

    /// The columns of the clients' map that this node owns. A working master owns the master's column and
    /// those of replicas that still expect records. A replica owns its own column if it has all its records.
    #[must_use]
    pub fn client_columns(&self, self_node: NodeId) -> ClientColumns {
        let own = self.replica_place(self_node);
        if self.working_master != self_node {
            let is_owner = own > Some(0) && self.pending_immigrations == 0;
            return own.filter(|place| is_owner && *place < 64).map_or(0, |place| 1 << place);
        }
        let immigrating = self.immigrators.iter().take(64).enumerate().filter(|(_, immigrates)| **immigrates);
        let columns = immigrating.fold(1, |columns, (place, _)| columns | 1 << place);
        columns | own.filter(|place| *place < 64).map_or(0, |place| 1 << place)
    }

    /// The state for `partition-info`.
    #[must_use]
    pub fn state(&self, self_node: NodeId) -> PartitionState {
        match self.replica_place(self_node) {
            Some(_) if self.pending_immigrations == 0 => PartitionState::Sync,
            Some(_) => PartitionState::Desync,
            None if self.version.is_null() => PartitionState::Absent,
            None if self.version.has_data() => PartitionState::Zombie,
            None => PartitionState::Other,
        }
    }
}
