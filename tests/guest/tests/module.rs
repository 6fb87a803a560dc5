// SPDX-License-Identifier: MIT OR Apache-2.0

//! The module comes and goes. Needs the driver for itself.

use std::ffi::CStr;
use std::time::{Duration, Instant};

use dmaplane::{
    Buffer, Channel, Completion, Context, EndpointState, Entry, Errno, GrantTerms, Placement,
    Rights, State,
};
use dmaplane_guest_tests::{Connection, Loopback, complete, destroy, holds, refusal};
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::faults::{self, Point};
use dmaplane_testkit::guest::Topology;
use dmaplane_testkit::module::with_parameters;
use dmaplane_testkit::netem::Netem;
use dmaplane_testkit::peer::client::unexpected;
use dmaplane_testkit::peer::protocol::{Reply, Request};
use dmaplane_testkit::rdma::Link;
use dmaplane_testkit::run::test_without_gauges;
use dmaplane_testkit::{ErrorContext as _, Gauges, ensure, gauges, module, netns, poll};
use dmaplane_uapi as abi;

#[test]
fn module_loads_and_unloads_again_and_again() {
    test_without_gauges(|guest| {
        let path = module::path()?;
        let limit = guest.limit(5);
        for cycle in 0..guest.rounds(100, 10) {
            module::unload(limit).with_context(|| format!("cycle {cycle}"))?;
            ensure!(!module::is_loaded(), "cycle {cycle}: it is still there");
            module::load(&path, limit).with_context(|| format!("cycle {cycle}"))?;
            let before = Gauges::read()?;
            ensure!(
                gauges::NAMES.iter().all(|name| before.get(name) == 0),
                "{before}"
            );

            let context = Context::open()?;
            ensure!(
                context.query()?.rdma_devices > 0,
                "cycle {cycle}: no RDMA device"
            );
            let _buffer = Buffer::create(&context, 1 << 20, Placement::Any)?;
            let mut channel = Channel::builder().entries(8).build(&context)?;
            channel.push(Entry::nop())?;
            complete(&mut channel, 1, limit)?[0].result()?;
        }
        Ok(())
    });
}

#[test]
fn module_quotas_hold_for_each_context() {
    test_without_gauges(|guest| {
        let parameters = c"max_context_mib=2 max_endpoints=1 max_channels=2";
        with_parameters(guest, parameters, || {
            let context = Context::open()?;
            let limits = *context.limits();
            ensure!(limits.max_context_bytes == 2 << 20, "{limits:?}");
            ensure!(
                (limits.max_endpoints, limits.max_channels) == (1, 2),
                "{limits:?}"
            );
            let first = Buffer::create(&context, 1 << 20, Placement::Any)?;
            let _second = Buffer::create(&context, 1 << 20, Placement::Any)?;
            let third = || Buffer::create(&context, 1, Placement::Any);
            ensure!(refusal(third())? == Errno::DQUOT);
            // A mapping keeps the memory, and so its charge; another context has its own quota.
            let mapping = first.into_mapping();
            ensure!(refusal(third())? == Errno::DQUOT);
            let other = Context::open()?;
            Buffer::create(&other, 2 << 20, Placement::Any)?;
            drop(mapping);
            third()?;
            let channel = || Channel::builder().entries(1).build(&context);
            let _channels = (channel()?, channel()?);
            ensure!(refusal(channel())? == Errno::DQUOT);
            Ok(())
        })
    });
}

/// What the RDMA device keeps for registrations is charged to nobody, and used to have no bound but that of grants.
#[test]
fn module_registrations_have_a_quota() {
    test_without_gauges(|guest| {
        let here = [Topology::Numa2, Topology::Numa4];
        guest.require(&here, "both sides must be this module's")?;
        with_parameters(guest, c"max_provider_mib=1", || {
            const BYTES: u64 = 2 << 20;
            let local = Loopback::new(guest)?;
            let mine = Buffer::create(&local.far_context, BYTES, Placement::Any)?;
            let limit = guest.limit(10);
            let give = || {
                let terms = GrantTerms::default();
                local.far.grant_on(&mine, 0..BYTES, &terms, limit)
            };
            let mut held = Vec::new();
            let refused = loop {
                match give() {
                    Ok(own) => held.push((own, local.near.wait_grant(limit)?)),
                    Err(error) => break error,
                }
                ensure!(held.len() < 1000, "{} grants in a MiB", held.len());
            };
            ensure!(refused.errno() == Some(Errno::DQUOT), "{refused}");
            ensure!(held.len() > 10, "{} grants in a MiB", held.len());
            // A released grant makes room for exactly one.
            held.pop();
            let _again = give()?;
            ensure!(refusal(give())? == Errno::DQUOT);
            Ok(())
        })
    });
}

