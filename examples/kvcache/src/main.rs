// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prefill on one machine, decode on another: the two halves of a run of a language model, joined
//! by the KV cache that dmaplane moves between them.

mod cache;
mod config;
mod generate;
mod model;
mod rope;
mod state;
mod tokenizer;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};
use dmaplane::terminal;
use dmaplane_kv::{self as kv, file::KvFile};
use serde::Serialize;

use cache::Cache;
use model::Model;
use state::State;
use tokenizer::{Printer, Tokenizer};

/// Run a llama-type model (GGUF) in two halves, with its KV cache in a file between them.
///
/// `prefill` reads a prompt and writes the KV cache, layer by layer. The file can then be moved to
/// another machine (`dmaplane kv send` and `dmaplane kv recv`), where `decode` continues from it.
/// `reference` does both at once; decoding is greedy, so its tokens must be the same.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Read a prompt; write its KV cache and the state that decode needs.
    Prefill(Prefill),
    /// Continue from a KV cache; print the text.
    Decode(Decode),
    /// Read a prompt and continue, without a file between: the reference for the other two.
    Reference(Reference),
    /// Compare two KV cache files bit for bit; exit with 1 if they differ.
    Compare(Compare),
}

#[derive(Args)]
struct Source {
    /// The model: a GGUF file of architecture `llama` with its tokenizer, such as SmolLM2.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
}

#[derive(Args)]
struct Prompt {
    /// What the user asks; it is put into the model's chat template.
    #[arg(long, default_value = "What is remote direct memory access good for?")]
    prompt: String,
    /// The type in which the cache keeps its elements: f32, f16 or bf16.
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    kv_dtype: kv::DType,
}

