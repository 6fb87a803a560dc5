// SPDX-License-Identifier: MIT OR Apache-2.0

//! Whose a channel's polling thread is: it counts for one open file, and runs where its owner may.

use std::time::Duration;

use dmaplane::{Channel, Context, Entry, Errno, Listener, Polling};
use dmaplane_guest_tests::{complete, limit, poller_status, refusal};
use dmaplane_testkit::cgroup::CpusetCgroup;
use dmaplane_testkit::{ErrorContext as _, Gauges, Guest, Result, Skip, ensure, poll, test};

/// Sleeps at once.
const SLEEPY: Polling = Polling {
    node: None,
    idle: Duration::ZERO,
};

fn on_node(context: &Context, node: Option<u32>) -> dmaplane::Result<Channel> {
    let polling = Polling { node, ..SLEEPY };
    Channel::builder()
        .entries(8)
        .polling(polling)
        .build(context)
}

#[test]
fn channel_sqpoll_threads_have_a_quota() {
    test(|guest| {
        let most = limit("max_context_pollers")?;
        let (context, other) = (Context::open()?, Context::open()?);
        let mut channels = Vec::new();
        for _ in 0..most {
            channels.push(on_node(&context, None)?);
        }
        ensure!(refusal(on_node(&context, None))? == Errno::DQUOT);
        // Others have theirs.
        let mut theirs = on_node(&other, None)?;
        theirs.push(Entry::nop())?;
        complete(&mut theirs, 1, guest.limit(5))?;
        channels.pop();
        channels.push(on_node(&context, None)?);
        Ok(())
    });
}

#[test]
fn listeners_have_a_quota() {
    test(|guest| {
        let most = limit("max_listeners")?;
        let (context, other) = (Context::open()?, Context::open()?);
        let listen = |context| Listener::bind(context, guest.local_any_port(), 1);
        let mut listeners = Vec::new();
        for _ in 0..most {
            listeners.push(listen(&context)?);
        }
        ensure!(refusal(listen(&context))? == Errno::DQUOT);
        let _theirs = listen(&other)?;
        listeners.pop();
        listeners.push(listen(&context)?);
        Ok(())
    });
}

#[test]
fn channel_sqpoll_runs_on_its_node() {
    test(|guest| {
        let context = Context::open()?;
        let nodes = context.limits().node_ids;
        for node in 0..nodes {
            let list = format!("/sys/devices/system/node/node{node}/cpulist");
            let wanted = std::fs::read_to_string(list)?.trim().to_owned();
            if wanted.is_empty() {
                ensure!(refusal(on_node(&context, Some(node)))? == Errno::INVAL);
                continue;
            }
            let mut channel = on_node(&context, Some(node))?;
            // The previous thread's task is gone a moment after its end.
            let own = poll::until(guest.limit(5), || {
                Ok((poller_status("State:")?.len() == 1).then_some(()))
            })?;
            ensure!(own.is_some(), "more threads than one");
            // It takes its place before it takes anything.
            channel.push(Entry::nop())?;
            complete(&mut channel, 1, guest.limit(5))?;
            let found = poller_status("Cpus_allowed_list:")?;
            ensure!(found == [wanted.clone()], "{found:?} instead of {wanted}");
        }
        Ok(())
    });
}

#[test]
fn channel_sqpoll_threads_have_a_limit() {
    test(|guest| {
        let context = Context::open()?;
        let (most, each) = (limit("max_pollers")?, limit("max_context_pollers")?);
        let mut contexts = vec![context];
        let mut channels = Vec::new();
        while channels.len() < most {
            if channels.len() == each * contexts.len() {
                contexts.push(Context::open()?);
            }
            let last = contexts.last().context("no context")?;
            channels.push(on_node(last, None)?);
        }
        let other = Context::open()?;
        ensure!(refusal(on_node(&other, None))? == Errno::DQUOT);
        ensure!(Gauges::read()?.get("pollers") == most as u64);
        channels.pop();
        let mut last = on_node(&other, None)?;
        last.push(Entry::nop())?;
        complete(&mut last, 1, guest.limit(5))?;
        Ok(())
    });
}

/// Processors on which the one polling thread may run.
fn allowed(guest: &Guest, context: &Context, node: Option<u32>) -> Result<String> {
    let mut channel = on_node(context, node)?;
    channel.push(Entry::nop())?;
    complete(&mut channel, 1, guest.limit(5))?;
    let one = poll::until(guest.limit(5), || {
        let found = poller_status("Cpus_allowed_list:")?;
        Ok((found.len() == 1).then_some(found))
    })?;
    let found = one.context("another channel's thread does not go")?;
    Ok(found.concat())
}

#[test]
fn channel_sqpoll_threads_stay_in_the_cpuset() {
    test(|guest| {
        let context = Context::open()?;
        let list = |node| {
            let path = format!("/sys/devices/system/node/node{node}/cpulist");
            std::fs::read_to_string(path).map(|text| text.trim().to_owned())
        };
        let nodes = context.limits().node_ids;
        let with: Vec<u32> = (0..nodes)
            .filter(|node| list(*node).is_ok_and(|list| !list.is_empty()))
            .collect();
        let [first, second, ..] = with[..] else {
            return Err(Skip::new("there is one node with processors only").into());
        };
        let before = allowed(guest, &context, None)?;
        let cpuset = CpusetCgroup::on_processors("pollers", &list(first)?)?;
        let found = allowed(guest, &context, None)?;
        ensure!(found == list(first)?, "{found} instead of {}", list(first)?);
        let found = allowed(guest, &context, Some(first))?;
        ensure!(found == list(first)?, "{found} on node {first}");
        ensure!(refusal(on_node(&context, Some(second)))? == Errno::INVAL);
        drop(cpuset);
        let found = allowed(guest, &context, None)?;
        ensure!(found == before, "{found} instead of {before}");
        let found = allowed(guest, &context, Some(second))?;
        ensure!(found == list(second)?, "{found} on node {second}");
        Ok(())
    });
}
