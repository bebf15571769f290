//! The plan for one partition: the working master, the duplicates, the nodes that take part in migrations,
//! and the version of each node's copy meanwhile.
//!
//! The rules are those of the C server for AP namespaces, so every node of a mixed cluster computes the same
//! plan.

use datamodel::partition_version::{FAMILY_UNIQUE, PartitionVersion};
use proto::peer::{ClusterKey, NodeId};

/// The outcome of a rebalance for a partition. A place is an index into the sequence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The sequence.
    pub nodes: Vec<NodeId>,
    /// The nodes' previous versions, in the same order.
    pub versions: Vec<PartitionVersion>,
    /// Number of replicas, which have the first places.
    pub replica_count: usize,
    pub cluster_key: ClusterKey,
    /// `None` when no node has data: the partition starts empty.
    pub working_master: Option<usize>,
    /// Places whose copies may be newer than the working master's; without the working master.
    pub duplicates: Vec<usize>,
    /// Replicas that receive records.
    pub immigrators: Vec<usize>,
    /// Set if the copies did not all take part in the last rebalance together, or if the master changes:
    /// records older than this rebalance then need duplicate resolution.
    pub resets_duplicate_resolution: bool,
}

/// The treatment of a superfluous copy on its node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Superfluous {
    Drop,
    /// A quiesced node keeps it, because it may come back.
    BecomeSubset,
}

impl Plan {
    /// Makes the plan for nodes with these versions, both in the order of the sequence.
    ///
    /// # Panics
    /// If the numbers of nodes and versions differ, or there is no node.
    #[must_use]
    pub fn new(
        nodes: Vec<NodeId>,
        versions: Vec<PartitionVersion>,
        replica_count: usize,
        cluster_key: ClusterKey,
    ) -> Self {
        assert!(!nodes.is_empty() && nodes.len() == versions.len(), "a version for each node");
        let working_master = working_master(&versions);
        let mut plan = Plan {
            replica_count: replica_count.min(nodes.len()),
            nodes,
            versions,
            cluster_key,
            working_master,
            duplicates: Vec::new(),
            immigrators: Vec::new(),
            resets_duplicate_resolution: false,
        };
        if let Some(master) = working_master {
            plan.duplicates = duplicates(&plan.versions, master);
            let receives = |place: &usize| {
                let version = plan.versions[*place];
                !plan.duplicates.is_empty()
                    || *place != master && (!version.has_data() || version.is_subset())
            };
            plan.immigrators = (0..plan.replica_count).filter(receives).collect();
            let mut keys = plan.versions.iter().filter(|v| v.has_data()).map(|v| v.cluster_key());
            let first = keys.next();
            plan.resets_duplicate_resolution =
                keys.any(|key| Some(key) != first) || !plan.versions[master].is_master();
        }
        plan
    }

    /// The version of a place after all migrations.
    #[must_use]
    pub fn final_version(&self, place: usize) -> PartitionVersion {
        PartitionVersion::new(self.cluster_key.0, 0).with_master(place == 0)
    }

    /// The place of a node.
    #[must_use]
    pub fn place_of(&self, node: NodeId) -> Option<usize> {
        self.nodes.iter().position(|other| *other == node)
    }

    /// The place of the working master, or of the eventual master when no node has data.
    #[must_use]
    pub fn master_place(&self) -> usize {
        self.working_master.unwrap_or(0)
    }

    /// The version of a place in this rebalance.
    #[must_use]
    pub fn next_version(&self, place: usize, superfluous: Superfluous) -> PartitionVersion {
        let is_replica = place < self.replica_count;
        let old = self.versions[place];
        let Some(master) = self.working_master else {
            return if is_replica { self.final_version(place) } else { old };
        };
        if !self.immigrators.is_empty() {
            return self.version_while_migrating(place, master);
        }
        match superfluous {
            _ if is_replica => self.final_version(place),
            Superfluous::BecomeSubset if old.has_data() => self.final_version(place).with_subset(true),
            _ => PartitionVersion::default(),
        }
    }

