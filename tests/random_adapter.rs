//! An adapter with random matrices, for the tests of the command line.

use std::path::Path;

use jacobi_model::{Adapter, AdapterBase, AdapterConfig, Device, Dtype, Target, load};

/// Writes an adapter for the model in `base`, which it calls `name`, into `dir`.
pub fn save(base: &Path, name: &str, dir: &Path) {
    let base = load(base, Dtype::Float32).unwrap();
    let config = AdapterConfig { rank: 2, alpha: 4.0, targets: vec![Target::QProj, Target::DownProj] };
    let adapter = Adapter::new(base.transformer.architecture(), config, 1, Device::Cpu);
    for (_, parameter) in adapter.parameters().iter().filter(|(name, _)| name.contains("lora_B")) {
        let _ = parameter.shallow_clone().normal_(0.0, 0.1);
    }
    adapter.save(dir, &AdapterBase { name: name.into(), weight_hash: base.weight_hash().unwrap() }).unwrap();
}
