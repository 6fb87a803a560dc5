// SPDX-License-Identifier: MIT OR Apache-2.0
//! How two guests wait for each other: one TCP connection for their whole life, two words on it.
//!
//! The host of the rendezvous says `ready` once its services are; the visitor says `done` once its
//! jobs are over. A connection that ends without a word says the same as a failure.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use dmaplane_testkit::poll;

/// The connection to the other guest.
pub(crate) struct Peer {
    stream: TcpStream,
}

/// Waits for the visitor and sends it `ready`, or the reason why not.
pub(crate) fn receive(address: &str, word: &str, deadline: Instant) -> Result<Peer> {
    let listener = TcpListener::bind(address)
        .with_context(|| format!("cannot listen for the other guest on {address}"))?;
    let (send, stream) = channel();
    std::thread::spawn(move || send.send(listener.accept()));
    let (mut stream, _) = stream
        .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        .context("the other guest did not come in time")?
        .context("the other guest's connection failed")?;
    stream.set_nodelay(true)?;
    writeln!(stream, "{word}").context("the other guest went away at once")?;
    Ok(Peer { stream })
}

/// Visits the other guest and waits until it is ready.
pub(crate) fn visit(address: &str, deadline: Instant) -> Result<Peer> {
    let socket: SocketAddr = address
        .parse()
        .with_context(|| format!("{address} is no address"))?;
    // The other guest may still be booting: refused and unreachable both mean "not yet".
    let mut last = None;
    let stream = poll::until(deadline.saturating_duration_since(Instant::now()), || {
        let connected = TcpStream::connect_timeout(&socket, Duration::from_secs(1));
        Ok(connected.map_err(|error| last = Some(error)).ok())
    })?;
    let stream = stream.with_context(|| {
        let why = last.map_or_else(String::new, |error| format!(": {error}"));
        format!("the other guest never answered on {address}{why}")
    })?;
    let mut peer = Peer { stream };
    match peer.hear(deadline)?.as_str() {
        "ready" => Ok(peer),
        "" => bail!("the other guest went away before it was ready"),
        other => bail!("the other guest is not ready: {other}"),
    }
}

impl Peer {
    /// Says one word.
    pub(crate) fn say(&mut self, word: &str) -> Result<()> {
        writeln!(self.stream, "{word}").context("the other guest is gone")
    }

    /// Waits for a word; empty if the connection ends without one.
    pub(crate) fn hear(&mut self, deadline: Instant) -> Result<String> {
        let left = deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left))?;
        let mut line = String::new();
        BufReader::new(&self.stream)
            .read_line(&mut line)
            .context("no word from the other guest in time")?;
        Ok(line.trim().to_owned())
    }
}
