// SPDX-License-Identifier: MIT OR Apache-2.0

//! The peer's process: one thread reads, another obeys.

use std::convert::Infallible;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use anyhow::{Context as _, Result};
use rustix::process::{Signal, getpid, kill_process};

use super::agent::Agent;
use super::protocol::{Answer, Call, Failure, Reply, Request};

/// Serves one connection until the test closes it. Then the whole process ends, in the middle of a
/// transfer too: whatever still runs ends with it, as after a crash.
///
/// # Errors
/// When the connection cannot be set up. Later ones end the process with code 1.
pub fn connection(socket: OwnedFd) -> Result<Infallible> {
    let socket = File::from(socket);
    let answers = Mutex::new(socket.try_clone().context("cannot clone the connection")?);
    let progress = AtomicU64::new(0);
    let (calls, work) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| obey(work, &answers, &progress));
        match read(socket, &calls, &answers, &progress) {
            Ok(()) => std::process::exit(0),
            Err(error) => {
                dmaplane::terminal::note(format_args!("dmaplane-peer: {error:#}"));
                std::process::exit(1);
            }
        }
    })
}

fn read(
    socket: File,
    calls: &Sender<Call>,
    answers: &Mutex<File>,
    progress: &AtomicU64,
) -> Result<()> {
    for line in BufReader::new(socket).lines() {
        let line = line.context("cannot read")?;
        let call: Call = serde_json::from_str(&line).context("this is no request")?;
        match call.request {
            Request::Kill => kill_process(getpid(), Signal::KILL).context("cannot die")?,
            Request::Progress => {
                let done = progress.load(Ordering::Relaxed);
                answer(answers, call.number, Ok(Reply::Progress(done)))?;
            }
            _ => calls.send(call).context("the obeying thread is gone")?,
        }
    }
    Ok(())
}

/// Listens for tests and starts this program anew for each, with the connection as its standard
/// input. Prints the address once it listens.
///
/// # Errors
/// When the address is not to be had, or a process cannot be started.
pub fn forever(address: SocketAddr) -> Result<Infallible> {
    let listener =
        TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    println!("dmaplane-peer: listening on {}", listener.local_addr()?);
    let program = std::env::current_exe().context("cannot find this program")?;
    loop {
        let (socket, _) = listener.accept().context("cannot accept")?;
        let mut child = Command::new(&program)
            .arg("--serve")
            .stdin(Stdio::from(OwnedFd::from(socket)))
            .spawn()
            .context("cannot start a process for a connection")?;
        // Reaps it, so that a test that looks for the process finds it gone.
        thread::spawn(move || child.wait());
    }
}

fn obey(work: Receiver<Call>, answers: &Mutex<File>, progress: &AtomicU64) {
    let mut agent = Agent::new(progress);
    for call in work {
        let result = agent.obey(&call.request).map_err(|error| failure(&error));
        if answer(answers, call.number, result).is_err() {
            // The test is gone; the reading thread sees that too and ends the process.
            return;
        }
    }
}

fn failure(error: &anyhow::Error) -> Failure {
    let errno = error
        .downcast_ref::<dmaplane::Error>()
        .and_then(dmaplane::Error::errno);
    Failure {
        errno: errno.map(dmaplane::Errno::raw_os_error),
        text: format!("{error:#}"),
    }
}

fn answer(answers: &Mutex<File>, number: u64, result: Result<Reply, Failure>) -> Result<()> {
    let mut line = serde_json::to_vec(&Answer { number, result })?;
    line.push(b'\n');
    let mut socket = answers
        .lock()
        .map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    socket.write_all(&line).context("cannot answer")
}
