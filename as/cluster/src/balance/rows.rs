//! Adjusts the sequences: quiesced nodes last, replicas on different racks, masters in the active rack, and
//! equally many partitions for every node.
//!
//! The order of steps is that of the C server's Enterprise Edition: quiesced nodes go to the end, then either
//! uniform balance, which honours racks, or rack awareness alone, then the active rack. The algorithms are
//! our own. They give the same result on every node, because they depend only on the succession list and the
//! exchanged data. Nodes of the Community Edition do not support these adjustments, so the exchange enables
//! them only if all members are nodes of this server.

use super::NamespaceView;
use super::sequence::Row;

/// The number of a rack; 0 means none.
pub type RackId = u32;

/// The adjustments of a namespace.
#[derive(Clone, Debug)]
pub struct Adjustments {
    /// Indexed by member.
    racks: Vec<RackId>,
    /// Indexed by member; all false if all members are quiesced.
    quiesced: Vec<bool>,
    /// Number of different racks of members that are not quiesced.
    rack_count: usize,
    is_uniform: bool,
    active_rack: RackId,
}

impl Adjustments {
    /// The adjustments of the namespace `view`.
    #[must_use]
    pub fn of(view: &NamespaceView) -> Self {
        let racks: Vec<RackId> = view.members.iter().map(|member| member.rack).collect();
        let mut quiesced: Vec<bool> = view.members.iter().map(|member| member.is_quiesced).collect();
        if quiesced.iter().all(|is_quiesced| *is_quiesced) {
            quiesced.fill(false);
        }
        let active = racks.iter().zip(&quiesced).filter(|(_, is_quiesced)| !**is_quiesced);
        let mut different: Vec<RackId> = active.map(|(rack, _)| *rack).collect();
        different.sort_unstable();
        different.dedup();
        let rack_count = different.len();
        // Otherwise one rack for all masters would contradict replicas on all racks.
        let keeps_active_rack =
            rack_count <= view.replication_factor && different.contains(&view.active_rack);
        let active_rack = if keeps_active_rack { view.active_rack } else { 0 };
        Adjustments { racks, quiesced, rack_count, is_uniform: view.is_uniform, active_rack }
    }

    /// Number of members that are not quiesced.
    #[must_use]
    pub fn active_size(&self) -> usize {
        self.quiesced.iter().filter(|is_quiesced| !**is_quiesced).count()
    }

    /// The rack in effect for all masters, or 0.
    #[must_use]
    pub fn active_rack(&self) -> RackId {
        self.active_rack
    }

    /// Adjusts the rows of all partitions for `replicas` replicas.
    pub fn apply(&self, rows: &mut [Row], replicas: usize) {
        if self.quiesced.contains(&true) {
            // The sort is stable: both halves keep their order.
            rows.iter_mut().for_each(|row| row.sort_by_key(|index| self.quiesced[usize::from(*index)]));
        }
        if self.is_uniform {
            (0..replicas).for_each(|column| self.make_uniform(rows, column));
            return;
        }
        if self.active_rack != 0 {
            rows.iter_mut().for_each(|row| self.choose(row, 0, |rack| rack == self.active_rack));
        }
        if self.rack_count > 1 {
            for row in rows {
                for column in 1..replicas {
                    let used = self.racks_before(row, column);
                    self.choose(row, column, |rack| !used.contains(&rack));
                }
            }
        }
    }

    /// Moves the first active node with an accepted rack to `column`, and the nodes in between one place back.
    fn choose(&self, row: &mut [u8], column: usize, will_do: impl Fn(RackId) -> bool) {
        let fits =
            |index: &u8| !self.quiesced[usize::from(*index)] && will_do(self.racks[usize::from(*index)]);
        if let Some(distance) = row[column..].iter().position(fits) {
            row[column..=column + distance].rotate_right(1);
        }
    }

    fn racks_before(&self, row: &[u8], column: usize) -> Vec<RackId> {
        row[..column].iter().map(|index| self.racks[usize::from(*index)]).collect()
    }

