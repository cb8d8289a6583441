//! The three that race, behind one trait: two replicas `left` and `right` of one folder, and how long until `right`
//! has what `left` has.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::machine::{PATIENCE, Running, family, until};

/// How often a peer is asked whether it is done.
const POLL: Duration = Duration::from_millis(5);

/// Two directories and a place for logs and state, all on one filesystem.
#[derive(Clone)]
pub(crate) struct Ground {
    pub(crate) left: PathBuf,
    pub(crate) right: PathBuf,
    pub(crate) state: PathBuf,
}

impl Ground {
    /// Makes the three in `base`.
    pub(crate) fn below(base: &Path) -> Ground {
        let of = |name: &str| {
            let dir = base.join(name);
            fs::create_dir_all(&dir).expect("a directory can be made");
            dir
        };
        Ground { left: of("left"), right: of("right"), state: of("state") }
    }

    /// Another ground, gone with this one.
    pub(crate) fn within(&self, name: &str) -> Ground {
        Ground::below(&self.state.join(name))
    }
}

/// Two replicas that are kept, or can be made, equal.
pub(crate) trait Pair {
    /// Connects the two and returns when `right` has everything; gives the moment from which that counts.
    fn connect(&mut self) -> Instant;
    /// `path` (or below it) changed in `left`: returns when `right` has it.
    fn catch_up(&mut self, path: &str);
    /// Looks through `left`, in which nothing changed.
    fn rescan(&mut self);
    /// The processes of the receiving replica.
    fn receivers(&self) -> Vec<u32>;
}

/// One of the three.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tool {
    Ours,
    Syncthing,
    Rsync,
}

impl Tool {
    pub(crate) const ALL: [Tool; 3] = [Tool::Ours, Tool::Syncthing, Tool::Rsync];

    pub(crate) fn name(self) -> &'static str {
        ["ours", "syncthing", "rsync"][self as usize]
    }

    /// Both replicas run, `left` has looked at its `files` files, and nothing is connected.
    pub(crate) fn ready(self, syncd: &Path, ground: &Ground, files: u64, tuned: bool) -> Box<dyn Pair> {
        match self {
            Tool::Ours => Box::new(Ours::ready(syncd, ground, files)),
            Tool::Syncthing => Box::new(Syncthing::ready(ground, files, if tuned { 1 } else { 10 })),
            Tool::Rsync => Box::new(Rsync::ready(ground)),
        }
    }
}

/// Two `syncd`.
pub(crate) struct Ours {
    syncd: PathBuf,
    ground: Ground,
    left_id: String,
    left_at: String,
    _left: Running,
    right: Option<Running>,
}

impl Ours {
    fn ready(syncd: &Path, ground: &Ground, files: u64) -> Ours {
        let init = |dir: &Path| output(Command::new(syncd).arg("init").arg(dir)).trim().to_owned();
        let (left_id, right_id) = (init(&ground.left), init(&ground.right));
        let (left, left_at) = serve(syncd, &ground.left, &right_id, &ground.state);
        let pair =
            Ours { syncd: syncd.into(), ground: ground.clone(), left_id, left_at, _left: left, right: None };
        until("our first scan", POLL, || (pair.files() >= files).then_some(()));
        pair
    }

    fn files(&self) -> u64 {
        let text = output(Command::new(&self.syncd).arg("status").arg(&self.ground.left).arg("--json"));
        let report: serde_json::Value = serde_json::from_str(&text).expect("syncd speaks JSON");
        // One folder's report, or a list of them.
        let files = report["files"].as_u64().or_else(|| report["folders"][0]["files"].as_u64());
        files.expect("a status says how many files there are")
    }

    fn wait(&self) {
        let limit = format!("{}s", PATIENCE.as_secs());
        output(Command::new(&self.syncd).arg("wait").arg(&self.ground.left).args([
            "--peers",
            "all",
            "--timeout",
            &limit,
        ]));
    }
}

/// Starts a daemon; also gives the address that it listens on.
fn serve(syncd: &Path, dir: &Path, peer: &str, state: &Path) -> (Running, String) {
    let mut command = Command::new(syncd);
    command.arg("serve").arg(dir).args(["--listen", "127.0.0.1:0", "--peer", peer]).stdout(Stdio::piped());
    let mut daemon = Running::start(&mut command, &state.join("syncd.log")).expect("syncd starts");
    let mut lines = BufReader::new(daemon.0.stdout.take().expect("piped"));
    let mut ready = String::new();
    lines.read_line(&mut ready).expect("syncd says that it is ready");
    let at = ready.split_whitespace().find_map(|word| word.strip_prefix("sync="));
    let at = at.unwrap_or_else(|| panic!("no address in {ready:?}; see {}", state.display())).to_owned();
    (daemon, at)
}