/// Grants that a peer took back and this side still holds used to have no bound but that of handles, however many the
/// peer gave.
#[test]
fn module_grants_of_peers_are_charged() {
    test_without_gauges(|guest| {
        let here = [Topology::Numa2, Topology::Numa4];
        guest.require(&here, "both sides must be this module's")?;
        with_parameters(guest, c"max_context_mib=1", || {
            let local = Loopback::new(guest)?;
            let theirs = Buffer::create(&local.far_context, 4096, Placement::Any)?;
            // A page is left for grants.
            let _mine = Buffer::create(&local.near_context, 255 << 12, Placement::Any)?;
            let limit = guest.limit(10);
            let give = |label| {
                let terms = GrantTerms {
                    label,
                    ..GrantTerms::default()
                };
                local.far.grant_on(&theirs, 0..4096, &terms, limit)
            };
            let mut held = Vec::new();
            let refused = loop {
                let own = give(0)?;
                match local.near.wait_grant(limit) {
                    Ok(grant) => held.push(grant),
                    Err(error) => break error,
                }
                drop(own);
                ensure!(held.len() < 4096, "{} grants in a page", held.len());
            };
            ensure!(refused.errno() == Some(Errno::DQUOT), "{refused}");
            ensure!(held.len() > 1, "{} grants in a page", held.len());
            // The refused grant was taken back meanwhile; the next ones find room as soon as there is some, in their
            // order.
            let _again = (give(1)?, give(2)?);
            ensure!(refusal(local.near.wait_grant(limit))? == Errno::DQUOT);
            held.truncate(1);
            let taken = (local.near.wait_grant(limit)?, local.near.wait_grant(limit)?);
            let labels = (taken.0.label(), taken.1.label());
            ensure!(labels == (1, 2), "{labels:?}");
            Ok(())
        })
    });
}

/// Heartbeats a minute apart: so another mechanism must find what they would find as well.
const RARE: &CStr = c"heartbeat_ms=60000";

/// It used to wait for the next heartbeat, and after a lost CREDIT it did not end at all.
#[test]
fn module_broken_endpoint_ends_at_once() {
    test_without_gauges(|guest| {
        faults::require()?;
        faults::quiet()?;
        with_parameters(guest, RARE, || {
            for lost in ["a grant", "a credit"] {
                let heartbeat = Instant::now() + Duration::from_secs(60);
                let local = Loopback::new(guest)?;
                let theirs = Buffer::create(&local.far_context, 4096, Placement::Any)?;
                let mut here = Channel::builder().entries(4).build(&local.near_context)?;
                let mut there = Channel::builder().entries(4).build(&local.far_context)?;
                there.push(Entry::recv(&local.far))?;
                there.submit()?;
                // The credit has arrived: the next message is the one that is lost.
                local.credited(guest, 1)?;
                let point = Point::always("post_message")?;
                here.push(Entry::recv(&local.near))?;
                let granted = if lost == "a grant" {
                    let terms = GrantTerms::default();
                    Some(local.far.grant_on(&theirs, 0..4096, &terms, guest.limit(2)))
                } else {
                    here.submit()?;
                    None
                };
                ensure!(point.fired()? > 0, "{lost}: no message was lost");
                for channel in [&mut here, &mut there] {
                    let done = complete(channel, 1, guest.limit(5))?;
                    ensure!(done[0].state() != State::Ok, "{lost}: {done:?}");
                }
                ensure!(Instant::now() < heartbeat, "{lost}: the heartbeat ended it");
                drop(granted);
            }
            Ok(())
        })
    });
}

