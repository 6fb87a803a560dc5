// SPDX-License-Identifier: MIT OR Apache-2.0

//! The command-line tool as others run it: as a process, with a standard error that somebody reads.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use dmaplane_testkit::{ErrorContext as _, Result, bail};

use crate::guest_program;

/// The tool with these arguments.
///
/// # Errors
/// When the runner did not say where it is.
pub fn tool(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(guest_program("dmaplane")?);
    command.args(args);
    Ok(command)
}

/// What a run printed to its standard error.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A `dmaplane kv recv` that listens. It is killed when this is dropped.
#[derive(Debug)]
pub struct Receiver {
    child: Child,
    errors: BufReader<ChildStderr>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Receiver {
    /// Starts one on a free port of this address and waits until it listens.
    ///
    /// # Errors
    /// What it said, when it ended instead.
    pub fn start(listen: SocketAddr, out: &Path, args: &[&str]) -> Result<Self> {
        let mut command = tool(&["kv", "recv", "--listen", &listen.to_string(), "--out"])?;
        command.arg(out).args(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut errors = BufReader::new(child.stderr.take().context("its standard error")?);
        let mut line = String::new();
        errors.read_line(&mut line)?;
        let Some(address) = line.strip_prefix("listening on ") else {
            errors.read_to_string(&mut line)?;
            bail!("it does not listen: {line} ({})", child.wait()?);
        };
        Ok(Self {
            address: address.trim().parse()?,
            child,
            errors,
        })
    }

    /// Its process.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Waits for its end: its exit code, and what it said since it listened.
    ///
    /// # Errors
    /// When it ended by a signal.
    pub fn end(mut self) -> Result<(i32, String)> {
        let mut text = String::new();
        self.errors.read_to_string(&mut text)?;
        let status = self.child.wait()?;
        let code = status.code().with_context(|| format!("{status}: {text}"))?;
        Ok((code, text))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // It has ended as a rule.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `dmaplane kv send`: its exit code, and what it said.
///
/// # Errors
/// When it cannot be run, or ended by a signal.
pub fn send(file: &Path, to: SocketAddr, args: &[&str]) -> Result<(i32, String)> {
    let mut command = tool(&["kv", "send", "--to", &to.to_string(), "--kv"])?;
    let output = command.arg(file).args(args).output()?;
    let text = said(&output);
    let code = output.status.code();
    let code = code.with_context(|| format!("{}: {text}", output.status))?;
    Ok((code, text))
}
