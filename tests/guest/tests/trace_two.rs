// SPDX-License-Identifier: MIT OR Apache-2.0

//! An operation is followed from one machine to another, each with a recording and a clock of its own.

use std::fs;
use std::process::Command;

use dmaplane::{Buffer, Channel, Entry, Placement};
use dmaplane_guest_tests::{Connection, complete, guest_program};
use dmaplane_observe::tracefs::Recording;
use dmaplane_testkit::peer::protocol::{Reply, Request};
use dmaplane_testkit::{ErrorContext as _, Topology, bail, ensure, test};

#[test]
fn trace_is_followed_across_two_machines() {
    test(|guest| {
        guest.require(&[Topology::Pair], "this takes two machines")?;
        let folder = tempfile::tempdir()?;
        let (here, there) = (folder.path().join("here"), folder.path().join("there"));
        let chrome = folder.path().join("chrome.json");
        let recording = Recording::start(&[])?;
        {
            let mut connection = Connection::to_peer(guest)?;
            connection.peer.ask(Request::Record)?;
            let (_theirs, given) = connection.remote_buffer(guest, 4096)?;
            connection.peer.ask(Request::PostReceives {
                endpoint: connection.remote,
                count: 1,
            })?;
            let source = Buffer::create(&connection.context, 4096, Placement::Any)?;
            let mut channel = Channel::builder().entries(8).build(&connection.context)?;
            let entry = Entry::write_imm(source.range(0, 64), given.at(0), 1);
            channel.push(entry.trace_id(7_654_321))?;
            complete(&mut channel, 1, guest.limit(10))?[0].result()?;
            connection.peer.ask(Request::WaitReceives {
                count: 1,
                limit_ms: connection.peer.limit_ms(),
            })?;
            match connection.peer.ask(Request::Recorded)? {
                Reply::Text(text) => fs::write(&there, text)?,
                other => bail!("{other:?}"),
            }
        }
        fs::write(&here, recording.text()?)?;
        drop(recording);
        let output = Command::new(guest_program("dmaplane")?)
            .args(["trace", "follow", "7654321"])
            .arg(format!("here={}", here.display()))
            .arg(format!("there={}", there.display()))
            .arg("--chrome")
            .arg(&chrome)
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{output:?}");
        println!("{text}");
        // Each step is shown on its machine, in that machine's order. The order of steps of different machines is only
        // known up to the error of their clocks, which is printed; and the thread that reports the arrival may run
        // after the sender has its acknowledgement.
        let steps = |machine: &str, wanted: &[&str]| -> dmaplane_testkit::Result<()> {
            let mut lines = text
                .lines()
                .filter(|line| line.contains(&format!(" {machine} ")));
            for step in wanted {
                let found = lines.any(|line| line.contains(step));
                ensure!(found, "no {step} {machine} behind the steps before it");
            }
            Ok(())
        };
        steps("here", &["op_submit", "op_post", "op_complete"])?;
        steps("there", &["op_arrive"])?;
        ensure!(
            text.contains("clock of there: ") && text.contains("(+-"),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(&chrome)?)?;
        let events = json["traceEvents"].as_array().context("no events")?;
        ensure!(events.len() > 5, "{json}");
        Ok(())
    });
}
