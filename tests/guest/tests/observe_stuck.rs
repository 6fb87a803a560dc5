// SPDX-License-Identifier: MIT OR Apache-2.0

//! Transfers that do not end are found, and what they wait for is named, by the tool alone.

use std::process::Command;

use dmaplane::{Buffer, Channel, EndpointState, Entry, GrantTerms, Placement, State};
use dmaplane_guest_tests::{Connection, Loopback, complete, guest_program};
use dmaplane_testkit::faults::{self, Point, record};
use dmaplane_testkit::module::with_parameters;
use dmaplane_testkit::peer::protocol::Request;
use dmaplane_testkit::{Guest, Result, anyhow, ensure, poll, test};

/// What a command of the tool prints.
fn tool(arguments: &[&str]) -> Result<String> {
    let output = Command::new(guest_program("dmaplane")?)
        .args(arguments)
        .output()?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn observe_finds_a_peer_without_receives() {
    test(|guest| {
        let mut connection = Connection::to_peer(guest)?;
        let (_remote, grant) = connection.remote_buffer(guest, 4096)?;
        let source = Buffer::create(&connection.context, 4096, Placement::Any)?;
        let mut channel = Channel::builder().entries(8).build(&connection.context)?;
        // The peer lives, but posts no receives.
        channel.push(Entry::write_imm(source.range(0, 4096), grant.at(0), 3).trace_id(4242))?;
        channel.submit()?;
        let seen = poll::until(guest.limit(10), || {
            let text = tool(&["top", "--once", "--stuck-ms", "1"])?;
            let named = text.contains("trace 4242") && text.contains("no receive");
            Ok(named.then_some(text))
        })?;
        let text = seen.ok_or_else(|| anyhow!("never named"))?;
        println!("{text}");
        // A heartbeat of the peer's may be late on a slow machine, but not each.
        let named = poll::until(guest.limit(10), || {
            let text = tool(&["top", "--once", "--json"])?;
            let json: serde_json::Value = serde_json::from_str(&text)?;
            let stuck = &json["stuck"][0];
            ensure!(stuck["trace_id"] == "4242", "{stuck}");
            Ok((stuck["waits_on"] == "peer-receives").then_some(()))
        })?;
        named.ok_or_else(|| anyhow!("never waits for the peer's receives"))?;
        connection.peer.ask(Request::PostReceives {
            endpoint: connection.remote,
            count: 1,
        })?;
        complete(&mut channel, 1, guest.limit(10))?[0].result()?;
        let text = tool(&["top", "--once", "--stuck-ms", "1"])?;
        ensure!(!text.contains("trace 4242"), "{text}");
        Ok(())
    });
}

/// The peer's kernel still accepts what arrives, but sends nothing: the sender never learns of the receive that was
/// posted.
#[test]
fn observe_finds_a_frozen_peer() {
    test(|guest| {
        faults::require()?;
        // After ten intervals of silence the peer counts as dead: long enough for three ways of finding it.
        let heartbeats = guest.pick(c"heartbeat_ms=1000", c"heartbeat_ms=2500");
        with_parameters(guest, heartbeats, || find_a_frozen_peer(guest))
    });
}

fn find_a_frozen_peer(guest: &Guest) -> Result<()> {
    faults::quiet()?;
    let local = Loopback::new(guest)?;
    let (_theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
    let source = Buffer::create(&local.near_context, 4096, Placement::Any)?;
    let mut here = Channel::builder().entries(8).build(&local.near_context)?;
    let mut there = Channel::builder().entries(8).build(&local.far_context)?;
    here.push(Entry::write_imm(source.range(0, 4096), given.at(0), 3).trace_id(5151))?;
    here.submit()?;
    // The far side's next step is to check whether it may announce its receive.
    there.push(Entry::recv(&local.far))?;
    let frozen = Point::once("freeze")?;
    there.submit()?;
    ensure!(frozen.fired()? == 1, "nothing froze");
    let seen = poll::until(guest.limit(10), || {
        let text = tool(&["top", "--once", "--stuck-ms", "1"])?;
        Ok(text.contains("trace 5151").then_some(text))
    })?;
    println!("{}", seen.ok_or_else(|| anyhow!("never named"))?);
    // Unlike with a process that posts nothing, the kernel is silent: it would not announce a receive.
    let silent = poll::until(guest.limit(10), || {
        let text = tool(&["top", "--once", "--stuck-ms", "1"])?;
        let line = text.lines().find(|line| line.contains("trace 5151"));
        let line = line.filter(|line| line.contains("nothing has come from its kernel"));
        Ok(line.map(str::to_owned))
    })?;
    println!(
        "{}",
        silent.ok_or_else(|| anyhow!("its silence is not shown"))?
    );
    let followed = tool(&["trace", "follow", "5151", "--live", "0.1"])?;
    println!("{followed}");
    for part in ["trace 5151: STUCK", "write_imm", "from its kernel"] {
        ensure!(followed.contains(part), "{followed}");
    }
    let operations = std::fs::read_to_string("/sys/kernel/debug/dmaplane/state/operations")?;
    let line = operations
        .lines()
        .find(|line| line.contains("trace_id=5151"));
    let line = line.ok_or_else(|| anyhow!("not in debugfs: {operations}"))?;
    println!("{line}");
    ensure!(line.contains("waits_on=silent-peer"), "{line}");
    println!(
        "{}",
        std::fs::read_to_string("/sys/kernel/debug/dmaplane/state/endpoints")?
    );
    drop(frozen);
    // The operation ends nevertheless.
    let done = complete(&mut here, 1, guest.limit(30))?[0];
    ensure!(done.state() == State::PeerDead, "{done:?}");
    let state = local.near.query()?.state;
    ensure!(matches!(state, EndpointState::Down(_)), "{state:?}");
    record(|_| ())
}
