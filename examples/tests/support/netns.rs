//! Network namespaces: a host of its own for a program, with addresses that nothing outside can meet.

use std::path::Path;
use std::process::Command;

/// Runs a program to its end; anything but success fails the test with what it said.
#[track_caller]
pub(crate) fn must(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the program is there");
    let said = super::text(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
    super::text(&output.stdout)
}

/// A network namespace of this test process; deleted, with its interfaces, when dropped.
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    /// Creates `PURPOSE-PID` with its loopback up.
    pub(crate) fn new(purpose: &str) -> Netns {
        let name = format!("{purpose}-{}", std::process::id());
        must("ip", &["netns", "add", &name]);
        let netns = Netns { name };
        netns.ip(&["link", "set", "lo", "up"]);
        netns
    }

    /// Its name, as `ip netns` has it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in it.
    #[track_caller]
    pub(crate) fn ip(&self, arguments: &[&str]) -> String {
        must("ip", &[&["-n", &self.name], arguments].concat())
    }

    /// Joins two namespaces by a pair of interfaces `eth0` with these addresses (`IP/LEN`).
    pub(crate) fn link(&self, address: &str, other: &Netns, other_address: &str) {
        // Made inside, so that the host never sees them.
        self.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &other.name]);
        for (netns, address) in [(self, address), (other, other_address)] {
            netns.ip(&["addr", "add", address, "dev", "eth0"]);
            netns.ip(&["link", "set", "eth0", "up"]);
        }
    }

    /// The command line of a program in it; the process is the program itself.
    pub(crate) fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program).args(arguments);
        command.env_remove("RUST_LOG");
        command
    }

    /// Runs a program in it to its end: whether it succeeded, and what it printed.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> (bool, Vec<u8>) {
        let output = self.command(Path::new(program), arguments).output().expect("the program is there");
        (output.status.success(), output.stdout)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}