/// What waited behind a canceled operation used to stay until the next heartbeat.
#[test]
fn module_cancel_lets_others_go_on() {
    test_without_gauges(|guest| {
        with_parameters(guest, RARE, || {
            let local = Loopback::new(guest)?;
            let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
            let mut here = Channel::builder().entries(8).build(&local.near_context)?;
            // The peer has no receive for it.
            here.push(Entry::send(&local.near, mine.range(0, 0), 0).user_data(1))?;
            here.push(Entry::fence(&local.near).user_data(2))?;
            here.submit()?;
            here.push(Entry::cancel(&local.near, 1).user_data(3))?;
            let done = complete(&mut here, 3, guest.limit(10))?;
            let state = |name| {
                let mut found = done.iter().filter(|done| done.user_data() == name);
                found.next().map(Completion::state)
            };
            let states = [1, 2, 3].map(state);
            let wanted = [State::Canceled, State::Ok, State::Ok].map(Some);
            ensure!(states == wanted, "{done:?}");
            Ok(())
        })
    });
}

/// They used to stay until the next heartbeat, and the peer could reach the memory until then.
#[test]
fn module_grants_end_with_their_endpoint() {
    test_without_gauges(|guest| {
        let here = [Topology::Numa2, Topology::Numa4];
        guest.require(&here, "both sides must be this module's")?;
        with_parameters(guest, RARE, || {
            let heartbeat = Instant::now() + Duration::from_secs(60);
            let local = Loopback::new(guest)?;
            let (_theirs, own, _given) = local.granted(guest, &GrantTerms::default())?;
            let mut there = Channel::builder().entries(4).build(&local.far_context)?;
            there.push(Entry::watch_grant(&local.far, &own))?;
            there.submit()?;
            destroy(&local.near_context, local.near.raw_handle())?;
            let done = complete(&mut there, 1, guest.limit(5))?[0];
            let ended = done.is_ok() && done.imm() == abi::GRANT_END_ENDPOINT;
            ensure!(ended, "{done:?}");
            ensure!(Instant::now() < heartbeat, "the heartbeat ended it");
            Ok(())
        })
    });
}

/// A side with rarer heartbeats than its peer used to be taken for dead: the peer counted in its own interval.
#[test]
fn module_heartbeats_need_not_be_equal() {
    test_without_gauges(|guest| {
        faults::require()?;
        faults::quiet()?;
        let here = [Topology::Numa2, Topology::Numa4];
        guest.require(&here, "both sides must be this module's")?;
        let parameters = guest.pick(c"heartbeat_ms=50", c"heartbeat_ms=250");
        with_parameters(guest, parameters, || {
            // The connecting side has heartbeats that are 40 times rarer: ten intervals of the other side pass between
            // them.
            let rare = Point::once_here("heartbeat_rare")?;
            let local = Loopback::new(guest)?;
            ensure!(rare.fired()? == 1, "{} sides are slow", rare.fired()?);
            drop(rare);
            let mut here = Channel::builder().entries(4).build(&local.near_context)?;
            let idle = guest.pick(Duration::from_millis(1500), Duration::from_secs(8));
            here.push(Entry::watch(&local.near, 0, 0, 1).time_limit(idle))?;
            let done = complete(&mut here, 1, guest.limit(20))?[0];
            ensure!(done.state() == State::Timeout, "{done:?}");
            for side in [&local.near, &local.far] {
                let state = side.query()?.state;
                ensure!(state == EndpointState::Up, "{state:?}");
            }
            Ok(())
        })
    });
}

/// A receive that was posted while the endpoint's timer ran used to rely on that run to announce it, which was too
/// late.
#[test]
fn module_receive_is_reported_though_the_timer_runs() {
    test_without_gauges(|guest| {
        let here = [Topology::Numa2, Topology::Numa4];
        guest.require(&here, "both sides must be this module's")?;
        with_parameters(guest, RARE, || {
            let heartbeat = Instant::now() + Duration::from_secs(60);
            let local = Loopback::new(guest)?;
            let mut there = Channel::builder().entries(16).build(&local.far_context)?;
            for _ in 0..8 {
                there.push(Entry::recv(&local.far))?;
            }
            there.submit()?;
            local.credited(guest, 8)?;
            let delay = DelayPoint::open("timer_running", Duration::from_millis(500))?;
            // The timer ends the watch, and then is at the delay point.
            let limit = Duration::from_millis(20);
            there.push(Entry::watch(&local.far, 0, 0, 1).time_limit(limit))?;
            let done = complete(&mut there, 1, guest.limit(10))?;
            ensure!(done[0].state() == State::Timeout, "{done:?}");
            // The peer has more than half of the credits left, so this one is not announced at once.
            there.push(Entry::recv(&local.far))?;
            there.submit()?;
            drop(delay);
            local.credited(guest, 9)?;
            ensure!(Instant::now() < heartbeat, "the heartbeat announced it");
            Ok(())
        })
    });
}