    /// Whether a member may be in `column`: masters only in the active rack, and no rack twice while another
    /// is left.
    fn is_allowed(&self, row: &[u8], column: usize, index: u8) -> bool {
        let rack = self.racks[usize::from(index)];
        if self.quiesced[usize::from(index)] {
            return false;
        }
        if column == 0 {
            return self.active_rack == 0 || rack == self.active_rack;
        }
        let used = self.racks_before(row, column);
        let all_used =
            self.racks.iter().zip(&self.quiesced).all(|(rack, quiesced)| *quiesced || used.contains(rack));
        all_used || !used.contains(&rack)
    }

    /// Gives every node equally many partitions in `column`: each partition goes to the first node of its
    /// sequence that has not reached its share. Exchanges between partitions then even out the differences
    /// that racks and earlier columns cause.
    fn make_uniform(&self, rows: &mut [Row], column: usize) {
        let share = self.shares(rows.len(), column);
        let mut claims = vec![0usize; self.racks.len()];
        for row in rows.iter_mut() {
            let candidates = (column..row.len()).filter(|at| self.is_allowed(row, column, row[*at]));
            let candidates: Vec<usize> = candidates.collect();
            let claim = |at: &usize| claims[usize::from(row[*at])];
            let below_share = candidates.iter().find(|at| claim(at) < share[usize::from(row[**at])]);
            let least = || candidates.iter().min_by_key(|at| claim(at));
            let at = below_share.or_else(least).copied().unwrap_or(column);
            row[column..=at].rotate_right(1);
            claims[usize::from(row[column])] += 1;
        }
        self.even_out(rows, column, &mut claims);
    }

    /// Each node's share of partitions in a column; the first nodes of the succession list get the remainder.
    fn shares(&self, partition_count: usize, column: usize) -> Vec<usize> {
        let is_choice = |index: usize| {
            let in_rack = column != 0 || self.active_rack == 0 || self.racks[index] == self.active_rack;
            !self.quiesced[index] && in_rack
        };
        let choices = (0..self.racks.len()).filter(|index| is_choice(*index)).count().max(1);
        let mut remainder = partition_count % choices;
        let share = |index| {
            let extra = usize::from(is_choice(index) && remainder > 0);
            remainder -= extra;
            if is_choice(index) { partition_count / choices + extra } else { 0 }
        };
        (0..self.racks.len()).map(share).collect()
    }

