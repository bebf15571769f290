//! Coverings: small sets of cells that together contain a region.
//!
//! The algorithm starts from a few cells and divides those that meet the region, largest first, until there
//! are too many. Stored cells and the order of queries depend on the result, so the order among cells of the
//! same size matters. It is that of a specific binary heap.

use super::Region;
use super::cell::Cell;
use super::cell_id::{CellId, LEVEL_MAX};
use crate::budget::Budget;

/// Price of dividing a cell, without the tests of the region.
const CANDIDATE_STEPS: u64 = 400;

/// The fineness of a covering.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Covering {
    /// Lowest level of cells, 0 to 30.
    pub level_min: u32,
    /// Highest level of cells, 0 to 30.
    pub level_max: u32,
    /// Step between allowed levels: 1, 2 or 3. Allowed levels are the lowest one and those a multiple of the
    /// step above it.
    pub level_step: u32,
    /// Largest number of cells; values below 6 count as 6.
    pub cells_max: usize,
}

/// Number of pending cells at which the computation gives up.
const PENDING_MAX: usize = 1 << 16;

impl Covering {
    /// The covering of regions that are stored.
    pub const STORED: Self = Covering { level_min: 1, level_max: LEVEL_MAX, level_step: 1, cells_max: 12 };

    /// Cells that contain `region`, in the order of their numbers. `None` if that needs more than is allowed,
    /// or if the budget is exhausted.
    pub(crate) fn of(&self, region: &Region, budget: &Budget<'_>) -> Option<Vec<CellId>> {
        let mut coverer =
            Coverer { options: self, region, found: Vec::new(), pending: Heap(Vec::new()), budget };
        coverer.run()?;
        let mut cells = coverer.found;
        normalize(&mut cells);
        let cells = self.denormalized(&cells);
        (cells.len() <= self.cells_max.max(6)).then_some(cells)
    }

    /// Up to `cells_max` cells that contain `region`. They are found without dividing a cell.
    fn first_cells(&self, region: &Region, budget: &Budget<'_>) -> Vec<CellId> {
        let mut cells = region.cell_bound(budget);
        for cell in &mut cells {
            *cell = cell.parent(cell.level().min(self.level_max));
        }
        normalize(&mut cells);
        while cells.len() > self.cells_max.min(4) {
            // This joins the two cells that are nearest to each other.
            let mut best: Option<(CellId, u32)> = None;
            for pair in cells.windows(2) {
                if let [a, b] = pair
                    && let Some(level) = a.common_level(*b)
                    && best.is_none_or(|(_, best_level)| level > best_level)
                {
                    best = Some((*a, level));
                }
            }
            let Some((cell, level)) = best else { break };
            let joined = cell.parent(level);
            cells.retain(|&cell| !joined.contains(cell));
            cells.push(joined);
            // This replaces four children by their cell.
            normalize(&mut cells);
        }
        for cell in &mut cells {
            let above = cell.level().saturating_sub(self.level_min);
            *cell = cell.parent(cell.level() - above % self.level_step);
        }
        normalize_without_joining(&mut cells);
        cells
    }

    /// The cells divided to the required levels.
    fn denormalized(&self, cells: &[CellId]) -> Vec<CellId> {
        let mut divided = Vec::with_capacity(cells.len());
        for &cell in cells {
            let mut level = cell.level().max(self.level_min);
            level += (LEVEL_MAX - (level - self.level_min)) % self.level_step;
            let level = level.min(LEVEL_MAX);
            let step = 1 << (2 * (LEVEL_MAX - level));
            let first = CellId(cell.range_min().0 + step - 1);
            divided.extend(std::iter::successors(Some(first), |id| {
                Some(id.next()).filter(|&next| cell.contains(next))
            }));
        }
        divided
    }
}

/// A cell that meets the region, and its descendants of the next allowed level that meet it.
struct Candidate {
    cell: Cell,
    /// Whether it must not be divided further.
    is_final: bool,
    children: Vec<Candidate>,
}

struct Coverer<'r> {
    options: &'r Covering,
    region: &'r Region,
    found: Vec<CellId>,
    pending: Heap,
    budget: &'r Budget<'r>,
}

