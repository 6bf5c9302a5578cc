//! The routes of one host pattern, as a tree with one level per path segment.
//!
//! A node asks three questions, in the order of precedence: is the segment one of my literals, may it be my
//! parameter, have I a wildcard? The first answer that leads to a route is therefore the best one, and going on
//! after it gives all others, best first. `find` and `explain` share that one walk, so that they cannot disagree.
//!
//! The bound: it is a tree, and a walk enters a node at most once, at the depth of its segment. At each node only one
//! literal can fit, so a walk enters at most two children of a node. Hence no request costs more than
//! [`Tree::steps_max`], which is computed from the routes alone: it does not grow with the request. The router
//! refuses tables where it is large (see `STEPS_MAX` there). A step is one look-up among the literals of a node,
//! log2 of their number in comparisons.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::pattern::{PathPattern, PatternSegment, Tail};
use crate::http::target::Segments;

/// The place of a route in the router's table.
pub(super) type RouteIndex = usize;

/// A node, with everything below it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    literals: BTreeMap<Box<str>, Tree>,
    parameter: Option<Box<Tree>>,
    /// The route whose pattern ends here.
    end: Option<RouteIndex>,
    /// The route whose pattern goes on with a wildcard from here.
    wildcard: Option<RouteIndex>,
}

impl Tree {
    /// Adds a route. Where a pattern of the same shape is there already, it stays, and its route is the error.
    pub(super) fn insert(&mut self, pattern: &PathPattern, route: RouteIndex) -> Result<(), RouteIndex> {
        let mut node = self;
        for segment in pattern.segments() {
            node = match segment {
                PatternSegment::Literal(text) => node.literals.entry(text.clone()).or_default(),
                PatternSegment::Parameter(_) => node.parameter.get_or_insert_default(),
            };
        }
        let place = match pattern.tail() {
            Tail::End => &mut node.end,
            Tail::Wildcard => &mut node.wildcard,
        };
        match *place {
            Some(first) => Err(first),
            None => {
                *place = Some(route);
                Ok(())
            }
        }
    }

    /// Shows `visit` the routes that match, best first, until it breaks. Adds the nodes entered to `steps`.
    pub(super) fn walk<B>(
        &self,
        segments: &Segments<'_>,
        steps: &mut usize,
        visit: &mut impl FnMut(RouteIndex) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        *steps += 1;
        let mut rest = segments.clone();
        let Some(segment) = rest.next() else {
            return self.end.map_or(ControlFlow::Continue(()), visit);
        };
        if let Some(child) = self.literals.get(segment) {
            child.walk(&rest, steps, visit)?;
        }
        if let Some(child) = self.parameter.as_ref().filter(|_| !segment.is_empty()) {
            child.walk(&rest, steps, visit)?;
        }
        self.wildcard.map_or(ControlFlow::Continue(()), visit)
    }

    /// The most nodes that a walk can enter, whatever the request.
    pub(super) fn steps_max(&self) -> usize {
        let literals = self.literals.values().map(Self::steps_max).max().unwrap_or(0);
        let parameter = self.parameter.as_ref().map_or(0, |child| child.steps_max());
        1 + literals + parameter
    }

    /// One of the routes of the tree.
    pub(super) fn any_route(&self) -> Option<RouteIndex> {
        let children = self.literals.values().chain(self.parameter.as_deref());
        self.end.or(self.wildcard).or_else(|| children.into_iter().find_map(Self::any_route))
    }
}
