// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process group for a program that starts others: all of them end together.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};

/// A process group that ends as one. Dropping it kills every process in it.
///
/// The parent-death signal reaches only the process that we start, and not the shell, the second Python and the QEMU
/// behind it. So the group has a leader of ours: it waits for the end of a pipe that only this process holds open, and
/// then kills the group. This works however this process ends, also by SIGKILL, as long as no process leaves the group.
pub struct Group {
    leader: Child,
    over: bool,
}

impl Group {
    /// A group with only its leader.
    pub fn new() -> Result<Self> {
        let leader = Command::new("sh")
            .args(["-c", "cat >/dev/null; kill -s KILL 0"])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run sh")?;
        Ok(Self {
            leader,
            over: false,
        })
    }

    /// Starts a program in the group.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let id = Pid::from_child(&self.leader).as_raw_nonzero().get();
        command.process_group(id).spawn()
    }

    /// Kills every process in it at once.
    pub fn kill(&mut self) {
        if !self.over {
            self.over = true;
            // The leader has not been waited for, so the number is still the group's.
            let _ = kill_process_group(Pid::from_child(&self.leader), Signal::KILL);
            let _ = self.leader.wait();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::process::ChildStdout;

    /// Starts a program that starts another and waits for it; returns the pipe that both hold open.
    fn family(group: &Group) -> (Child, BufReader<ChildStdout>) {
        let mut command = Command::new("sh");
        command.args(["-c", "sh -c 'echo up; sleep 1000; :'; :"]);
        let mut child = group.spawn(command.stdout(Stdio::piped())).unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        (child, output)
    }

    #[test]
    fn nobody_survives_a_kill() {
        let mut group = Group::new().unwrap();
        let (mut child, mut output) = family(&group);
        group.kill();
        // The end of the pipe: no process of the family holds it any more.
        assert_eq!(output.read(&mut [0]).unwrap(), 0);
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn nobody_survives_whoever_started_the_group() {
        let mut group = Group::new().unwrap();
        let (mut child, mut output) = family(&group);
        // What the kernel does when this process ends.
        drop(group.leader.stdin.take());
        assert_eq!(output.read(&mut [0]).unwrap(), 0);
        assert!(!child.wait().unwrap().success());
    }
}
