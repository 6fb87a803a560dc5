// SPDX-License-Identifier: MIT OR Apache-2.0

//! The reference: perftest's programs on the same RDMA device, one process against another.

use std::net::IpAddr;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use dmaplane_testkit::rdma::Link;
use dmaplane_testkit::{Guest, poll};

/// Longest that a program may take.
const LIMIT: Duration = Duration::from_secs(120);

/// perftest on one device.
pub(crate) struct Perftest {
    device: String,
    address: IpAddr,
    port: u16,
}

impl Perftest {
    /// On the only device of this namespace.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            device: Link::only()?.name,
            address: Guest::from_env()?.local,
            port: 18_000,
        })
    }

    /// Bytes per second that `ib_write_bw` moves.
    pub(crate) fn write_bandwidth(&mut self, size: u64, depth: u32, count: u64) -> Result<f64> {
        // The program wants five at least, and a queue no deeper than that.
        let count = count.max(5).max(depth.into()).to_string();
        let depth = depth.to_string();
        let row = self.run("ib_write_bw", size, &["-t", &depth, "-n", &count])?;
        // Bytes, iterations, peak, average in MiB/s, messages.
        let average = row.get(3).context("no average")?;
        Ok(average * f64::from(1 << 20))
    }

    /// Microseconds that a message takes one way by `ib_send_lat`: the average, and the median.
    pub(crate) fn send_latency(&mut self, size: u64, count: u64) -> Result<(f64, f64)> {
        let row = self.run("ib_send_lat", size, &["-n", &count.to_string()])?;
        // Bytes, iterations, least, most, typical, average, deviation, percentiles.
        row.get(5)
            .zip(row.get(4))
            .map(|(average, typical)| (*average, *typical))
            .context("no average")
    }

    /// The numbers of the last line of a run.
    fn run(&mut self, program: &str, size: u64, more: &[&str]) -> Result<Vec<f64>> {
        self.port += 1;
        let (port, bytes) = (self.port.to_string(), size.to_string());
        let command = || {
            let mut command = Command::new(program);
            command
                .args(["-F", "-R", "-d", &self.device, "-p", &port, "-s", &bytes])
                .args(more)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            command
        };
        let mut server = Running(
            command()
                .spawn()
                .with_context(|| format!("cannot run {program} (package perftest)"))?,
        );
        let output = poll::until(LIMIT, || {
            let output = command().arg(self.address.to_string()).output()?;
            // Refused until the server listens.
            if !output.status.success() && server.0.try_wait()?.is_some() {
                bail!("{program}: {}", said(&output));
            }
            Ok(output.status.success().then_some(output))
        })?;
        let output = output.with_context(|| format!("{program}: the server never listens"))?;
        let row = parse(&String::from_utf8_lossy(&output.stdout), size);
        row.with_context(|| format!("{program}: {}", said(&output)))
    }
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    let text = [String::from_utf8_lossy(out), String::from_utf8_lossy(err)].join("\n");
    format!("{}: {text}", output.status)
}

/// A process that does not outlive this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has usually ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The row of numbers that begins with the size.
fn parse(text: &str, size: u64) -> Option<Vec<f64>> {
    let mut rows = text.lines().rev().filter_map(|line| {
        let numbers: Result<Vec<f64>, _> = line.split_whitespace().map(str::parse).collect();
        numbers.ok().filter(|row| row.len() >= 4)
    });
    rows.find(|row| row.first() == Some(&(size as f64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_of_a_report_is_found() {
        let text = " #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]\n \
                    65536      1000             74.38              74.12              0.001186\n";
        let row = parse(text, 65536).expect("a row");
        assert_eq!(row.get(3), Some(&74.12));
        assert_eq!(parse(text, 4096), None);
    }
}