/// Where nothing may be posted behind a READ, a long one used to hold the heartbeats back: the peer took this side for
/// dead.
#[test]
fn module_heartbeats_pass_a_long_read() {
    const BYTES: u32 = 4 << 20;
    test_without_gauges(|guest| {
        let here = [Topology::Numa2, Topology::Numa4];
        guest.require(&here, "both sides must be this module's")?;
        let (parameters, rate) = guest.pick(
            (c"heartbeat_ms=100", "rate 16mbit"),
            (c"heartbeat_ms=500", "rate 4mbit"),
        );
        with_parameters(guest, parameters, || {
            let mut connection = Connection::to_peer(guest)?;
            let rights = Rights::from_bits(Rights::WRITE.bits() | Rights::READ.bits());
            let (theirs, given) = connection.remote_buffer_for(guest, BYTES.into(), rights)?;
            connection.peer.ask(Request::Fill {
                buffer: theirs,
                offset: 0,
                length: BYTES.into(),
                seed: 77,
            })?;
            let mine = Buffer::create(&connection.context, BYTES.into(), Placement::Any)?;
            let mut channel = Channel::builder().entries(8).build(&connection.context)?;
            let slow = || Netem::on(&Link::only()?, rate);
            let slow = netns::inside("dp1", slow)??;
            let begun = Instant::now();
            channel.push(Entry::read(mine.range(0, BYTES), given.at(0)))?;
            let done = complete(&mut channel, 1, guest.limit(60));
            let took = begun.elapsed();
            netns::inside("dp1", || drop(slow))?;
            done?[0].result().context("the READ")?;
            let silence = guest.pick(Duration::from_secs(1), Duration::from_secs(5));
            ensure!(
                took > silence,
                "{took:?} are too short for anybody to notice"
            );
            holds(&mine, BYTES.into(), 77, 0)?;
            let state = connection.endpoint.query()?.state;
            ensure!(state == EndpointState::Up, "{state:?}");
            let endpoint = connection.remote;
            let there = connection.peer.ask(Request::Query { endpoint })?;
            ensure!(
                matches!(there, Reply::Endpoint { up: true, .. }),
                "{there:?}"
            );
            Ok(())
        })
    });
}

#[test]
fn module_heartbeat_finds_a_silent_peer() {
    test_without_gauges(|guest| {
        let here = [Topology::Numa2, Topology::Numa4];
        guest.require(&here, "both sides must be this module's")?;
        // Far below the time that the transport's own retries take.
        let parameters = guest.pick(c"heartbeat_ms=50", c"heartbeat_ms=500");
        with_parameters(guest, parameters, || {
            let mut connection = Connection::to_peer(guest)?;
            let mut channel = Channel::builder().entries(8).build(&connection.context)?;
            // Idle, but alive: more than ten heartbeats pass.
            let idle = guest.pick(Duration::from_millis(700), Duration::from_secs(7));
            channel.push(Entry::watch(&connection.endpoint, 0, 0, 1).time_limit(idle))?;
            let done = complete(&mut channel, 1, guest.limit(20))?[0];
            ensure!(done.state() == State::Timeout, "{done:?}");
            channel.push(Entry::watch(&connection.endpoint, 0, 0, 1))?;
            channel.submit()?;
            let endpoint = connection.remote;
            let muted = Netem::on(&Link::only()?, "loss 100%")?;
            let found = poll::until(guest.limit(20), || {
                match connection.peer.ask(Request::Query { endpoint })? {
                    Reply::Endpoint { up: true, .. } => Ok(None),
                    Reply::Endpoint { error, .. } => Ok(Some(error)),
                    other => Err(unexpected(&other)),
                }
            })?;
            ensure!(found == Some(Errno::TIMEDOUT.raw_os_error()), "{found:?}");
            // The peer's end reaches this side: only the other direction is cut.
            let done = complete(&mut channel, 1, guest.limit(20))?[0];
            drop(muted);
            ensure!(done.state() == State::PeerDead, "{done:?}");
            Ok(())
        })
    });
}
