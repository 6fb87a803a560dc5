// SPDX-License-Identifier: MIT OR Apache-2.0

//! Trace events: each step leaves its event, with the numbers of what was done.

use dmaplane::{Buffer, Channel, Context, Entry, GrantTerms, Placement, Rights};
use dmaplane_guest_tests::{Loopback, complete};
use dmaplane_observe::trace::{EVENTS, Event};
use dmaplane_observe::tracefs::Recording;
use dmaplane_testkit::{Guest, Result, ensure, test};

/// The first event of a name, which must be there.
fn first<'a>(events: &'a [Event], name: &str) -> Result<&'a Event> {
    let event = events.iter().find(|event| event.name == name);
    event.ok_or_else(|| dmaplane_testkit::anyhow!("no {name} among {} events", events.len()))
}

/// The events of a name with a member of this value.
fn of<'a>(events: &'a [Event], name: &str, field: &str, value: u64) -> Vec<&'a Event> {
    let wanted = |event: &&Event| event.name == name && event.number(field) == Some(value);
    events.iter().filter(wanted).collect()
}

/// One WRITE_IMM from near to far, whose trace ids are 70 and 71.
fn transfer(guest: &Guest, local: &Loopback) -> Result<()> {
    let terms = GrantTerms {
        rights: Rights::WRITE,
        ..GrantTerms::default()
    };
    let (_target, own, given) = local.granted(guest, &terms)?;
    let source = Buffer::create(&local.near_context, 4096, Placement::Any)?;
    let mut near = Channel::builder().entries(8).build(&local.near_context)?;
    let mut far = Channel::builder().entries(8).build(&local.far_context)?;
    let limit = guest.limit(10);
    // Before its receive: it has to wait for a credit.
    near.push(Entry::write_imm(source.range(0, 1024), given.at(0), 9).trace_id(70))?;
    near.submit()?;
    far.push(Entry::recv(&local.far).trace_id(71))?;
    complete(&mut far, 1, limit)?[0].result()?;
    complete(&mut near, 1, limit)?[0].result()?;
    own.revoke();
    Ok(())
}

#[test]
fn trace_every_step_of_a_transfer() {
    test(|guest| {
        let recording = Recording::start(&[])?;
        {
            let local = Loopback::new(guest)?;
            transfer(guest, &local)?;
        }
        let events = recording.events()?;

        let post = of(&events, "op_post", "trace_id", 70);
        ensure!(post.len() == 1, "{post:?}");
        ensure!(post[0].number("bytes") == Some(1024), "{post:?}");
        ensure!(post[0].number("seq") == Some(1), "{post:?}");
        let link = post[0].number("link");
        let near = post[0].number("endpoint");

        let arrive = of(&events, "op_arrive", "trace_id", 71);
        ensure!(arrive.len() == 1, "{arrive:?}");
        ensure!(arrive[0].number("imm") == Some(9), "{arrive:?}");
        // What ties the two sides together.
        ensure!(arrive[0].number("seq") == Some(1), "{arrive:?}");
        ensure!(
            arrive[0].number("link") == link && link > Some(0),
            "{arrive:?}"
        );
        ensure!(arrive[0].number("endpoint") != near, "{arrive:?}");

        for (id, op) in [(70, "WRITE_IMM"), (71, "RECV")] {
            let submit = of(&events, "op_submit", "trace_id", id);
            ensure!(
                submit.len() == 1 && submit[0].text("op") == op,
                "{submit:?}"
            );
            let done = of(&events, "op_complete", "trace_id", id);
            ensure!(done.len() == 1, "{done:?}");
            ensure!(done[0].text("state") == "OK", "{done:?}");
            ensure!(done[0].number("bytes") == Some(1024), "{done:?}");
            ensure!(done[0].number("link") == link, "{done:?}");
        }
        let done = of(&events, "op_complete", "trace_id", 70)[0];
        let part = |name| done.number(name).unwrap_or(0);
        ensure!(part("queued_ns") > 0 && part("provider_ns") > 0, "{done:?}");
        ensure!(
            part("queued_ns") + part("provider_ns") == part("total_ns"),
            "{done:?}"
        );

        let stall = first(&events, "credit_stall")?;
        ensure!(stall.number("endpoint") == near, "{stall:?}");
        let resume = first(&events, "credit_resume")?;
        ensure!(resume.number("credits") == Some(1), "{resume:?}");
        ensure!(resume.number("stalled_ns") > Some(0), "{resume:?}");

        let created = first(&events, "grant_create")?;
        ensure!(created.number("bytes") == Some(4096), "{created:?}");
        let number = created.number("grant");
        for name in ["grant_revoke", "grant_ended"] {
            let event = first(&events, name)?;
            ensure!(event.number("grant") == number, "{event:?}");
        }
        // Two buffers and a region of each, and all of them gone.
        for name in [
            "buffer_alloc",
            "buffer_free",
            "region_register",
            "region_revoke",
            "region_free",
            "endpoint_up",
            "endpoint_down",
            "teardown_begin",
            "teardown_end",
        ] {
            let count = events.iter().filter(|event| event.name == name).count();
            ensure!(count >= 2, "{count} {name}");
        }
        // Whoever ends first says so to the other.
        let will = first(&events, "endpoint_last_will")?;
        ensure!(will.number("why").is_some(), "{will:?}");
        let messages = |name| {
            let of_link = events.iter().filter(|event| event.name == name);
            of_link.filter(|event| event.number("link") == link).count()
        };
        let (sent, came) = (messages("message_send"), messages("message_arrive"));
        ensure!(came > 0 && came <= sent, "{came} of {sent} messages came");
        Ok(())
    });
}

#[test]
fn trace_shows_no_address_and_no_key() {
    test(|guest| {
        let recording = Recording::start(&[])?;
        let local = Loopback::new(guest)?;
        transfer(guest, &local)?;
        drop(local);
        let text = recording.text()?;
        ensure!(text.contains("op_complete"), "nothing was recorded");
        // A kernel address in hexadecimal, or in decimal as large as one, apart from hashes of the link.
        for event in recording.events()? {
            for (name, value) in &event.fields {
                ensure!(!value.contains("ffff"), "{name}={value}");
                let large = value.parse::<u64>().is_ok_and(|value| value >> 47 != 0);
                ensure!(!large || name == "link", "{name}={value} of {}", event.name);
            }
        }
        Ok(())
    });
}

#[test]
fn trace_nops_have_both_events() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder().entries(16).build(&context)?;
        let recording = Recording::start(&["op_submit", "op_complete"])?;
        for id in 1..=10 {
            channel.push(Entry::nop().trace_id(id))?;
        }
        complete(&mut channel, 10, guest.limit(5))?;
        let events = recording.events()?;
        for id in 1..=10 {
            for name in ["op_submit", "op_complete"] {
                let found = of(&events, name, "trace_id", id);
                ensure!(
                    found.len() == 1 && found[0].text("op") == "NOP",
                    "{name} {id}: {found:?}"
                );
            }
        }
        Ok(())
    });
}

#[test]
fn trace_has_the_events_that_the_library_knows() {
    test(|_| {
        let mut names = Vec::new();
        for entry in std::fs::read_dir("/sys/kernel/tracing/events/dmaplane")? {
            let entry = entry?;
            if entry.path().is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        ensure!(names == EVENTS, "{names:?}");
        Ok(())
    });
}