impl Pair for Ours {
    /// Counts from when the second one runs, just before it dials.
    fn connect(&mut self) -> Instant {
        let peer = format!("{}@{}", self.left_id, self.left_at);
        self.right = Some(serve(&self.syncd, &self.ground.right, &peer, &self.ground.state).0);
        let began = Instant::now();
        self.wait();
        began
    }

    fn catch_up(&mut self, _: &str) {
        self.wait();
    }

    fn rescan(&mut self) {
        output(Command::new(&self.syncd).arg("scan").arg(&self.ground.left));
    }

    fn receivers(&self) -> Vec<u32> {
        self.right.iter().flat_map(|daemon| family(daemon.pid())).collect()
    }
}

/// Two Syncthing, spoken to over sockets that do not pass loopback.
pub(crate) struct Syncthing {
    left: Node,
    right: Node,
}

struct Node {
    id: String,
    socket: PathBuf,
    process: Running,
}

impl Syncthing {
    fn ready(ground: &Ground, files: u64, delay_s: u32) -> Syncthing {
        let homes = ["left", "right"].map(|side| ground.state.join(side));
        let ids = homes.each_ref().map(|home| {
            output(Command::new("syncthing").arg("generate").arg("--home").arg(home));
            output(Command::new("syncthing").arg("serve").arg("--home").arg(home).arg("--device-id"))
                .trim()
                .to_owned()
        });
        let dirs = [&ground.left, &ground.right];
        let ports = [22_001, 22_002];
        let [left, right] = [0, 1].map(|side| {
            // A folder without its marker would be refused, as one whose disk is absent.
            fs::create_dir_all(dirs[side].join(".stfolder")).expect("a directory can be made");
            let socket = ground.state.join(format!("{side}.sock"));
            let config = configuration(dirs[side], &ids, ports, side, &socket, delay_s);
            fs::write(homes[side].join("config.xml"), config).expect("a file can be written");
            let mut command = Command::new("syncthing");
            command.arg("serve").arg("--home").arg(&homes[side]).args(["--no-browser", "--no-upgrade"]);
            command.env("STNORESTART", "1").env("HOME", &ground.state).stdout(Stdio::null());
            let process = Running::start(&mut command, &ground.state.join("syncthing.log"));
            Node { id: ids[side].clone(), socket, process: process.expect("syncthing starts") }
        });
        let pair = Syncthing { left, right };
        for node in [&pair.left, &pair.right] {
            until("Syncthing's first answer", POLL, || node.ask("GET", "/rest/system/ping"));
        }
        until("Syncthing's first scan", POLL, || {
            let status = pair.left.ask("GET", "/rest/db/status?folder=race")?;
            (status["state"] == "idle" && status["localFiles"].as_u64()? >= files).then_some(())
        });
        pair
    }

    fn wait(&self) {
        let question = format!("/rest/db/completion?folder=race&device={}", self.right.id);
        until("Syncthing in sync", POLL, || {
            let answer = self.left.ask("GET", &question)?;
            let needs = ["needItems", "needBytes", "needDeletes"];
            let done = needs.iter().all(|need| answer[need].as_u64() == Some(0));
            (done && answer["globalItems"].as_u64()? > 0).then_some(())
        });
    }
}

impl Pair for Syncthing {
    /// Counts from when the two are connected, which may take it several attempts.
    fn connect(&mut self) -> Instant {
        for (node, other) in [(&self.left, &self.right), (&self.right, &self.left)] {
            let resume = format!("/rest/system/resume?device={}", other.id);
            until("Syncthing's resume", POLL, || node.ask("POST", &resume));
        }
        until("Syncthing's connection", Duration::from_millis(1), || {
            let connections = self.left.ask("GET", "/rest/system/connections")?;
            (connections["connections"][&self.right.id]["connected"] == true).then_some(())
        });
        let began = Instant::now();
        self.wait();
        began
    }

    fn catch_up(&mut self, path: &str) {
        let scan = format!("/rest/db/scan?folder=race&sub={path}");
        until("Syncthing's scan", POLL, || self.left.ask("POST", &scan));
        self.wait();
    }

