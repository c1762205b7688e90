//! The rows of a pass in groups. A task of the kernel computes one group under one key/value head.

use std::ops::Range;

use crate::{HeadShape, pass::Span};

/// Most queries of a group of cached rows.
const QUERIES_PER_GROUP: usize = 48;
/// Most rows of a group of uncached spans; they share the cache's widened keys and values.
const UNCACHED_ROWS_PER_GROUP: usize = 64;

/// Rows that see one cache and are computed together. Their keys and values are widened to fp32 as one matrix: those of
/// the cache, then those of uncached spans.
#[derive(Default)]
pub(crate) struct RowGroup {
    /// The number of the cache.
    pub(super) cache: usize,
    /// How many of the cache's tokens its rows see, at most.
    pub(super) reach: usize,
    pub(super) members: Vec<Member>,
    /// Number of rows of uncached spans.
    pub(super) uncached: usize,
}

/// Rows of one span in a group.
pub(super) struct Member {
    /// The number of the span.
    pub(super) span: usize,
    /// Rows of the span.
    pub(super) rows: Range<usize>,
    /// Where the keys of the span's rows start in the group's matrix.
    pub(super) own: usize,
}

/// Cuts long spans into several groups, and puts successive uncached spans of one cache into one.
pub(crate) fn row_groups(spans: &[Span], heads: HeadShape) -> Vec<RowGroup> {
    let most = (QUERIES_PER_GROUP / heads.group()).max(1);
    let mut groups: Vec<RowGroup> = Vec::new();
    for (number, span) in spans.iter().enumerate() {
        let rows = span.rows.len();
        if !span.uncached {
            groups.extend((0..rows).step_by(most).map(|first| {
                let rows = first..(first + most).min(rows);
                let reach = span.cached + span.own_reach(rows.end - 1);
                let members = vec![Member { span: number, rows, own: span.cached }];
                RowGroup { cache: span.cache, reach, members, uncached: 0 }
            }));
            continue;
        }
        let fits = |group: &&mut RowGroup| {
            group.cache == span.cache && group.rows() + rows <= UNCACHED_ROWS_PER_GROUP
        };
        let group = match groups.last_mut().filter(fits) {
            Some(group) => group,
            None => groups.push_mut(RowGroup { cache: span.cache, ..RowGroup::default() }),
        };
        group.reach = group.reach.max(span.cached);
        group.members.push(Member { span: number, rows: 0..rows, own: group.uncached });
        group.uncached += rows;
    }
    // Only now is it known where the keys of uncached spans start.
    for group in &mut groups {
        for member in group.members.iter_mut().filter(|member| spans[member.span].uncached) {
            member.own += group.reach;
        }
    }
    groups
}

impl RowGroup {
    fn rows(&self) -> usize {
        self.members.iter().map(|member| member.rows.len()).sum()
    }

    /// Pairs of a row and a key, at most.
    pub(super) fn pairs(&self, spans: &[Span]) -> usize {
        let pairs = |member: &Member| member.rows.len() * (spans[member.span].cached + member.rows.end);
        self.members.iter().map(pairs).sum()
    }
}
