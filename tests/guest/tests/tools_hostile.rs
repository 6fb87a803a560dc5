// SPDX-License-Identifier: MIT OR Apache-2.0

//! The tool in a hostile environment: names that move the cursor, outputs that accept nothing, recorders that are
//! killed.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dmaplane::{ConnectOptions, Context, Endpoint, Listener};
use dmaplane_guest_tests::tool::{said, tool};
use dmaplane_observe::state::State;
use dmaplane_testkit::disposable::DisposableNetdev;
use dmaplane_testkit::iproute2::rdma;
use dmaplane_testkit::{ErrorContext as _, Guest, Result, ensure, poll, test};
use rustix::process::{Pid, Signal, kill_process};

/// The commands that print and change nothing.
const COMMANDS: [&[&str]; 7] = [
    &["info"],
    &["numa", "--no-measure"],
    &["top", "--once", "--interval", "0.05"],
    &["metrics"],
    &["trace", "events"],
    &["script"],
    &["--help"],
];

#[test]
fn tools_hostile_outputs_end_in_documented_codes() {
    test(|_| {
        let full = || File::options().write(true).open("/dev/full");
        for args in COMMANDS {
            let status = tool(args)?.stdout(full()?).stderr(full()?).status()?;
            // Of the help, nobody checks whether it could be printed.
            let want = i32::from(!args.contains(&"--help"));
            ensure!(status.code() == Some(want), "{args:?}: {status}");

            let (reader, writer) = std::io::pipe()?;
            drop(reader);
            let output = tool(args)?.stdout(writer).stderr(Stdio::piped()).output()?;
            ensure!(output.status.code() == Some(0), "{args:?}: {output:?}");
            ensure!(said(&output).is_empty(), "{args:?}: {output:?}");
        }
        Ok(())
    });
}

#[test]
fn tools_hostile_names_reach_no_terminal() {
    test(|_| {
        let context = Context::open()?;
        let own = std::process::id().to_string();
        let before = fs::read("/proc/self/comm")?;
        let shown = ["\x1b[2J\x1b[31mX\x07", "a\nSTUCK 9 s: x"].map(|name| -> Result<()> {
            fs::write("/proc/self/comm", name)?;
            let text = tool(&["top", "--once", "--interval", "0.05"])?.output()?;
            let text = String::from_utf8(text.stdout)?;
            let row = text.lines().find(|line| line.contains(&own));
            ensure!(row.is_some(), "no row of {own}: {text}");
            let plain = text.chars().all(|c| c == '\n' || !c.is_control());
            ensure!(plain, "{text:?}");
            ensure!(!text.contains("\nSTUCK 9 s: x"), "{text:?}");
            let json = tool(&["top", "--once", "--interval", "0.05", "--json"])?.output()?;
            let json: serde_json::Value = serde_json::from_slice(&json.stdout)?;
            let files = json["files"].as_array().context("files")?;
            let named = files.iter().any(|file| file["command"] == name);
            ensure!(named, "no {name:?} in {files:?}");
            Ok(())
        });
        fs::write("/proc/self/comm", before)?;
        drop(context);
        shown.into_iter().collect()
    });
}

#[test]
fn tools_hostile_device_makes_up_no_member() {
    test(|guest| {
        DisposableNetdev::with(|netdev| {
            // Before there is a connection: an endpoint keeps the name that its device had.
            let name = "a peer=1.2.3.4:5 \\x";
            rename(&netdev.link.name, name)?;
            let context = Context::open()?;
            let address = (netdev.address, 0).into();
            let listener = Listener::bind(&context, address, 1)?;
            let options = ConnectOptions {
                timeout: guest.limit(10),
                ..Default::default()
            };
            let (near, far) = std::thread::scope(|scope| {
                let far = scope.spawn(|| listener.accept(16, guest.limit(10)));
                let near = Endpoint::connect(&context, listener.local(), &options);
                (near, far.join())
            });
            let _far = far.map_err(|_| dmaplane_testkit::anyhow!("a thread panicked"))??;
            let near = near?;
            let found = near.query().map(|info| info.device);
            let state = State::read();
            rename(name, &netdev.link.name)?;
            ensure!(found? == name);
            let state = state?;
            let mut lines = state.endpoints.iter();
            let line = lines.find(|line| line.text("device") == name);
            let line = line.with_context(|| format!("no {name} in {:?}", state.endpoints))?;
            ensure!(line.text("peer").starts_with("10.99.0.1:"), "{line:?}");
            ensure!(line.text("state") == "up", "{line:?}");
            Ok(())
        })
    });
}

/// Runs rdma(8) itself: the name may have blanks, where the helper splits its command line.
fn rename(from: &str, to: &str) -> Result<()> {
    let output = Command::new("rdma")
        .args(["dev", "set", from, "name", to])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()?;
    ensure!(output.status.success(), "{from} to {to}: {}", said(&output));
    rdma("dev show").map(drop)
}