    /// The version of a place until migrations are done. A rebalance before their end judges the copy by it.
    fn version_while_migrating(&self, place: usize, master: usize) -> PartitionVersion {
        let has_duplicates = !self.duplicates.is_empty();
        let is_replica = place < self.replica_count;
        let key = self.cluster_key.0;
        let old = self.versions[place].with_master(false);
        // The revived flag is kept for strong consistency.
        let of_family = |family| {
            PartitionVersion::new(key, family)
                .with_subset(old.is_subset())
                .with_evade(old.is_evade())
                .with_revived(old.is_revived())
        };
        if place == master {
            let family = u8::from(place != 0 && has_duplicates);
            return PartitionVersion::new(key, family).with_master(true).with_revived(old.is_revived());
        }
        if place == 0 {
            let next = of_family(0).with_subset(!has_duplicates);
            return if old.has_data() { next } else { next.with_evade(true) };
        }
        if !old.has_data() {
            return if is_replica { of_family(0).with_subset(true).with_evade(true) } else { old };
        }
        let families = self.families(master);
        let found = families.iter().position(|parent| same_family(old, *parent));
        // Equal subsets without a full parent cannot share a family.
        let found = found.filter(|family| !families[*family].is_subset());
        match (is_replica, found) {
            (true, Some(0)) if has_duplicates => of_family(0).with_subset(true),
            (true, Some(family)) => of_family(family as u8),
            (true, None) => of_family(FAMILY_UNIQUE),
            (false, Some(family)) => of_family(family as u8).with_subset(true),
            (false, None) => old,
        }
    }

    /// The families under the new cluster key, by index. With duplicates, family 0 is the data that the
    /// eventual master merges, so no earlier data belongs to it.
    fn families(&self, master: usize) -> Vec<PartitionVersion> {
        let mut families = match (master, self.duplicates.is_empty()) {
            (0, _) => vec![self.versions[0]],
            (_, true) => vec![self.versions[master]],
            (_, false) => vec![self.final_version(0), self.versions[master]],
        };
        for place in (1..self.replica_count).filter(|place| *place != master) {
            if families.len() >= usize::from(FAMILY_UNIQUE) {
                break;
            }
            let version = self.versions[place];
            let parents = (1..self.replica_count).filter(|other| *other != place);
            let has_parent = parents.map(|other| self.versions[other]);
            let has_parent = has_parent.into_iter().any(|v| !v.is_subset() && same_family(v, version));
            if self.duplicates.contains(&place) || version.is_subset() && !has_parent {
                families.push(version);
            }
        }
        families
    }

    /// The nodes that are signalled when all migrations are done.
    #[must_use]
    pub fn witnesses(&self) -> Vec<NodeId> {
        let is_witness = |place: &usize| *place < self.replica_count || !self.versions[*place].is_null();
        (1..self.nodes.len()).filter(is_witness).map(|place| self.nodes[place]).collect()
    }
}

/// Whether two copies have the same history: the same cluster key and the same family, unless the family is
/// the unique one.
fn same_family(left: PartitionVersion, right: PartitionVersion) -> bool {
    left.cluster_key() == right.cluster_key()
        && left.family() == right.family()
        && left.family() != FAMILY_UNIQUE
}

/// The place of the working master: the first place that was master, so that mastership does not move without
/// need, or a full copy of the same family before it. If no place was master, the best copy: full before
/// subset before evade.
fn working_master(versions: &[PartitionVersion]) -> Option<usize> {
    let was_master = |version: &PartitionVersion| version.has_data() && version.is_master();
    if let Some(place) = versions.iter().position(was_master) {
        let master = versions[place];
        if master.is_subset() {
            return Some(place);
        }
        let is_as_good = |version: &PartitionVersion| same_family(*version, master) && !version.is_subset();
        return Some(versions[..place].iter().position(is_as_good).unwrap_or(place));
    }
    let with_data = (0..versions.len()).filter(|place| versions[*place].has_data());
    // Of equal copies the first one is chosen.
    with_data.min_by_key(|place| {
        u8::from(versions[*place].is_subset()) + 2 * u8::from(versions[*place].is_evade())
    })
}

/// The places of the duplicates: one copy of each family, all copies of the unique family, and subsets of
/// families that have no full copy here.
fn duplicates(versions: &[PartitionVersion], master: usize) -> Vec<usize> {
    let mut places = Vec::new();
    let mut parents: Vec<PartitionVersion> = Vec::new();
    for (place, version) in versions.iter().enumerate() {
        if version.has_data() && !version.is_subset() {
            if version.family() == FAMILY_UNIQUE {
                places.push(place);
            } else if !parents.iter().any(|parent| same_family(*parent, *version)) {
                parents.push(*version);
                places.push(place);
            }
        }
    }
    let is_orphan = |version: &PartitionVersion| {
        version.is_subset() && !parents.iter().any(|parent| same_family(*parent, *version))
    };
    let orphans = versions.iter().enumerate().filter(|(_, version)| is_orphan(version));
    places.extend(orphans.map(|(place, _)| place));
    places.retain(|place| *place != master);
    places
}
