//! `jacobi serve`: a model behind an OpenAI-compatible endpoint.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use jacobi_datasets::schema::eval_row::decoder_label;
use jacobi_datasets::schema::tuned::TUNED_FILE;
use jacobi_decoder::{DecoderConfig, DecoderName, Room, StopRules};
use jacobi_model::{Compute, Device, DeviceChoice, LanguageModel, cache_budget, gpu_memory};
use serde_json::Value;

use super::decode::{DtypeName, decoder_name};
use crate::adapter::ModelDirs;
use crate::decoding::Engine;
use crate::device::{self, GraphArgs};
use crate::exit::UsageError;
use crate::output;
use crate::serving::{self, Metrics, Serving, router};
use crate::signals::Stop;

/// Interval between checks for a signal.
const POLL: Duration = Duration::from_millis(50);

/// Maximum wait at shutdown for a running pass.
const LAST_PASS: Duration = Duration::from_secs(10);

/// Target rows of a pass: wider passes delay every answer and gain nothing.
const PASS_ROWS: usize = 512;

/// Serve a model over HTTP, as OpenAI's API
///
/// /v1/chat/completions and /v1/completions (streaming too), /v1/models, /health, /metrics for Prometheus, and a page at /
/// that shows one prompt under two decoders. After Ctrl-C or SIGTERM it accepts no new requests, finishes those it has,
/// and ends.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// The model: a local Hugging Face directory, or ORG/NAME@REVISION of the hub
    #[arg(long, short, value_name = "DIR", required_unless_present = "adapter")]
    model: Option<PathBuf>,
    /// A draft adapter for the model: a directory of PEFT, or ORG/NAME@REVISION of the hub; without --model it names its base.
    /// Answers stay the base model's
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// The model's name for clients [default: the value of --model, else of --adapter]
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    /// The decoder [default: the one in the jacobi.json of the model or adapter, else jacobi]
    #[arg(long, value_parser = decoder_name())]
    decoder: Option<DecoderName>,
    /// The address to listen on. Other machines can connect unless it is a loopback address: set an API key
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: IpAddr,
    /// The port; 0 chooses a free one
    #[arg(long, default_value_t = 8000, value_name = "PORT")]
    port: u16,
    /// API key: clients must send `Authorization: Bearer KEY` [default: none]
    #[arg(long, env = "JACOBI_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    /// Maximum answers in a batch
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    slots: u32,
    /// Maximum answers that wait for a slot; more are refused with status 429
    #[arg(long, default_value_t = 256, value_name = "N")]
    max_queue: u32,
    /// Maximum tokens of a prompt and its answer together [default: the model's context, limited by --memory-budget-gb]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(2..))]
    max_context: Option<u32>,
    /// Maximum gigabytes of the KV caches of all slots [default: 4 on a CPU, three quarters of a GPU's free memory]
    #[arg(long, value_name = "GB")]
    memory_budget_gb: Option<f64>,
    /// Maximum bytes of a request's body; larger ones are refused with status 413
    #[arg(long, default_value_t = 1 << 20, value_name = "BYTES")]
    max_body: usize,
    /// Maximum seconds to finish answers after a signal
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    grace: u32,
    /// The dtype to compute in
    #[arg(long, value_enum, default_value_t = DtypeName::Auto)]
    dtype: DtypeName,
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value_t, value_name = "DEVICE")]
    device: DeviceChoice,
    #[command(flatten)]
    graphs: GraphArgs,
}

fn default_budget(device: Device) -> f64 {
    cache_budget(gpu_memory(device).map(|memory| memory.free))
}

