//! A device whose `syncd` serves some folders as a file with settings says.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use serde_json::Value;

use super::replica::own_address;
use super::{Daemon, command, expect_status, run};

/// A device with some folders, and the file with its settings.
pub(crate) struct Device {
    pub(crate) home: tempfile::TempDir,
    pub(crate) name: &'static str,
    pub(crate) id: String,
    pub(crate) at: String,
}

impl Device {
    pub(crate) fn new(name: &'static str, folders: &[&str]) -> Device {
        let home = tempfile::tempdir().unwrap();
        folders.iter().for_each(|folder| fs::create_dir(home.path().join(folder)).unwrap());
        let device = Device { home, name, id: String::new(), at: own_address().to_string() };
        device.configure(&[], &folders.iter().map(|folder| (*folder, "")).collect::<Vec<_>>());
        let id = expect_status(&run("syncd", &["init", "--config", &device.path("syncd.toml")]), 0);
        Device { id: id.trim().to_owned(), ..device }
    }

    /// Writes its settings: peers, and folders with further keys of theirs.
    pub(crate) fn configure(&self, peers: &[&Device], folders: &[(&str, &str)]) {
        let key = self.path("key");
        let mut text = format!("listen = {:?}\nkey = {key:?}\nmetrics = \"127.0.0.1:0\"\n", self.at);
        for Device { name, id, at, .. } in peers {
            let _ = writeln!(text, "[[peer]]\nid = {id:?}\nname = {name:?}\naddresses = [{at:?}]");
        }
        for (folder, keys) in folders {
            let path = self.path(folder);
            let _ = writeln!(text, "[[folder]]\npath = {path:?}\nlabel = {folder:?}\n{keys}");
        }
        fs::write(self.path("syncd.toml"), text).unwrap();
    }

    pub(crate) fn serve(&self) -> Daemon {
        Daemon::start(self.daemon(&[]))
    }

    /// The command line of its daemon.
    pub(crate) fn daemon(&self, more: &[&str]) -> Command {
        command("syncd", &[&["-v", "serve", "--config", &self.path("syncd.toml")], more].concat())
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.home.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let fresh = tempfile::NamedTempFile::new_in(self.home.path()).unwrap();
        fs::write(fresh.path(), content).unwrap();
        fresh.persist(self.path(name)).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    /// What a command about one of its folders, or a path in it, prints.
    #[track_caller]
    pub(crate) fn ask(&self, verb: &str, name: &str, more: &[&str]) -> String {
        expect_status(&run("syncd", &[&[verb, &self.path(name)], more].concat()), 0)
    }

    #[track_caller]
    pub(crate) fn json(&self, verb: &str, name: &str, more: &[&str]) -> Value {
        serde_json::from_str(&self.ask(verb, name, &[more, &["--json"]].concat())).unwrap()
    }

    #[track_caller]
    pub(crate) fn wait(&self, folder: &str) {
        self.ask("wait", folder, &["--peers", "all", "--timeout", "60s"]);
    }
}

/// The metrics of a daemon.
pub(crate) fn scrape(daemon: &Daemon) -> String {
    scrape_at(&daemon.fact("metrics"))
}

/// The metrics at an address.
pub(crate) fn scrape_at(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