    /// Moves partitions from nodes with the most of a column to those with the fewest, as far as racks and
    /// earlier columns allow, until their numbers differ by at most one.
    fn even_out(&self, rows: &mut [Row], column: usize, claims: &mut [usize]) {
        let mut blocked: Vec<(u8, u8)> = Vec::new();
        loop {
            let active = (0..claims.len() as u16).map(|index| index as u8);
            let active: Vec<u8> = active.filter(|index| !self.quiesced[usize::from(*index)]).collect();
            let pairs = active.iter().flat_map(|high| active.iter().map(move |low| (*high, *low)));
            let gap =
                |(high, low): (u8, u8)| claims[usize::from(high)].saturating_sub(claims[usize::from(low)]);
            let widest =
                pairs.filter(|pair| gap(*pair) > 1 && !blocked.contains(pair)).max_by_key(|pair| gap(*pair));
            let Some((high, low)) = widest else { return };
            let movable = rows.iter_mut().find_map(|row| {
                let at = row.iter().position(|index| *index == low)?;
                let fits = row[column] == high && at > column && self.is_allowed(row, column, low);
                fits.then_some((row, at))
            });
            match movable {
                Some((row, at)) => {
                    row.swap(column, at);
                    claims[usize::from(high)] -= 1;
                    claims[usize::from(low)] += 1;
                }
                None => blocked.push((high, low)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::peer::{ClusterKey, NodeId};

    use super::super::{Member, PARTITIONS};
    use super::*;

    fn view(racks: &[RackId], replication_factor: usize) -> NamespaceView {
        let members = racks.iter().enumerate().map(|(index, rack)| Member {
            node: NodeId(0xBB9_0000 + 1000 - index as u64 * 17),
            rack: *rack,
            is_quiesced: false,
            versions: Vec::new(),
        });
        NamespaceView {
            cluster_key: ClusterKey(7),
            members: members.collect(),
            replication_factor,
            is_uniform: false,
            active_rack: 0,
        }
    }

    fn counts(rows: &[Row], column: usize, members: usize) -> Vec<usize> {
        let mut counts = vec![0; members];
        rows.iter().for_each(|row| counts[usize::from(row[column])] += 1);
        counts
    }

    fn rows_are_sound(rows: &[Row], members: usize) {
        for row in rows {
            let mut sorted = row.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..members as u8).collect::<Vec<_>>(), "each member once");
        }
    }

    #[test]
    fn replicas_are_on_different_racks() {
        for racks in [&[1, 1, 2, 2, 3][..], &[1, 1, 1, 2], &[0, 5, 5, 5, 9, 9]] {
            let different = racks.iter().collect::<std::collections::BTreeSet<_>>().len();
            for replication_factor in 2..=racks.len() {
                for is_uniform in [false, true] {
                    let view = NamespaceView { is_uniform, ..view(racks, replication_factor) };
                    let rows = view.rows(PARTITIONS);
                    rows_are_sound(&rows, racks.len());
                    for row in &rows {
                        let mut seen: Vec<_> =
                            row[..replication_factor].iter().map(|i| racks[usize::from(*i)]).collect();
                        seen.sort_unstable();
                        seen.dedup();
                        assert_eq!(seen.len(), different.min(replication_factor), "{racks:?} {row:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn uniform_columns_differ_by_one_at_most() {
        for members in 1..=12 {
            let view = NamespaceView { is_uniform: true, ..view(&vec![0; members], 3) };
            let rows = view.rows(PARTITIONS);
            rows_are_sound(&rows, members);
            for column in 0..view.effective_replication_factor() {
                let counts = counts(&rows, column, members);
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                assert!(most - least <= 1, "{members} members, column {column}: {counts:?}");
            }
        }
    }

    #[test]
    fn a_member_that_leaves_for_good_moves_few_partitions_of_others() {
        let mut large = NamespaceView { is_uniform: true, ..view(&[0; 6], 2) };
        let before = large.rows(PARTITIONS);
        large.members.pop();
        let after = large.rows(PARTITIONS);
        let moved =
            before.iter().zip(&after).filter(|(before, after)| before[0] != 5 && before[0] != after[0]);
        assert!(moved.count() < PARTITIONS / 4);
    }

    #[test]
    fn masters_are_in_the_active_rack() {
        let three_racks = view(&[1, 2, 3], 2);
        for is_uniform in [false, true] {
            let view = NamespaceView { is_uniform, active_rack: 2, ..view(&[1, 1, 2, 2], 2) };
            let rows = view.rows(PARTITIONS);
            rows_are_sound(&rows, 4);
            assert!(rows.iter().all(|row| row[0] >= 2 && row[1] < 2));
            // With more racks than replicas the active rack has no effect.
            let view = NamespaceView { active_rack: 2, ..three_racks.clone() };
            assert_eq!(Adjustments::of(&view).active_rack(), 0);
        }
    }

    #[test]
    fn quiesced_nodes_are_last_and_keep_no_replica() {
        for is_uniform in [false, true] {
            let mut view = NamespaceView { is_uniform, ..view(&[1, 2, 1, 2], 2) };
            view.members[1].is_quiesced = true;
            let rows = view.rows(PARTITIONS);
            rows_are_sound(&rows, 4);
            assert!(rows.iter().all(|row| row[3] == 1));
            view.members.iter_mut().for_each(|member| member.is_quiesced = true);
            assert_eq!(Adjustments::of(&view).active_size(), 4, "not all can be quiesced");
        }
    }
}
