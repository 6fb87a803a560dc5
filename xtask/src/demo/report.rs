// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the demo prints and what `--json` writes.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::host::{Prefill, Spoken};
use super::transfer::{Memory, Sent};
use dmaplane_vmtest::guest::session::TestEnv;

/// Everything that one run found out; steps that it did not reach are null.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    ok: bool,
    error: Option<String>,
    prompt: String,
    text: Option<String>,
    model: Option<String>,
    prompt_tokens: Option<u64>,
    tokens: Option<usize>,
    layers: Option<u64>,
    /// Bytes of the KV cache.
    bytes: Option<u64>,
    chunks: Option<u64>,
    transfer_ms: Option<f64>,
    /// 10^6 bytes a second, from the first chunk submitted to the last one completed.
    transfer_mb_per_s: Option<f64>,
    /// The received file has the sent file's bytes.
    bitwise_identical: Option<bool>,
    /// Decode from the received cache gives the tokens of the reference run.
    tokens_match: Option<bool>,
    accel: Option<&'static str>,
    kernel: Option<String>,
    kernel_key: Option<String>,
    topology: Option<String>,
    rdma_device: Option<String>,
    /// The memory that held the cache, at the sender and at the receiver.
    memory: Option<[Memory; 2]>,
    /// How long the sender's COPY between device and host memory took, if RDMA does not reach device memory.
    staging_ms: Option<f64>,
    prefill_ms: Option<f64>,
    decode_ms: Option<f64>,
    stages: Vec<Stage>,
    seconds: f64,
}

/// One step and how long it took, its programs' start included.
#[derive(Debug, Serialize)]
struct Stage {
    name: &'static str,
    seconds: f64,
}

impl Report {
    /// Nothing is known but the prompt.
    pub(crate) fn new(prompt: &str) -> Self {
        Self {
            prompt: prompt.to_owned(),
            ..Self::default()
        }
    }

    /// Runs a step and notes its time, also when it fails.
    pub(crate) fn stage<T>(
        &mut self,
        name: &'static str,
        step: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let begin = Instant::now();
        let result = step();
        self.stages.push(Stage {
            name,
            seconds: begin.elapsed().as_secs_f64(),
        });
        result
    }

    /// Notes what the guests run on.
    pub(crate) fn test_env(&mut self, test_env: &TestEnv) {
        self.accel = Some(test_env.accel.name());
        self.kernel = Some(test_env.kernel().release.clone());
        self.kernel_key = Some(test_env.kernel().key.clone());
        self.topology = Some(test_env.topology.name.clone());
    }

    /// Notes what prefill did.
    pub(crate) fn prefill(&mut self, prefill: &Prefill) {
        self.model = Some(prefill.model.clone());
        self.prompt_tokens = Some(prefill.prompt_tokens);
        self.layers = Some(prefill.layers);
        self.prefill_ms = Some(prefill.prefill_ms);
    }

    /// Notes what the sender measured.
    pub(crate) fn transfer(&mut self, sent: &Sent) {
        self.bytes = Some(sent.bytes);
        self.chunks = Some(sent.chunks);
        self.transfer_ms = Some(sent.transfer_ms);
        self.transfer_mb_per_s = Some(sent.transfer_mb_per_s);
        self.rdma_device = Some(sent.device.clone());
        self.memory = Some([sent.memory.clone(), sent.received_into.clone()]);
        self.staging_ms = Some(sent.staging_ms);
    }

    /// Notes whether the cache arrived unchanged, and fails if it did not.
    pub(crate) fn bitwise_identical(&mut self, identical: bool) -> Result<()> {
        self.bitwise_identical = Some(identical);
        if !identical {
            bail!("the received cache differs from the sent one");
        }
        Ok(())
    }

    /// Notes the tokens, and fails if the reference run produced others.
    pub(crate) fn tokens(&mut self, decoded: &Spoken, reference: &Spoken) -> Result<()> {
        self.text = Some(decoded.text.clone());
        self.tokens = Some(decoded.tokens.len());
        self.decode_ms = Some(decoded.decode_ms);
        let same = decoded.tokens == reference.tokens;
        self.tokens_match = Some(same);
        if decoded.tokens.is_empty() {
            bail!("the model said nothing, so nothing was compared; try another prompt");
        }
        if !same {
            let at = decoded
                .tokens
                .iter()
                .zip(&reference.tokens)
                .take_while(|(a, b)| a == b);
            bail!(
                "decode from the received cache differs from the reference run at token {}",
                at.count()
            );
        }
        Ok(())
    }

