// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the driver shows of everything alive: what is stuck and on what, what a file holds, counts for everybody.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::process::Command;

use dmaplane::{Buffer, Channel, Context, Entry, GrantTerms, Placement, Rights};
use dmaplane_guest_tests::{Loopback, complete, guest_program};
use dmaplane_observe::files;
use dmaplane_observe::state::{self, Line, State};
use dmaplane_testkit::iproute2::rdma;
use dmaplane_testkit::{Gauges, Result, Skip, ensure, gauges, poll, test};

/// The one line that has this member.
fn with<'a>(lines: &'a [Line], name: &str, value: &str) -> Result<&'a Line> {
    let mut found = lines.iter().filter(|line| line.text(name) == value);
    let line = found.next();
    line.ok_or_else(|| dmaplane_testkit::anyhow!("no {name}={value} in {lines:?}"))
}

#[test]
fn observe_names_what_each_operation_waits_for() {
    test(|guest| {
        // A window of one request.
        let local = Loopback::with_window(guest, (1, 1))?;
        let terms = GrantTerms {
            rights: Rights::WRITE,
            ..GrantTerms::default()
        };
        let (_target, _own, given) = local.granted(guest, &terms)?;
        let source = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let mut near = Channel::builder().entries(16).build(&local.near_context)?;
        let mut far = Channel::builder().entries(16).build(&local.far_context)?;
        let write = |id| Entry::write_imm(source.range(0, 64), given.at(0), 1).trace_id(id);
        near.push(write(501))?;
        near.push(write(502))?;
        near.push(Entry::recv(&local.near).trace_id(503))?;
        near.push(Entry::watch(&local.near, 0, 0, 1).trace_id(504))?;
        near.submit()?;

        let shown = State::read()?;
        let of = |id: &str| -> Result<String> {
            let line = with(&shown.operations, "trace_id", id)?;
            ensure!(line.number("age_ns") > 0, "{line:?}");
            Ok(format!("{} {}", line.text("op"), line.text("waits_on")))
        };
        ensure!(of("501")? == "write_imm peer-receives", "{}", of("501")?);
        ensure!(of("502")? == "write_imm order", "{}", of("502")?);
        ensure!(of("503")? == "recv arrival", "{}", of("503")?);
        ensure!(of("504")? == "watch arrivals", "{}", of("504")?);
        // The first two count as stuck; the others wait until the peer sends something.
        let stuck = shown.stuck(0);
        ensure!(stuck.len() == 2, "{stuck:?}");
        let endpoint = with(&shown.operations, "trace_id", "501")?.text("endpoint");
        let credits = with(&shown.credits, "endpoint", endpoint)?;
        ensure!(credits.number("stalled") == 1, "{credits:?}");
        ensure!(credits.number("send_credits") == 0, "{credits:?}");
        ensure!(credits.number("queued") == 2, "{credits:?}");

        far.push(Entry::recv(&local.far))?;
        far.push(Entry::recv(&local.far))?;
        complete(&mut far, 2, guest.limit(10))?;
        complete(&mut near, 2, guest.limit(10))?;
        let shown = State::read()?;
        ensure!(shown.stuck(0).is_empty(), "{:?}", shown.operations);
        let totals = shown
            .totals
            .iter()
            .find(|line| line.text("endpoint") == endpoint);
        let totals = totals.ok_or_else(|| dmaplane_testkit::anyhow!("no totals"))?;
        ensure!(totals.text("op") == "write_imm", "{totals:?}");
        ensure!(
            totals.number("ended") == 2 && totals.number("bytes") == 128,
            "{totals:?}"
        );
        Ok(())
    });
}

#[test]
fn observe_fdinfo_lists_what_a_file_holds() {
    test(|_| {
        let context = Context::open()?;
        let read =
            || fs::read_to_string(format!("/proc/self/fdinfo/{}", context.as_fd().as_raw_fd()));
        let empty = read()?;
        ensure!(empty.contains("dmaplane-buffers:\t0\n"), "{empty}");
        let _buffer = Buffer::create(&context, 8192, Placement::Any)?;
        let _channel = Channel::builder().entries(8).build(&context)?;
        let full = read()?;
        for line in [
            "dmaplane-buffers:\t1\n",
            "dmaplane-bytes:\t8192\n",
            "dmaplane-channels:\t1\n",
        ] {
            ensure!(full.contains(line), "{line:?} is not in {full}");
        }
        let files = files::open_files();
        let own = files.iter().find(|file| file.pid == std::process::id());
        ensure!(
            own.is_some_and(|file| file.holds["bytes"] == 8192),
            "{files:?}"
        );
        Ok(())
    });
}

