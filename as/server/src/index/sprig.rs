//! The set of elements of one sprig: a four-way digital search tree.
//!
//! An element hangs at the first free place on the path that its digest spells, two bits a step. So a search takes
//! log₄ of the sprig's size, nothing is ever rebalanced, and no choice of digests makes a path longer than the 80
//! steps that 160 bits have. The bits that choose partition and sprig are all alike in a sprig, so the path starts
//! with the others.
//!
//! The tree is not ordered by digest; whoever wants order sorts a sprig's digests, of which there are few.

use cf::Digest;
use cf::arena::{Arena, Handle};

use super::element::{Element, FANOUT};

/// First digest byte of the path; the bytes before choose partition and sprig, and end the path.
const PATH_START: usize = 5;
const BITS_PER_STEP: u32 = FANOUT.trailing_zeros();
const STEPS_PER_BYTE: u32 = u8::BITS / BITS_PER_STEP;

/// The child to follow at `depth`. Two different digests differ at some depth below 80.
#[inline]
fn branch(digest: &Digest, depth: u32) -> usize {
    let byte = (PATH_START + (depth / STEPS_PER_BYTE) as usize) % digest.0.len();
    usize::from(digest.0[byte] >> (depth % STEPS_PER_BYTE * BITS_PER_STEP)) % FANOUT
}

/// A sprig's tree, borrowed from its root and the arena. The caller holds the sprig's lock: shared to use `&self`
/// methods, exclusively to use `&mut self` ones and to change elements.
pub(super) struct SprigTree<'a> {
    pub(super) arena: &'a Arena<Element>,
    pub(super) root: Handle,
}

/// Where a search ended.
pub(super) enum Found {
    Element(Handle),
    /// Not there; it would be child `branch` of `parent`, or the root if `parent` is null.
    Absent {
        parent: Handle,
        branch: usize,
    },
}

impl SprigTree<'_> {
    #[inline]
    #[expect(unsafe_code, reason = "elements are reached through the arena; the sprig lock guards them")]
    pub(super) fn element(&self, handle: Handle) -> &Element {
        // SAFETY: the handle comes from this sprig's root or an element of it, so it is a live element that only holders
        // of the sprig's lock touch; writers have `&mut self`, which excludes this borrow.
        unsafe { self.arena.resolve(handle).as_ref() }
    }

    #[inline]
    #[expect(unsafe_code, reason = "elements are reached through the arena; the sprig lock guards them")]
    pub(super) fn element_mut(&mut self, handle: Handle) -> &mut Element {
        // SAFETY: as above, and the caller of a `&mut self` method holds the lock exclusively.
        unsafe { self.arena.resolve(handle).as_mut() }
    }

    /// Looks for `digest`.
    #[inline]
    pub(super) fn find(&self, digest: &Digest) -> Found {
        let (mut parent, mut at, mut depth, mut last_branch) = (Handle::NULL, self.root, 0, 0);
        while !at.is_null() {
            let element = self.element(at);
            if element.digest == *digest {
                return Found::Element(at);
            }
            last_branch = branch(digest, depth);
            parent = at;
            at = element.children[last_branch];
            depth += 1;
        }
        Found::Absent { parent, branch: last_branch }
    }

    /// Hangs the new element `handle` at the place that [`find`](Self::find) gave.
    pub(super) fn link(&mut self, parent: Handle, branch: usize, handle: Handle) {
        self.set_child(parent, branch, handle);
    }

    /// Takes the element of `digest` out of the tree and gives its handle. Some leaf below it takes its place.
    pub(super) fn unlink(&mut self, digest: &Digest) -> Option<Handle> {
        let (mut parent, mut parent_branch, mut at, mut depth) = (Handle::NULL, 0, self.root, 0);
        loop {
            if at.is_null() {
                return None;
            }
            let element = self.element(at);
            if element.digest == *digest {
                break;
            }
            (parent, parent_branch) = (at, branch(digest, depth));
            at = element.children[parent_branch];
            depth += 1;
        }
        let replacement = self.cut_leaf_below(at);
        if !replacement.is_null() {
            let children = self.element(at).children;
            self.element_mut(replacement).children = children;
        }
        self.set_child(parent, parent_branch, replacement);
        Some(at)
    }

    /// Cuts some leaf off the subtree of `top` and gives its handle; null when `top` is a leaf itself.
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
            self.element_mut(parent).children[branch] = child;
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
}