    /// Notes how it ended.
    pub(crate) fn finish(&mut self, time: Duration, error: Option<&anyhow::Error>) {
        self.seconds = time.as_secs_f64();
        self.ok = error.is_none();
        self.error = error.map(|error| format!("{error:#}"));
    }

    /// Writes the JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self)?;
        fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Prints what is known.
    pub(crate) fn print(&self) {
        let Some(text) = &self.text else {
            return self.print_stages();
        };
        println!(
            "\n{}\n> {}\n",
            self.prompt,
            text.trim().replace('\n', "\n> ")
        );
        if let (Some(model), Some(prompt), Some(tokens)) =
            (&self.model, self.prompt_tokens, self.tokens)
        {
            println!("model      {model}: {prompt} tokens of prompt, {tokens} of answer");
        }
        if let (Some(bytes), Some(chunks), Some(layers)) = (self.bytes, self.chunks, self.layers) {
            println!("cache      {bytes} bytes, {layers} layers, {chunks} chunks");
        }
        if let (Some(ms), Some(rate)) = (self.transfer_ms, self.transfer_mb_per_s) {
            println!("transfer   {rate:.1} MB/s, {ms:.0} ms");
        }
        if let Some([from, to]) = &self.memory {
            println!("memory     from {}; to {}", from.describe(), to.describe());
        }
        if let (Some(accel), Some(kernel), Some(device)) =
            (self.accel, &self.kernel, &self.rdma_device)
        {
            println!("guests     {accel}, Linux {kernel}, RDMA device {device}");
        }
        let word = |known: Option<bool>| match known {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "unknown",
        };
        println!(
            "identical  {} (every byte of the cache)",
            word(self.bitwise_identical)
        );
        println!(
            "tokens     {} (equal to the reference run)",
            word(self.tokens_match)
        );
        self.print_stages();
    }

    fn print_stages(&self) {
        for Stage { name, seconds } in &self.stages {
            println!("{seconds:8.1} s {name}");
        }
        println!("{:8.1} s in all", self.seconds);
    }
}

/// What an error says, as one line.
pub(crate) fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}")
        .lines()
        .next()
        .unwrap_or("no reason given")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoken(tokens: &[u32]) -> Spoken {
        Spoken {
            tokens: tokens.to_vec(),
            text: "x".into(),
            decode_ms: 1.0,
        }
    }

    #[test]
    fn different_tokens_and_silence_are_failures() {
        let mut report = Report::new("p");
        report.tokens(&spoken(&[1, 2]), &spoken(&[1, 2])).unwrap();
        assert_eq!(report.tokens_match, Some(true));
        let error = report
            .tokens(&spoken(&[1, 2, 3]), &spoken(&[1, 2, 4]))
            .unwrap_err();
        assert!(error.to_string().ends_with("at token 2"), "{error}");
        assert_eq!(report.tokens_match, Some(false));
        assert!(report.tokens(&spoken(&[]), &spoken(&[])).is_err());
        assert!(report.bitwise_identical(false).is_err());
    }

    #[test]
    fn the_json_has_what_was_promised_also_after_a_failure() {
        let mut report = Report::new("p");
        let step = || -> Result<()> { bail!("one\ntwo") };
        let error = report.stage("x", step).unwrap_err();
        report.finish(Duration::from_secs(1), Some(&error));
        assert_eq!(first_line(&error), "one");
        let json = serde_json::to_value(&report).unwrap();
        for name in [
            "bytes",
            "chunks",
            "transfer_mb_per_s",
            "bitwise_identical",
            "tokens_match",
            "accel",
            "kernel",
        ] {
            assert!(json.get(name).is_some(), "{name}");
        }
        assert_eq!(
            (&json["ok"], &json["error"]),
            (&false.into(), &"one\ntwo".into())
        );
        assert_eq!(json["stages"][0]["name"], "x");
    }
}