    fn rescan(&mut self) {
        until("Syncthing's scan", POLL, || self.left.ask("POST", "/rest/db/scan?folder=race"));
    }

    fn receivers(&self) -> Vec<u32> {
        family(self.right.process.pid())
    }
}

impl Node {
    /// `None` as long as there is no proper answer.
    fn ask(&self, method: &str, path: &str) -> Option<serde_json::Value> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        let head = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nX-API-Key: race\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let fine = head.split_whitespace().nth(1) == Some("200");
        fine.then(|| serde_json::from_str(body).unwrap_or(serde_json::Value::Null))
    }
}

fn configuration(
    dir: &Path,
    ids: &[String; 2],
    ports: [u16; 2],
    side: usize,
    socket: &Path,
    delay_s: u32,
) -> String {
    let device = |n: usize| {
        let paused = n != side;
        format!(
            r#"<device id="{}" name="{n}" compression="metadata"><address>tcp://127.0.0.1:{}</address><paused>{paused}</paused></device>"#,
            ids[n], ports[n]
        )
    };
    format!(
        r#"<configuration version="35">
<folder id="race" label="race" path="{}" type="sendreceive" rescanIntervalS="3600" fsWatcherEnabled="true" fsWatcherDelayS="{delay_s}"><device id="{}"></device><device id="{}"></device></folder>
{}
{}
<gui enabled="true" tls="false"><address>{}</address><apikey>race</apikey></gui>
<options><listenAddress>tcp://127.0.0.1:{}</listenAddress><globalAnnounceEnabled>false</globalAnnounceEnabled><localAnnounceEnabled>false</localAnnounceEnabled><relaysEnabled>false</relaysEnabled><natEnabled>false</natEnabled><startBrowser>false</startBrowser><urAccepted>-1</urAccepted><autoUpgradeIntervalH>0</autoUpgradeIntervalH><crashReportingEnabled>false</crashReportingEnabled><reconnectionIntervalS>1</reconnectionIntervalS></options>
</configuration>
"#,
        dir.display(),
        ids[0],
        ids[1],
        device(0),
        device(1),
        socket.display(),
        ports[side],
    )
}

/// An rsync daemon beside `right`; each run is one client.
pub(crate) struct Rsync {
    left: PathBuf,
    port: u16,
    daemon: Running,
}

impl Rsync {
    const PORT: u16 = 22_003;

    pub(crate) fn ready(ground: &Ground) -> Rsync {
        let config = ground.state.join("rsyncd.conf");
        let text = format!(
            "use chroot = no\nlog file = {}\n[right]\npath = {}\nread only = no\nuid = 0\ngid = 0\n",
            ground.state.join("rsyncd.log").display(),
            ground.right.display()
        );
        fs::write(&config, text).expect("a file can be written");
        let mut command = Command::new("rsync");
        command.args(["--daemon", "--no-detach", "--address=127.0.0.1"]).stdout(Stdio::null());
        command.arg(format!("--port={}", Self::PORT)).arg(format!("--config={}", config.display()));
        let daemon = Running::start(&mut command, &ground.state.join("rsync.log")).expect("rsync starts");
        let pair = Rsync { left: ground.left.clone(), port: Self::PORT, daemon };
        until("rsync's daemon", POLL, || std::net::TcpStream::connect(("127.0.0.1", pair.port)).ok());
        pair
    }

    pub(crate) fn run(&self, extra: &[&str]) {
        let mut command = Command::new("rsync");
        // Nanoseconds count: a change within the second of the last run is one, too.
        command
            .args(["-a", "--delete", "--fsync", "--modify-window=-1"])
            .args(extra)
            .arg(format!("{}/", self.left.display()));
        command.arg(format!("rsync://127.0.0.1:{}/right/", self.port));
        let done = command.output().expect("rsync starts");
        // 24: a file vanished meanwhile, which a live database's journal does.
        let fine = matches!(done.status.code(), Some(0 | 24));
        assert!(fine, "{}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Pair for Rsync {
    fn connect(&mut self) -> Instant {
        let began = Instant::now();
        self.run(&[]);
        began
    }

    fn catch_up(&mut self, _: &str) {
        self.run(&[]);
    }

    fn rescan(&mut self) {
        self.run(&["--dry-run"]);
    }

    fn receivers(&self) -> Vec<u32> {
        family(self.daemon.pid())
    }
}

/// Standard output of a program that must succeed.
fn output(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?} cannot start: {error}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}
