// SPDX-License-Identifier: MIT OR Apache-2.0

//! A user without any privilege who ill-treats the driver, beside one who works with it. The gauges checked around each
//! test prove that nothing is left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicU64;

use dmaplane::{Buffer, Channel, DEVICE_PATH, EndpointState, Placement};
use dmaplane_guest_tests::Connection;
use dmaplane_testkit::hostile::Report;
use dmaplane_testkit::peer::client;
use dmaplane_testkit::peer::protocol::{Reply, Request};
use dmaplane_testkit::transfer::Send;
use dmaplane_testkit::{Guest, Result, anyhow, bail, ensure, pattern, seed, test};

/// Nobody: the user and the group.
const NOBODY: u32 = 65534;
/// Bytes that the well-behaved user transfers at a time.
const BYTES: u64 = 128 << 10;
const CHUNK: u32 = 8 << 10;
const DEPTH: u32 = 16;

/// The device node as only root and one group may use it, until it is dropped.
struct Restricted;

impl Restricted {
    fn to(group: u32, mode: u32) -> Result<Self> {
        let restricted = Self;
        std::os::unix::fs::chown(DEVICE_PATH, Some(0), Some(group))?;
        fs::set_permissions(DEVICE_PATH, fs::Permissions::from_mode(mode))?;
        Ok(restricted)
    }
}

impl Drop for Restricted {
    fn drop(&mut self) {
        // As the runner of the guest leaves it. Without that, later tests of unprivileged users fail, and say why.
        let _ = std::os::unix::fs::chown(DEVICE_PATH, Some(0), Some(0));
        let _ = fs::set_permissions(DEVICE_PATH, fs::Permissions::from_mode(0o666));
    }
}

/// A copy of the agent's program where everybody may run it; the folder that it is built in may be root's.
struct Program(PathBuf);

impl Program {
    fn copy() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("hostile-{}", std::process::id()));
        let program = Self(path);
        fs::copy(client::program()?, &program.0)?;
        fs::set_permissions(&program.0, fs::Permissions::from_mode(0o755))?;
        Ok(program)
    }

    /// The hostile process: nobody, with no further groups, and so without capabilities.
    fn hostile(&self, guest: &Guest, seed: u64, calls: u64) -> Command {
        let mut command = Command::new(&self.0);
        command
            .args(["--hostile", &seed.to_string()])
            .args(["--calls", &calls.to_string()])
            .args(["--address", &guest.local.to_string()])
            .args(["--limit", &guest.limit(20).as_secs().to_string()])
            .uid(NOBODY)
            .gid(NOBODY)
            .current_dir(Path::new("/"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It is in the guest's own memory, which goes with the guest.
        let _ = fs::remove_file(&self.0);
    }
}

fn report(output: &Output) -> Result<Report> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the hostile process: {}: {said}",
        output.status
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[test]
fn hostile_user_needs_the_nodes_permission() {
    test(|guest| {
        let program = Program::copy()?;
        let _restricted = Restricted::to(0, 0o660)?;
        let output = program.hostile(guest, 1, 1).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            !output.status.success() && said.contains("Permission denied"),
            "{}: {said}",
            output.status
        );
        Ok(())
    });
}

/// Transfers in both directions and looks at every byte, until `enough` says so. Gives the rounds.
fn work(
    guest: &Guest,
    connection: &mut Connection,
    mut enough: impl FnMut() -> bool,
) -> Result<u64> {
    let untouched = Buffer::create(&connection.context, BYTES, Placement::Any)?;
    pattern::fill_memory(&untouched, 0, BYTES, 77, 0);
    let (remote, grant) = connection.remote_buffer(guest, BYTES)?;
    let (received, _given, taken) = connection.local_buffer(guest, BYTES)?;
    let source = connection
        .peer
        .create(Request::CreateBuffer { bytes: BYTES })?;
    let sent = Buffer::create(&connection.context, BYTES, Placement::Any)?;
    let context = &connection.context;
    let mut channel = Channel::builder().entries(DEPTH).build(context)?;
    let limit_ms = connection.peer.limit_ms();
    let mut rounds = 0;
    while !enough() {
        rounds += 1;
        let pending = connection.peer.begin(Request::Receive {
            endpoint: connection.remote,
            count: BYTES / u64::from(CHUNK),
            depth: DEPTH,
            limit_ms,
        })?;
        pattern::fill_memory(&sent, 0, BYTES, rounds, 0);
        let send = Send {
            buffer: &sent,
            grant: &grant,
            length: BYTES,
            chunk: CHUNK,
            order_seed: rounds,
            immediates: true,
            rounds: 1,
        };
        send.run(&mut channel, &AtomicU64::new(0), guest.limit(30))?
            .all_ok()?;
        let chunks = u32::try_from(BYTES)? / CHUNK;
        connection.peer.received(pending)?.complete(chunks, 1)?;
        connection.peer.verify(remote, BYTES, rounds)?;

        connection.peer.ask(Request::Fill {
            buffer: source,
            offset: 0,
            length: BYTES,
            seed: !rounds,
        })?;
        let pending = connection.peer.begin(Request::Send {
            buffer: source,
            grant: taken,
            length: BYTES,
            chunk: CHUNK,
            order_seed: rounds,
            immediates: false,
            rounds: 1,
            depth: DEPTH,
            limit_ms,
        })?;
        connection.peer.sent(pending)?.all_ok()?;
        for (buffer, seed) in [(&received, !rounds), (&sent, rounds), (&untouched, 77)] {
            let wrong = pattern::mismatch_in_memory(buffer, 0, BYTES, seed, 0);
            ensure!(wrong.is_none(), "round {rounds}: byte {wrong:?} is wrong");
        }
        let state = connection.endpoint.query()?.state;
        ensure!(state == EndpointState::Up, "round {rounds}: {state:?}");
        // The peer's side of it.
        match connection.peer.ask(Request::Query {
            endpoint: connection.remote,
        })? {
            Reply::Endpoint { up: true, .. } => {}
            other => bail!("round {rounds}: {other:?}"),
        }
    }
    Ok(rounds)
}

#[test]
fn hostile_user_harms_nobody_else() {
    test(|guest| {
        let seed = seed()?;
        let calls = guest.rounds(1_000_000, 100_000);
        let program = Program::copy()?;
        let _restricted = Restricted::to(NOBODY, 0o660)?;
        let mut connection = Connection::to_peer(guest)?;
        let mut command = program.hostile(guest, seed, calls);
        let output = std::thread::scope(|scope| {
            let hostile = scope.spawn(|| command.output());
            let worked = work(guest, &mut connection, || hostile.is_finished());
            let output = hostile.join().map_err(|_| anyhow!("a thread panicked"))?;
            Ok::<_, dmaplane_testkit::Error>((worked, output?))
        });
        let (worked, output) = output?;
        let report = report(&output)?;
        println!("{} calls, seed {seed}: {:?}", report.total(), report.calls);
        println!("{} entries; ends: {:?}", report.entries, report.ends);
        let rounds = worked?;
        println!("meanwhile {rounds} rounds of transfers in both directions");
        ensure!(report.total() >= calls, "{} calls", report.total());
        ensure!(rounds > 0, "nothing was transferred meanwhile");
        Ok(())
    });
}