const INSTANCES: &str = "/sys/kernel/tracing/instances";

/// The instances of recorders.
fn instances() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(INSTANCES)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("dmaplane-") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// A recorder that records for an hour unless it is ended.
fn recorder(guest: &Guest, out: &Path) -> Result<Child> {
    let inode = |path: &PathBuf| fs::metadata(path).map(|found| found.ino()).ok();
    // One that was left behind may look as if it recorded.
    let before: Vec<_> = instances()?.iter().map(inode).collect();
    let mut record = tool(&["trace", "record", "--seconds", "3600", "--out"])?;
    let mut child = record.arg(out).stderr(Stdio::piped()).spawn()?;
    let begun = poll::until(guest.limit(10), || {
        // One that is read cannot be removed, so that those from before are left alone.
        let on = |path: &PathBuf| {
            let enabled = || fs::read_to_string(path.join("events/dmaplane/enable"));
            !before.contains(&inode(path)) && enabled().is_ok_and(|text| text.trim() == "1")
        };
        Ok(instances()?.iter().any(on).then_some(()))
    })?;
    if begun.is_none() {
        child.kill()?;
        child.wait()?;
    }
    begun.context("it does not record")?;
    Ok(child)
}

fn end(child: &Child, signal: Signal) -> Result<()> {
    Ok(kill_process(Pid::from_child(child), signal)?)
}

#[test]
fn tools_hostile_signals_leave_no_recorder_behind() {
    test(|guest| {
        let folder = tempfile::tempdir()?;
        let out = folder.path().join("out.trace");
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            let mut child = recorder(guest, &out)?;
            drop(Context::open()?);
            end(&child, signal)?;
            let status = child.wait()?;
            let mut text = String::new();
            let mut errors = child.stderr.take().context("its standard error")?;
            errors.read_to_string(&mut text)?;
            ensure!(status.code() == Some(0), "{signal:?}: {status}: {text}");
            ensure!(instances()?.is_empty(), "{signal:?}: {:?}", instances()?);
            ensure!(fs::read_to_string(&out)?.starts_with("# tracer"), "{text}");
            fs::remove_file(&out)?;
        }
        let mut killed = recorder(guest, &out)?;
        end(&killed, Signal::KILL)?;
        killed.wait()?;
        ensure!(instances()?.len() == 1, "{:?}", instances()?);
        // The next recorder removes it, but not that of a third one that is alive.
        let mut living = recorder(guest, &out)?;
        ensure!(instances()?.len() == 1, "{:?}", instances()?);
        let mut short = tool(&["trace", "record", "--seconds", "0.1", "--out"])?;
        let output = short.arg(folder.path().join("short")).output()?;
        ensure!(output.status.success(), "{output:?}");
        ensure!(instances()?.len() == 1, "{:?}", instances()?);
        end(&living, Signal::TERM)?;
        ensure!(living.wait()?.success());
        ensure!(instances()?.is_empty(), "{:?}", instances()?);
        Ok(())
    });
}

/// Ended by a signal, it used to leave the terminal without echo and on the alternate screen.
#[test]
fn tools_hostile_signals_leave_the_terminal_as_it_was() {
    const ENTERS: &[u8] = b"\x1b[?1049h";
    const LEAVES: &[u8] = b"\x1b[?1049l";
    test(|_| {
        let program = tool(&[])?.get_program().to_owned();
        let program = program.into_string().ok().context("the tool's path")?;
        let folder = tempfile::tempdir()?;
        let number = folder.path().join("pid");
        for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
            let mut terminal = Command::new("script")
                .args([
                    "-qfc",
                    &format!(
                        "echo $$ >'{}'; exec {program} top --interval 0.1",
                        number.display()
                    ),
                    "/dev/null",
                ])
                .env("TERM", "xterm")
                .env("SHELL", "/bin/sh")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot run script(1)")?;
            let mut output = terminal.stdout.take().context("its output")?;
            let mut shown = Vec::new();
            let has = |shown: &[u8], what: &[u8]| shown.windows(what.len()).any(|at| at == what);
            let mut piece = [0; 4096];
            while !has(&shown, ENTERS) {
                let count = output.read(&mut piece)?;
                ensure!(count > 0, "it ended: {}", String::from_utf8_lossy(&shown));
                shown.extend_from_slice(&piece[..count]);
            }
            // Written before the shell became `top`, which has drawn by now.
            let top = fs::read_to_string(&number)?.trim().parse()?;
            let top = Pid::from_raw(top).context("no process has the number 0")?;
            kill_process(top, signal)?;
            output.read_to_end(&mut shown)?;
            let status = terminal.wait()?;
            ensure!(has(&shown, LEAVES), "{signal:?}: {status}");
        }
        Ok(())
    });
}