impl Coverer<'_> {
    fn run(&mut self) -> Option<()> {
        for id in self.options.first_cells(self.region, self.budget) {
            if let Some(candidate) = self.candidate(Cell::new(id)) {
                self.add(candidate);
            }
        }
        while let Some(candidate) = self.pending.pop() {
            self.budget.draw(CANDIDATE_STEPS).ok()?;
            let count = self.found.len() + self.pending.0.len() + candidate.children.len();
            if candidate.cell.level() < self.options.level_min
                || candidate.children.len() == 1
                || count <= self.options.cells_max
            {
                candidate.children.into_iter().for_each(|child| self.add(child));
            } else {
                self.found.push(candidate.cell.id);
            }
            if self.found.len() + self.pending.0.len() > PENDING_MAX {
                return None;
            }
        }
        Some(())
    }

    fn candidate(&self, cell: Cell) -> Option<Candidate> {
        if !self.region.may_intersect(&cell, self.budget) {
            return None;
        }
        let is_final = cell.level() >= self.options.level_min
            && (cell.level() + self.options.level_step > self.options.level_max
                || self.region.contains_cell(&cell, self.budget));
        Some(Candidate { cell, is_final, children: Vec::new() })
    }

    fn add(&mut self, mut candidate: Candidate) {
        let level = candidate.cell.level();
        if candidate.is_final {
            self.found.push(candidate.cell.id);
            return;
        }
        // Up to the lowest level, the step is one level.
        let steps = if level < self.options.level_min { 1 } else { self.options.level_step };
        let cell = candidate.cell;
        let final_count = self.expand(&mut candidate.children, &cell, steps);
        let shift = 2 * self.options.level_step;
        if candidate.children.is_empty() {
        } else if final_count == 1 << shift && level >= self.options.level_min {
            self.found.push(candidate.cell.id);
        } else {
            // Large cells come first, then cells with few children, then cells with few final children.
            let order = ((level as usize) << shift) + candidate.children.len();
            self.pending.push((order << shift) + final_count, candidate);
        }
    }

    /// Adds the descendants of `cell` that are `steps` levels below it to `children`. Returns how many of
    /// them are final.
    fn expand(&self, children: &mut Vec<Candidate>, cell: &Cell, steps: u32) -> usize {
        let mut final_count = 0;
        for child in cell.children() {
            if steps > 1 {
                if self.region.may_intersect(&child, self.budget) {
                    final_count += self.expand(children, &child, steps - 1);
                }
            } else if let Some(child) = self.candidate(child) {
                final_count += usize::from(child.is_final);
                children.push(child);
            }
        }
        final_count
    }
}

/// A binary heap that returns the candidate with the smallest number first. Equal numbers come in the order
/// of the GNU C++ library's heap.
struct Heap(Vec<(usize, Candidate)>);

impl Heap {
    fn push(&mut self, order: usize, candidate: Candidate) {
        self.0.push((order, candidate));
        self.rise(self.0.len() - 1);
    }

    /// Moves an entry toward the top, past entries that it precedes.
    fn rise(&mut self, mut at: usize) {
        while at > 0 && self.0[at].0 < self.0[(at - 1) / 2].0 {
            self.0.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn pop(&mut self) -> Option<Candidate> {
        if self.0.is_empty() {
            return None;
        }
        let top = self.0.swap_remove(0);
        // The last entry sinks to the bottom, whatever its number is, along the entries that come first (of
        // equal entries the right one), and then rises to its place.
        let count = self.0.len();
        let mut at = 0;
        loop {
            let right = 2 * at + 2;
            let next = match () {
                () if right < count && self.0[right - 1].0 < self.0[right].0 => right - 1,
                () if right < count => right,
                () if right == count => right - 1,
                () => break,
            };
            self.0.swap(at, next);
            at = next;
        }
        self.rise(at);
        Some(top.1)
    }
}

/// Sorts cells, drops cells within others, and joins four cells that make up one.
fn normalize(cells: &mut Vec<CellId>) {
    normalize_without_joining(cells);
    let mut joined: Vec<CellId> = Vec::with_capacity(cells.len());
    for &cell in cells.iter() {
        let mut cell = cell;
        while let [.., a, b, c] = joined[..]
            && cell.level() > 0
            && [a, b, c, cell] == [0, 1, 2, 3].map(|place| cell.parent(cell.level() - 1).child(place))
        {
            joined.truncate(joined.len() - 3);
            cell = cell.parent(cell.level() - 1);
        }
        joined.push(cell);
    }
    *cells = joined;
}

fn normalize_without_joining(cells: &mut Vec<CellId>) {
    cells.sort_unstable();
    let mut kept: Vec<CellId> = Vec::with_capacity(cells.len());
    for &cell in cells.iter() {
        if kept.last().is_some_and(|last| last.contains(cell)) {
            continue;
        }
        while kept.last().is_some_and(|&last| cell.contains(last)) {
            kept.pop();
        }
        kept.push(cell);
    }
    *cells = kept;
}