#[test]
fn observe_sysfs_counts_as_the_gauges_do() {
    test(|_| {
        let context = Context::open()?;
        let _buffer = Buffer::create(&context, 1 << 20, Placement::Any)?;
        let counts = state::numbers("counts")?;
        let now = Gauges::read()?;
        for name in gauges::NAMES {
            ensure!(
                counts.get(name) == Some(&now.get(name)),
                "{name}: {counts:?}"
            );
        }
        ensure!(counts["bytes"] >= 1 << 20, "{counts:?}");
        let limits = state::numbers("limits")?;
        ensure!(limits["heartbeat_ms"] == 1000, "{limits:?}");
        let version = fs::read_to_string("/sys/module/dmaplane/abi_version")?;
        ensure!(version.trim() == "1", "{version}");
        Ok(())
    });
}

#[test]
fn observe_debugfs_is_for_root_only_and_names_no_address() {
    use std::os::unix::fs::PermissionsExt as _;
    test(|guest| {
        let local = Loopback::new(guest)?;
        let (_target, _own, _given) = local.granted(guest, &GrantTerms::default())?;
        for entry in fs::read_dir(state::DEBUGFS)? {
            let path = entry?.path();
            let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
            ensure!(mode & 0o077 == 0, "{}: {mode:o}", path.display());
            let text = fs::read_to_string(&path)?;
            ensure!(
                !text.contains("0xffff") && !text.contains("ffff8"),
                "{text}"
            );
            for line in text.lines() {
                for member in line.split_whitespace() {
                    let Some((name, value)) = member.split_once('=') else {
                        continue;
                    };
                    let large = value.parse::<u64>().is_ok_and(|value| value >> 47 != 0);
                    ensure!(!large || name == "link", "{member} in {}", path.display());
                }
            }
        }
        let shown = State::read()?;
        ensure!(shown.endpoints.len() == 2, "{:?}", shown.endpoints);
        ensure!(
            shown
                .endpoints
                .iter()
                .all(|line| line.text("state") == "up")
        );
        let links: Vec<_> = shown
            .endpoints
            .iter()
            .map(|line| line.text("link"))
            .collect();
        ensure!(links[0] == links[1], "{links:?}");
        let own = shown.grants.iter().find(|line| line.text("side") == "own");
        ensure!(
            own.is_some_and(|line| line.number("bytes") == 4096),
            "{:?}",
            shown.grants
        );
        ensure!(
            shown
                .regions
                .iter()
                .any(|line| line.text("access") == "remote")
        );
        Ok(())
    });
}

#[test]
fn observe_reading_races_with_everything() {
    test(|guest| {
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| -> Result<u32> {
                let mut readings = 0;
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    State::read()?;
                    readings += 1;
                }
                Ok(readings)
            });
            let work = || -> Result<()> {
                for _ in 0..guest.pick(30, 5) {
                    let local = Loopback::new(guest)?;
                    let (_target, own, given) = local.granted(guest, &GrantTerms::default())?;
                    let source = Buffer::create(&local.near_context, 4096, Placement::Any)?;
                    let mut near = Channel::builder().entries(8).build(&local.near_context)?;
                    near.push(Entry::write(source.range(0, 64), given.at(0)))?;
                    near.push(Entry::write_imm(source.range(0, 64), given.at(0), 0))?;
                    complete(&mut near, 1, guest.limit(10))?;
                    own.revoke();
                }
                Ok(())
            };
            let result = work();
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            let readings = reader.join();
            result?;
            let readings =
                readings.map_err(|_| dmaplane_testkit::anyhow!("the reader panicked"))??;
            ensure!(readings > 0);
            Ok(())
        })
    });
}

#[test]
fn observe_rdma_resource_names_the_driver() {
    test(|guest| {
        let _local = Loopback::new(guest)?;
        for object in ["cq", "pd", "cm_id"] {
            let text = rdma(&format!("resource show {object}"))?;
            ensure!(text.contains("dmaplane"), "{object}: {text}");
        }
        Ok(())
    });
}

/// A script of the folder `observe`, or the list of those that there are.
fn script(name: &str) -> Result<std::path::PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../observe"));
    let path = folder.join(name).with_extension("bt");
    if path.is_file() {
        return Ok(path);
    }
    let there = fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.file_name());
    dmaplane_testkit::bail!(
        "no script {name}; there are {:?}",
        there.collect::<Vec<_>>()
    );
}

/// A script that runs until this is dropped; its lines go to a file.
struct Bpftrace {
    child: std::process::Child,
    output: tempfile::NamedTempFile,
}

impl Bpftrace {
    fn start(name: &str) -> Result<Self> {
        let output = tempfile::NamedTempFile::new()?;
        let child = Command::new("bpftrace")
            .args(["-B", "line"])
            .arg(script(name)?)
            .stdout(output.reopen()?)
            .stderr(output.reopen()?)
            .spawn()?;
        Ok(Self { child, output })
    }

