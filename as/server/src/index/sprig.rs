//! The set of elements of one sprig: a four-way digital search tree.
//!
//! An element hangs at the first free place on the path given by its digest, two bits a step, the most significant
//! first. So a search takes log₄ of the sprig's size, the tree is never rebalanced, and no choice of digests makes a
//! path longer than the 80 steps of 160 bits. The bits that choose partition and sprig are equal for all digests of a
//! sprig, so the path starts after them.
//!
//! Invariant: all digests of a subtree begin with the bits that lead to it. So of two children of an element, one holds
//! the greater digests; the element's own digest may lie anywhere among those of its subtree.

use cf::Digest;
use cf::arena::{Arena, Handle};
use cf::digest::DIGEST_SIZE;

use super::element::{Element, FANOUT};

/// Bits of a digest per step.
const STEP_BITS: u32 = FANOUT.trailing_zeros();
const STEPS_PER_BYTE: u32 = u8::BITS / STEP_BITS;
/// Steps of a whole digest, and so the most elements of a path.
pub(super) const STEP_COUNT: usize = DIGEST_SIZE * STEPS_PER_BYTE as usize;

/// The first step of the paths in a sprig whose digests have the first `common_bits` bits in common.
pub(super) const fn first_step(common_bits: u32) -> u32 {
    common_bits / STEP_BITS
}

/// The child to follow at `step`, counted from the start of the digest. Two different digests differ at some step.
#[inline]
fn branch(digest: &Digest, step: u32) -> usize {
    let byte = digest.0.get((step / STEPS_PER_BYTE) as usize).copied().unwrap_or_default();
    usize::from(byte >> (u8::BITS - STEP_BITS - step % STEPS_PER_BYTE * STEP_BITS)) % FANOUT
}

/// The greatest digest that equals `digest` before `step`.
fn greatest_below(digest: &Digest, step: u32) -> Digest {
    let mut greatest = *digest;
    let (byte, bits) = ((step / STEPS_PER_BYTE) as usize, step % STEPS_PER_BYTE * STEP_BITS);
    for (at, value) in greatest.0.iter_mut().enumerate().skip(byte) {
        *value |= if at == byte { u8::MAX >> bits } else { u8::MAX };
    }
    greatest
}

/// A sprig's tree, borrowed from its root and the arena. The caller holds the sprig's lock: shared for `&self` methods,
/// exclusive for `&mut self` methods and to change elements.
pub(super) struct SprigTree<'a> {
    pub(super) arena: &'a Arena<Element>,
    pub(super) root: Handle,
    /// The step at the root.
    pub(super) first_step: u32,
}

/// Result of a search.
pub(super) enum Found {
    Element(Handle),
    /// Not found; it would be child `branch` of `parent`, or the root if `parent` is null.
    Absent {
        parent: Handle,
        branch: usize,
    },
}

