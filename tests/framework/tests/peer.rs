// SPDX-License-Identifier: MIT OR Apache-2.0

//! The peer's process without a driver: it answers, dies on request, and ends with its test.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};

use dmaplane_testkit::peer::protocol::{Answer, Call, Reply, Request};

const PROGRAM: &str = env!("CARGO_BIN_EXE_dmaplane-peer");

fn serve() -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let child = Command::new(PROGRAM)
        .arg("--serve")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .expect("the peer starts");
    (child, ours)
}

fn ask(socket: impl std::io::Read + std::io::Write, request: Request) -> Answer {
    let mut socket = BufReader::new(socket);
    let mut line = serde_json::to_vec(&Call { number: 5, request }).expect("JSON");
    line.push(b'\n');
    socket.get_mut().write_all(&line).expect("the peer reads");
    let mut answer = String::new();
    socket.read_line(&mut answer).expect("the peer answers");
    serde_json::from_str(&answer).expect("an answer")
}

#[test]
fn requests_are_answered_and_the_end_of_the_connection_ends_the_process() {
    let (mut child, socket) = serve();
    let answer = ask(&socket, Request::Progress);
    assert_eq!(answer.number, 5);
    assert_eq!(answer.result, Ok(Reply::Progress(0)));
    let answer = ask(&socket, Request::Close { id: 3 });
    assert_eq!(
        answer.result.expect_err("no such object").text,
        "no object 3"
    );
    drop(socket);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_kill_is_a_real_one() {
    let (mut child, mut socket) = serve();
    let mut line = serde_json::to_vec(&Call {
        number: 1,
        request: Request::Kill,
    })
    .expect("JSON");
    line.push(b'\n');
    socket.write_all(&line).expect("the peer reads");
    assert_eq!(child.wait().expect("it dies").signal(), Some(9));
}

#[test]
fn nonsense_ends_the_process_with_a_failure() {
    let (mut child, mut socket) = serve();
    socket.write_all(b"hello\n").expect("the peer reads");
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
}

#[test]
fn the_agent_gives_each_connection_a_process() {
    let mut agent = Command::new(PROGRAM)
        .args(["--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the agent starts");
    let mut line = String::new();
    let output = agent.stdout.take().expect("its output");
    BufReader::new(output)
        .read_line(&mut line)
        .expect("it says where it listens");
    let address = line.trim().rsplit(' ').next().expect("an address");
    for _ in 0..2 {
        let socket = TcpStream::connect(address).expect("the agent accepts");
        assert_eq!(
            ask(&socket, Request::Progress).result,
            Ok(Reply::Progress(0))
        );
    }
    agent.kill().expect("the agent is killed");
    agent.wait().expect("the agent ends");
}
