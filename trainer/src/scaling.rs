//! What training on many ranks would take, on paper: bytes that travel, memory, and time of a step, for each way of sharing
//! state. From the forecast of one rank, the speed of the links, and what the code sends (`shards.rs`).

use std::fmt;

use jacobi_model::Architecture;
use tch::Kind;

use crate::{Footprint, Forecast, Sharding, TrainConfig};

/// Ranks and what is between them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cluster {
    /// How many ranks.
    pub ranks: usize,
    /// Bits per second that a rank sends, and at the same time receives.
    pub link: f64,
    /// FLOP/s of a rank's matrix products; as measured on this machine if not said.
    pub peak: Option<f64>,
    /// Whether gradients reach their owner by being summed for all, as Gloo does it.
    pub gloo: bool,
}

/// One way of sharing state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScaledStep {
    /// Which.
    pub sharding: Sharding,
    /// Bytes that each rank sends per step, and as many it receives.
    pub sent: f64,
    /// Bytes on each rank at the peak.
    pub memory: f64,
    /// Seconds of a step if all traffic hides behind the work.
    pub fastest: f64,
    /// Seconds of a step if none does.
    pub slowest: f64,
}

/// Every way of sharing state on a cluster.
#[derive(Clone, Debug)]
pub struct Scaling {
    /// Where.
    pub cluster: Cluster,
    /// Forward passes of each rank per step.
    pub passes: usize,
    /// A line for each.
    pub steps: Vec<ScaledStep>,
}

impl Scaling {
    /// For the run that `forecast` is of.
    pub fn new(
        shape: &Architecture,
        kind: Kind,
        config: &TrainConfig,
        forecast: &Forecast,
        cluster: Cluster,
    ) -> Self {
        let ranks = cluster.ranks as f64;
        let faster = cluster.peak.map_or(1.0, |peak| forecast.peak / peak);
        let work = forecast.seconds / forecast.steps.max(1) as f64 / ranks * faster;
        let own_tokens = (forecast.tokens_per_step / ranks).ceil() as usize;
        let passes = own_tokens.div_ceil(config.tokens_per_row).max(1);
        let step = |sharding| {
            let sent = sent_per_parameter(sharding, kind, &cluster, passes) * shape.parameter_count() as f64;
            let travel = 8.0 * sent / cluster.link;
            ScaledStep {
                sharding,
                sent,
                memory: memory(&forecast.footprint, sharding, shape, kind, ranks),
                fastest: work.max(travel),
                slowest: work + travel,
            }
        };
        let all = [Sharding::None, Sharding::Optimizer, Sharding::Gradients, Sharding::Parameters];
        Self { cluster, passes, steps: all.map(step).into() }
    }
}

/// Bytes that a rank sends per parameter and step: (W - 1) / W of what it has, once to spread it or to gather it, twice to
/// sum it for all.
pub(crate) fn sent_per_parameter(sharding: Sharding, kind: Kind, cluster: &Cluster, passes: usize) -> f64 {
    let part = (cluster.ranks - 1) as f64 / cluster.ranks as f64;
    let (size, passes) = (kind.elt_size_in_bytes() as f64, passes as f64);
    let to_all = 2.0 * 4.0;
    let to_owner = if cluster.gloo { to_all } else { 4.0 };
    part * match sharding {
        Sharding::None => to_all,
        Sharding::Optimizer => to_owner + size,
        Sharding::Gradients => passes * to_owner + size,
        Sharding::Parameters => passes * (to_owner + 2.0 * size),
    }
}

/// What of the footprint of one rank is left on each.
fn memory(one: &Footprint, sharding: Sharding, shape: &Architecture, kind: Kind, ranks: f64) -> f64 {
    // The largest bucket is what there is whole of shared gradients and parameters: twice, one being on its way.
    let embedding = (shape.vocab_size * shape.hidden_size) as f64;
    let layers = (shape.parameter_count() as f64 - embedding) / shape.num_hidden_layers as f64;
    let largest = 2.0 * embedding.max(layers);
    let share = |bytes: f64, is_shared: bool| if is_shared { bytes / ranks } else { bytes };
    let [optimizer, gradients, parameters] = match sharding {
        Sharding::None => [false; 3],
        Sharding::Optimizer => [true, false, false],
        Sharding::Gradients => [true, true, false],
        Sharding::Parameters => [true; 3],
    };
    let whole_gradients = if gradients { 4.0 * largest } else { 0.0 };
    // Summed gradients of the own share lie beside the whole ones.
    let summed = if optimizer && !gradients { one.gradients / ranks } else { 0.0 };
    let whole_parameters = if parameters { largest * kind.elt_size_in_bytes() as f64 } else { 0.0 };
    one.runtime
        + one.activations
        + share(one.parameters, parameters)
        + whole_parameters
        + share(one.gradients, gradients)
        + whole_gradients
        + summed
        + share(one.masters + one.moments, optimizer)
}

impl fmt::Display for Scaling {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Cluster { ranks, link, .. } = self.cluster;
        writeln!(
            f,
            "on {ranks} ranks with {:.0} Gbit/s each, {} passes of each per step:",
            link / 1e9,
            self.passes
        )?;
        write!(f, "  sharding    sent by each   memory of each   a step, traffic hidden .. not hidden")?;
        for step in &self.steps {
            let ScaledStep { sharding, sent, memory, fastest, slowest } = step;
            let name = format!("{sharding:?}").to_lowercase();
            write!(
                f,
                "\n  {name:<10} {:>10.2} GB {:>13.2} GB   {fastest:>9.3} s .. {slowest:.3} s",
                sent / 1e9,
                memory / 1e9
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_travels_is_what_the_code_sends() {
        let nccl = Cluster { ranks: 4, link: 1e9, peak: None, gloo: false };
        let rows = [
            (Sharding::None, 1, 6.0),
            (Sharding::None, 3, 6.0),
            (Sharding::Optimizer, 3, 4.5),
            (Sharding::Gradients, 1, 4.5),
            (Sharding::Gradients, 3, 10.5),
            (Sharding::Parameters, 1, 6.0),
            (Sharding::Parameters, 3, 18.0),
        ];
        for (sharding, passes, expected) in rows {
            assert_eq!(sent_per_parameter(sharding, Kind::BFloat16, &nccl, passes), expected, "{sharding:?}");
        }
        let gloo = Cluster { gloo: true, ..nccl };
        assert_eq!(sent_per_parameter(Sharding::Optimizer, Kind::Float, &gloo, 1), 9.0);
        let alone = Cluster { ranks: 1, ..nccl };
        assert_eq!(sent_per_parameter(Sharding::Parameters, Kind::Float, &alone, 9), 0.0);
    }
}