impl SprigTree<'_> {
    #[inline]
    #[expect(unsafe_code, reason = "elements are reached through the arena; the sprig lock guards them")]
    fn element(&self, handle: Handle) -> &Element {
        // SAFETY: the handle comes from this sprig's root or an element of it, so the arena gave it before the lock that
        // the caller holds was taken, and it is a live element that only holders of the sprig's lock change; those have
        // `&mut self`, which excludes this borrow.
        unsafe { self.arena.resolve(handle).as_ref() }
    }

    #[expect(unsafe_code, reason = "elements are reached through the arena; the sprig lock guards them")]
    fn set_children(&mut self, handle: Handle, children: [Handle; FANOUT]) {
        // SAFETY: as in `element`, and the caller of a `&mut self` method holds the lock exclusively. Only the
        // children are written, because other threads may read the digest.
        unsafe { (&raw mut (*self.arena.resolve(handle).as_ptr()).children).write(children) };
    }

    /// Makes `handle`, which the caller has just got from the arena, the element of `digest`, at the place that
    /// [`find`](Self::find) returned.
    #[expect(unsafe_code, reason = "elements are reached through the arena; the sprig lock guards them")]
    pub(super) fn insert(&mut self, (parent, branch): (Handle, usize), handle: Handle, digest: &Digest) {
        // SAFETY: the arena has given the handle to the caller, so no other thread changes the element. It is in no
        // tree yet, so no reference to it exists.
        unsafe { Element::begin(self.arena.resolve(handle), digest) };
        self.set_child(parent, branch, handle);
    }

    /// Looks for `digest`.
    #[inline]
    pub(super) fn find(&self, digest: &Digest) -> Found {
        let (mut parent, mut at, mut step, mut last_branch) = (Handle::NULL, self.root, self.first_step, 0);
        while !at.is_null() {
            let element = self.element(at);
            if element.is_of(digest) {
                return Found::Element(at);
            }
            last_branch = branch(digest, step);
            parent = at;
            at = element.children[last_branch];
            step += 1;
        }
        Found::Absent { parent, branch: last_branch }
    }

    /// Unlinks the element of `digest` and returns its handle. A leaf below it takes its place.
    pub(super) fn unlink(&mut self, digest: &Digest) -> Option<Handle> {
        let (mut parent, mut parent_branch, mut at, mut step) = (Handle::NULL, 0, self.root, self.first_step);
        loop {
            if at.is_null() {
                return None;
            }
            let element = self.element(at);
            if element.is_of(digest) {
                break;
            }
            (parent, parent_branch) = (at, branch(digest, step));
            at = element.children[parent_branch];
            step += 1;
        }
        let replacement = self.cut_leaf_below(at);
        if !replacement.is_null() {
            let children = self.element(at).children;
            self.set_children(replacement, children);
        }
        self.set_child(parent, parent_branch, replacement);
        Some(at)
    }

    /// Cuts a leaf off the subtree of `top` and returns its handle; null if `top` is a leaf itself.
    fn cut_leaf_below(&mut self, top: Handle) -> Handle {
        let (mut parent, mut parent_branch, mut at) = (Handle::NULL, 0, top);
        loop {
            let children = self.element(at).children;
            match children.iter().position(|child| !child.is_null()) {
                Some(next) => (parent, parent_branch, at) = (at, next, children[next]),
                None => break,
            }
        }
        if at == top {
            return Handle::NULL;
        }
        self.set_child(parent, parent_branch, Handle::NULL);
        at
    }

    fn set_child(&mut self, parent: Handle, branch: usize, child: Handle) {
        if parent.is_null() {
            self.root = child;
        } else {
            let mut children = self.element(parent).children;
            children[branch] = child;
            self.set_children(parent, children);
        }
    }

    /// Calls `visit` for each element, in no particular order.
    pub(super) fn for_each(&self, mut visit: impl FnMut(Handle, &Element)) {
        let mut pending = smallvec::SmallVec::<[Handle; 64]>::new();
        if !self.root.is_null() {
            pending.push(self.root);
        }
        while let Some(at) = pending.pop() {
            let element = self.element(at);
            visit(at, element);
            pending.extend(element.children.into_iter().filter(|child| !child.is_null()));
        }
    }

    /// Calls `visit` for elements whose digest is at most `bound`, `None` for all, subtrees of greater digests first.
    /// Ends after `visits_max` steps, more than [`STEP_COUNT`]; returns the greatest digest that may be left then. The
    /// next call visits elements up to that digest, some of them again: those on the path to the rest.
    pub(super) fn visit_falling(
        &self,
        bound: Option<&Digest>,
        visits_max: usize,
        mut visit: impl FnMut(&Element),
    ) -> Option<Digest> {
        debug_assert!(visits_max > STEP_COUNT);
        // A subtree, its step, and whether its digests begin like `bound` and so may exceed it.
        let mut pending = smallvec::SmallVec::<[(Handle, u32, bool); 64]>::new();
        if !self.root.is_null() {
            pending.push((self.root, self.first_step, bound.is_some()));
        }
        let mut visits = 0;
        while let Some((at, step, is_at_bound)) = pending.pop() {
            let (element, bound) = (self.element(at), bound.filter(|_| is_at_bound));
            if visits == visits_max {
                let greatest = greatest_below(element.digest(), step);
                return Some(bound.map_or(greatest, |bound| greatest.min(*bound)));
            }
            visits += 1;
            if bound.is_none_or(|bound| element.digest() <= bound) {
                visit(element);
            }
            let bound_branch = bound.map(|bound| branch(bound, step));
            for (at, child) in element.children.into_iter().enumerate() {
                if !child.is_null() && bound_branch.is_none_or(|last| at <= last) {
                    self.arena.prefetch(child);
                    pending.push((child, step + 1, bound_branch == Some(at)));
                }
            }
        }
        None
    }
}