/// Serves until a signal.
///
/// # Errors
/// A model that does not load, an address in use, a memory budget too small for a prompt.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let dirs = ModelDirs::find(args.model.as_deref(), args.adapter.as_deref())?;
    dirs.check()?;
    let decoder = args.decoder(&dirs)?;
    let compute =
        Compute { dtype: args.dtype.into(), device: device::choose(args.device, !args.graphs.no_graphs)? };
    let (model, tokenizer) = Engine::load_adapted(&dirs, compute)?.into_parts();
    let budget = args.memory_budget_gb.map_or_else(|| default_budget(compute.device), |gb| gb * 1e9);
    let serving = args.serving(&*model, &decoder, budget)?;
    let stop = Stop::quietly()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let address = SocketAddr::new(args.host, args.port);
        let listener = tokio::net::TcpListener::bind(address);
        let listener =
            listener.await.with_context(|| format!("cannot listen on {address}: choose another --port, or an address of this machine as --host"))?;
        output::status(&format!(
            "serve: {} at http://{}, {}, {} answers at a time, {} tokens each",
            serving.model,
            listener.local_addr()?,
            serving.label,
            serving.room.slots,
            serving.context
        ));
        let metrics = Arc::new(Metrics::default());
        let (engine, mut ended) = serving::Engine::start(model, serving.room, metrics.clone());
        // Leaked: the tokenizer is needed until the process ends.
        let app = router(serving, engine, Box::leak(Box::new(tokenizer)), metrics);
        let stopped = || async {
            while !stop.flag().load(Ordering::SeqCst) {
                tokio::time::sleep(POLL).await;
            }
        };
        let overdue = async {
            stopped().await;
            tokio::time::sleep(Duration::from_secs(args.grace.into())).await;
        };
        let (signal, asked) = tokio::sync::oneshot::channel::<()>();
        let server = axum::serve(listener, app).with_graceful_shutdown(async {
            // Resolves when `signal` is dropped.
            let _ = asked.await;
        });
        let tell = async {
            stopped().await;
            output::status("serve: stopping; accepted requests are finished first");
            drop(signal);
        };
        tokio::select! {
            (served, ()) = async { tokio::join!(server.into_future(), tell) } => {
                served?;
                // The thread may still run a pass; libtorch must not be torn down under it.
                let _ = tokio::time::timeout(LAST_PASS, &mut ended).await;
                Ok(())
            }
            _ = &mut ended => {
                anyhow::bail!(
                    "the model's thread has ended, for the reason printed above; if memory ran out, lower --slots or \
                     --max-context"
                )
            }
            () = overdue => {
                output::status("serve: stopped; some answers were interrupted");
                Ok(())
            }
        }
    })
}

impl ServeArgs {
    /// The decoder from the options or from jacobi.json; without either, the default with a message.
    fn decoder(&self, dirs: &ModelDirs) -> anyhow::Result<DecoderConfig> {
        if let Some(name) = self.decoder {
            return Ok(DecoderConfig { name, ..DecoderConfig::default() });
        }
        Ok(jacobi_eval::tuned(dirs.tuned())?.unwrap_or_else(|| {
            let (what, hint) = match dirs.adapter {
                Some(_) => ("adapter", ""),
                None => ("model", ". A model that was not post-trained gains little"),
            };
            output::status(&format!(
                "serve: the {what} has no {TUNED_FILE}: decoding as `jacobi` with n = 16; `jacobi tune` finds the fastest \
                 decoder for this machine{hint}"
            ));
            DecoderConfig { name: DecoderName::Jacobi, ..DecoderConfig::default() }
        }))
    }

    /// The model's name for clients.
    fn name(&self) -> String {
        let given = self.model.as_ref().or(self.adapter.as_ref());
        let dir = || given.map_or_else(String::new, |dir| dir.display().to_string());
        self.served_model_name.clone().unwrap_or_else(dir)
    }

    /// `budget`: bytes of the KV caches.
    fn serving(
        &self,
        model: &dyn LanguageModel,
        decoder: &DecoderConfig,
        budget: f64,
    ) -> anyhow::Result<Serving> {
        if self.api_key.as_ref().is_some_and(String::is_empty) {
            return Err(UsageError("the API key is empty: give another, or leave it out".into()).into());
        }
        let max_rows = decoder.strategy(0)?.max_rows();
        let slots = self.slots as usize;
        let gb = budget / 1e9;
        let tokens = budget / (slots * model.cache_bytes_per_token()) as f64;
        let fits = (tokens as usize).saturating_sub(max_rows);
        let whole = model.context_length();
        let context = match self.max_context {
            Some(asked) if asked as usize > whole => {
                return Err(UsageError(format!(
                    "--max-context is {asked}; give at most {whole}, the model's context, or leave it out"
                ))
                .into());
            }
            Some(asked) if asked as usize > fits => {
                return Err(UsageError(format!(
                    "--max-context is {asked}; {slots} slots of {fits} tokens fit into {gb} GB: lower --slots, or raise \
                     --memory-budget-gb"
                ))
                .into());
            }
            Some(asked) => asked as usize,
            None => whole.min(fits),
        };
        if context < 2 {
            return Err(UsageError(format!(
                "--memory-budget-gb {gb} is too small for {slots} slots: lower --slots, or raise it"
            ))
            .into());
        }
        let Value::Object(shown) = serde_json::to_value(decoder)? else {
            unreachable!("a decoder's settings are a table")
        };
        // The widest possible request.
        let stop = StopRules { max_new_tokens: context - 1, eos_token_ids: Vec::new() };
        let settings = decoder.settings(0, stop)?;
        let capacity = settings.capacity(model, 1);
        Ok(Serving {
            model: self.name(),
            label: decoder_label(decoder.name.as_str(), &shown),
            decoder: Value::Object(shown),
            settings,
            context,
            vocabulary: model.vocab_size(),
            room: Room { slots, capacity, rows: PASS_ROWS },
            max_queue: self.max_queue as usize,
            max_body: self.max_body,
            api_key: self.api_key.clone(),
            is_local: self.host.is_loopback(),
        })
    }
}