#[derive(Args)]
struct Output {
    /// Tokens to produce at most; the end of the model's turn ends them earlier.
    #[arg(long, default_value_t = 48)]
    tokens: usize,
    /// Write tokens, text and times to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct Prefill {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    prompt: Prompt,
    /// Where to write the KV cache (safetensors).
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Where to write the prompt's tokens, the next token and the cache's digest (JSON).
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    /// Bytes that one RDMA write will move; a power of two, such as 65536 or 64K.
    #[arg(long, value_name = "BYTES", default_value = "64K", value_parser = kv::parse_size)]
    chunk_size: u64,
    /// Write sizes and times to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct Decode {
    #[command(flatten)]
    source: Source,
    /// The KV cache that prefill wrote, or that was received from there.
    #[arg(long, value_name = "FILE")]
    kv: PathBuf,
    /// The state that prefill wrote.
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
struct Reference {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    prompt: Prompt,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
struct Compare {
    /// One KV cache file.
    first: PathBuf,
    /// The other one.
    second: PathBuf,
}

/// What `--json` writes after tokens have been produced.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    prompt_tokens: usize,
    tokens: &'a [u32],
    text: &'a str,
    load_ms: u128,
    prefill_ms: Option<u128>,
    decode_ms: u128,
}

/// What `prefill --json` writes.
#[derive(Serialize)]
struct PrefillReport<'a> {
    model: &'a str,
    prompt_tokens: usize,
    layers: usize,
    bytes: u64,
    digest: kv::Digest,
    load_ms: u128,
    prefill_ms: u128,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Prefill(args) => prefill(&args),
        Command::Decode(args) => decode(&args),
        Command::Reference(args) => reference(&args),
        Command::Compare(args) => compare(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::note(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn load(source: &Source) -> Result<(Model, Tokenizer, u128)> {
    let start = Instant::now();
    let (model, content) = Model::load(&source.model)?;
    let tokenizer = Tokenizer::from_gguf(&content)
        .with_context(|| format!("no usable tokenizer in {}", source.model.display()))?;
    Ok((model, tokenizer, start.elapsed().as_millis()))
}

fn write_json(path: Option<&Path>, report: &impl Serialize) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, serde_json::to_vec_pretty(report)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn prefill(args: &Prefill) -> Result<()> {
    let (model, tokenizer, load_ms) = load(&args.source)?;
    let prompt = tokenizer.encode_prompt(&args.prompt.prompt)?;
    let (config, dtype) = (model.config(), args.prompt.kv_dtype);
    let start = Instant::now();
    let mut writer = cache::create_file(&args.out, config, dtype, prompt.len(), args.chunk_size)?;
    let mut cache = Cache::new(config, dtype);
    let next = generate::prefill(&model, &prompt, &mut cache, |layer, cache| {
        cache.write_layer(layer, &mut writer)
    })?;
    let manifest = writer.finish()?;
    let prefill_ms = start.elapsed().as_millis();
    let report = PrefillReport {
        model: &config.name,
        prompt_tokens: prompt.len(),
        layers: config.layers,
        bytes: manifest.bytes(),
        digest: manifest.digest(),
        load_ms,
        prefill_ms,
    };
    terminal::note(format_args!(
        "{} tokens, {} layers, {} bytes of KV cache in {prefill_ms} ms",
        report.prompt_tokens, report.layers, report.bytes
    ));
    write_json(args.json.as_deref(), &report)?;
    State::new(prompt, next, &manifest).write(&args.state)
}

/// Produces tokens, prints their text as it comes, and reports.
fn speak(
    model: &Model,
    tokenizer: &Tokenizer,
    first: u32,
    cache: &mut Cache,
    output: &Output,
    (load_ms, prefill_ms): (u128, Option<u128>),
) -> Result<()> {
    let prompt_tokens = cache.tokens();
    let start = Instant::now();
    let mut printer = Printer::new(tokenizer);
    let mut stdout = std::io::stdout().lock();
    let tokens = generate::decode(
        model,
        first,
        output.tokens,
        tokenizer.end(),
        cache,
        |token| {
            write!(stdout, "{}", printer.push(token)?)?;
            Ok(stdout.flush()?)
        },
    )?;
    writeln!(stdout)?;
    let report = Report {
        model: &model.config().name,
        prompt_tokens,
        tokens: &tokens,
        text: &tokenizer.decode(&tokens)?,
        load_ms,
        prefill_ms,
        decode_ms: start.elapsed().as_millis(),
    };
    write_json(output.json.as_deref(), &report)
}

fn decode(args: &Decode) -> Result<()> {
    // The cheap checks come first: a wrong file should not cost the loading of a model.
    let state = State::read(&args.state)?;
    let file = KvFile::read(&args.kv)?;
    state.check(file.manifest())?;
    let (model, tokenizer, load_ms) = load(&args.source)?;
    let mut cache = Cache::from_file(model.config(), &file, model.device())?;
    speak(
        &model,
        &tokenizer,
        state.next_token,
        &mut cache,
        &args.output,
        (load_ms, None),
    )
}

fn reference(args: &Reference) -> Result<()> {
    let (model, tokenizer, load_ms) = load(&args.source)?;
    let prompt = tokenizer.encode_prompt(&args.prompt.prompt)?;
    let start = Instant::now();
    let mut cache = Cache::new(model.config(), args.prompt.kv_dtype);
    let first = generate::prefill(&model, &prompt, &mut cache, |_, _| Ok(()))?;
    let times = (load_ms, Some(start.elapsed().as_millis()));
    speak(&model, &tokenizer, first, &mut cache, &args.output, times)
}

fn compare(args: &Compare) -> Result<()> {
    let (first, second) = (KvFile::read(&args.first)?, KvFile::read(&args.second)?);
    let (a, b) = (first.manifest().geometry(), second.manifest().geometry());
    ensure!(
        (a.dtype, a.layers, a.shape()) == (b.dtype, b.layers, b.shape()),
        "the caches have different figures: {a:?} and {b:?}"
    );
    for layer in 0..a.layers as usize {
        ensure!(
            first.layer(layer)? == second.layer(layer)?,
            "layer {layer} differs"
        );
    }
    println!("bitwise identical: {} bytes", first.data().len());
    Ok(())
}
