// SPDX-License-Identifier: MIT OR Apache-2.0

//! The tools that others use with the driver's events.

use std::process::{Command, Output};

use dmaplane_guest_tests::guest_program;
use dmaplane_observe::trace::{Event, parse};
use dmaplane_testkit::{ErrorContext as _, Result, Topology, ensure, test};

fn done(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What all of them are to see: a buffer for each node that has memory.
fn traced() -> Result<Vec<String>> {
    let program = guest_program("dmaplane")?.display().to_string();
    let arguments = ["numa", "--bytes", "64K", "--no-measure"].map(str::to_owned);
    Ok([vec![program], arguments.to_vec()].concat())
}

/// Fails unless the events are those of such a run.
fn right(guest: &dmaplane_testkit::Guest, text: &str) -> Result<()> {
    let events = parse(text);
    let allocated = events.iter().filter(|event| event.name == "buffer_alloc");
    let sizes: Vec<_> = allocated
        .map(|event: &Event| event.number("bytes"))
        .collect();
    let nodes = if guest.topology == Topology::Pair {
        1
    } else {
        2
    };
    ensure!(
        sizes.len() >= nodes && sizes.iter().all(|size| *size == Some(65536)),
        "{text}"
    );
    Ok(())
}

#[test]
fn trace_recorded_by_perf() {
    test(|guest| {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("perf.data");
        let mut perf = Command::new("perf");
        perf.args(["record", "-a", "-e", "dmaplane:*", "-o"])
            .arg(&data);
        done(&perf.arg("--").args(traced()?).output()?)?;
        let output = Command::new("perf")
            .arg("script")
            .arg("-i")
            .arg(&data)
            .output()?;
        right(guest, &done(&output)?)
    });
}

#[test]
fn trace_counted_by_perf() {
    test(|_| {
        let mut perf = Command::new("perf");
        perf.args(["stat", "-a", "-x", ",", "-e", "dmaplane:buffer_alloc"]);
        perf.args(["-e", "dmaplane:credit_stall", "--"]);
        let output = perf.args(traced()?).output()?;
        done(&output)?;
        // It counts on its standard error.
        let text = String::from_utf8_lossy(&output.stderr);
        let count = |name: &str| -> Result<u64> {
            let line = text.lines().find(|line| line.contains(name));
            let line = line.with_context(|| format!("no {name} in {text}"))?;
            let number = line.split(',').next().unwrap_or_default();
            number.parse().with_context(|| format!("no number: {line}"))
        };
        ensure!(count("dmaplane:buffer_alloc")? > 0, "{text}");
        ensure!(count("dmaplane:credit_stall")? == 0, "{text}");
        Ok(())
    });
}

#[test]
fn trace_recorded_by_trace_cmd() {
    test(|guest| {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("trace.dat");
        let mut record = Command::new("trace-cmd");
        record
            .args(["record", "-q", "-e", "dmaplane", "-o"])
            .arg(&data);
        // It has files of its own beside the result.
        done(&record.args(traced()?).current_dir(folder.path()).output()?)?;
        let report = Command::new("trace-cmd")
            .arg("report")
            .arg("-i")
            .arg(&data)
            .output()?;
        right(guest, &done(&report)?)
    });
}
