//! One token per forward pass: the baseline of every speed figure and the oracle of every other decoder.

use jacobi_model::Session;

use crate::{DecodeStats, response::Response};

pub(crate) fn decode(session: &mut dyn Session, response: &mut Response, stats: &mut DecodeStats) {
    while response.is_open() {
        let next = session.forward_greedy(&[response.last()], 0);
        stats.count(1);
        response.extend(&next);
    }
}