    /// Whether it has ended by itself, which it should not.
    fn is_over(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    fn text(&self) -> Result<String> {
        Ok(fs::read_to_string(self.output.path())?)
    }

    /// Ends the script, which prints its maps then. bpftrace 0.17 handles a signal only while it sleeps, and loses one
    /// that arrives while it prints: so the signal is sent again, but not so soon that it would cut off the final
    /// output.
    fn finish(mut self, guest: &dmaplane_testkit::Guest) -> Result<String> {
        let pid = rustix::process::Pid::from_child(&self.child);
        for _ in 0..10 {
            rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
            let ended = poll::until(guest.limit(2), || Ok(self.is_over()?.then_some(())))?;
            if ended.is_some() {
                return self.text();
            }
        }
        dmaplane_testkit::bail!("the script does not end: {}", self.text()?)
    }
}

impl Drop for Bpftrace {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn observe_scripts_print_what_happens() {
    test(|guest| {
        if !Path::new("/proc/sys/kernel/unprivileged_bpf_disabled").exists() {
            return Err(Skip::new("the kernel lacks CONFIG_BPF_SYSCALL").into());
        }
        // Each with what it prints at once, and what at its end.
        let scripts = [
            ("memory", "buffer ", "@lifetime_ms"),
            ("stalls", "goes on with 1 credits", "@stalled_us"),
            ("failures", "ended in state 4", "@failed"),
            ("teardown", "torn down in", "@fence_us"),
            ("latency", "Attaching 2 probes", "@provider_us[3]"),
        ];
        for (name, live, last) in scripts {
            let mut running = Bpftrace::start(name)?;
            // Attaching takes a while: repeats the operations until the script shows them.
            let seen = poll::until(guest.limit(60), || {
                happenings(guest)?;
                ensure!(
                    !running.is_over()?,
                    "{name}.bt has ended: {}",
                    running.text()?
                );
                Ok(running.text()?.contains(live).then_some(()))
            })?;
            let text = running.text()?;
            ensure!(seen.is_some(), "{name}.bt never printed {live:?}: {text}");
            if name == "latency" {
                // It prints nothing before its ten seconds are over: the output at its end is checked.
                let map = poll::until(guest.limit(60), || {
                    happenings(guest)?;
                    Ok(running.text()?.contains(last).then_some(()))
                })?;
                ensure!(
                    map.is_some(),
                    "latency.bt never printed: {}",
                    running.text()?
                );
                continue;
            }
            happenings(guest)?;
            let text = running.finish(guest)?;
            ensure!(
                text.contains(last),
                "{name}.bt ended without {last}: {text}"
            );
        }
        Ok(())
    });
}

/// A stall, a transfer, a cancel, a grant that is taken back, and the end of it all.
fn happenings(guest: &dmaplane_testkit::Guest) -> Result<()> {
    let local = Loopback::new(guest)?;
    let (_target, own, given) = local.granted(guest, &GrantTerms::default())?;
    let source = Buffer::create(&local.near_context, 4096, Placement::Any)?;
    let mut near = Channel::builder().entries(8).build(&local.near_context)?;
    let mut far = Channel::builder().entries(8).build(&local.far_context)?;
    near.push(Entry::write_imm(source.range(0, 64), given.at(0), 1).trace_id(1))?;
    near.push(Entry::recv(&local.near).user_data(5))?;
    near.push(Entry::cancel(&local.near, 5))?;
    near.submit()?;
    far.push(Entry::recv(&local.far))?;
    complete(&mut far, 1, guest.limit(10))?;
    complete(&mut near, 3, guest.limit(10))?;
    own.revoke();
    Ok(())
}

#[test]
fn observe_trace_is_followed_from_one_side_to_the_other() {
    test(|guest| {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("both.trace");
        let recording = dmaplane_observe::tracefs::Recording::start(&[])?;
        {
            let local = Loopback::new(guest)?;
            let (_target, _own, given) = local.granted(guest, &GrantTerms::default())?;
            let source = Buffer::create(&local.near_context, 4096, Placement::Any)?;
            let mut near = Channel::builder().entries(8).build(&local.near_context)?;
            let mut far = Channel::builder().entries(8).build(&local.far_context)?;
            far.push(Entry::recv(&local.far).trace_id(8))?;
            far.submit()?;
            near.push(Entry::write_imm(source.range(0, 64), given.at(0), 1).trace_id(1234567))?;
            complete(&mut near, 1, guest.limit(10))?;
            complete(&mut far, 1, guest.limit(10))?;
        }
        fs::write(&file, recording.text()?)?;
        drop(recording);
        let program = guest_program("dmaplane")?;
        let chrome = folder.path().join("chrome.json");
        let output = Command::new(&program)
            .args(["trace", "follow", "1234567"])
            .arg(format!("here={}", file.display()))
            .arg("--chrome")
            .arg(&chrome)
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{output:?}");
        for step in ["op_submit", "op_post", "op_arrive", "ended OK"] {
            ensure!(text.contains(step), "no {step} in {text}");
        }
        let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(&chrome)?)?;
        ensure!(
            json["traceEvents"]
                .as_array()
                .is_some_and(|events| events.len() > 5),
            "{json}"
        );
        let unknown = Command::new(&program)
            .args(["trace", "record", "--event", "op_vanish", "--out"])
            .arg(&file)
            .output()?;
        let text = String::from_utf8_lossy(&unknown.stderr);
        ensure!(
            !unknown.status.success() && text.contains("op_submit"),
            "{unknown:?}"
        );
        Ok(())
    });
}
