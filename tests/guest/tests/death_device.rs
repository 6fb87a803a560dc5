// SPDX-License-Identifier: MIT OR Apache-2.0

//! An RDMA device is removed that many contexts use, while no peer can be heard: the driver waits for their ends
//! together, not one after the other.

use std::time::{Duration, Instant};

use dmaplane::EndpointState;
use dmaplane_guest_tests::Connection;
use dmaplane_testkit::counters::Tuned;
use dmaplane_testkit::disposable::SavedLinks;
use dmaplane_testkit::guest::Topology;
use dmaplane_testkit::netem::Netem;
use dmaplane_testkit::rdma::Link;
use dmaplane_testkit::{Result, ensure, test};

/// Contexts, each with a connection.
const CONTEXTS: u32 = 6;

#[test]
fn death_of_the_device_ends_contexts_side_by_side() {
    test(|guest| {
        let here = [Topology::Numa2, Topology::Numa4];
        guest.require(&here, "the peers' device must stay")?;
        let saved = SavedLinks::note(guest)?;
        let connect = |_: u32| Connection::to_peer(guest);
        let connections = (0..CONTEXTS).map(connect).collect::<Result<Vec<_>>>()?;
        let link = Link::only()?;
        // How long each waits for its peer to acknowledge the last will: longer than the removal of the device itself
        // takes.
        let will_ms = guest.pick(1000, 5000);
        let patience = Tuned::set("will_ms", will_ms)?;
        let muted = Netem::on(&link, "loss 100%")?;
        let begun = Instant::now();
        let deleted = link.delete();
        let took = begun.elapsed();
        drop((muted, patience));
        deleted?;
        for connection in &connections {
            let state = connection.endpoint.query()?.state;
            ensure!(matches!(state, EndpointState::Down(_)), "{state:?}");
        }
        drop(connections);
        drop(saved);
        println!("the device went after {took:?}");
        let each = Duration::from_millis(will_ms);
        ensure!(took < each * CONTEXTS / 2, "it went after {took:?}");
        Ok(())
    });
}
