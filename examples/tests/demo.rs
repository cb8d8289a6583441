//! `hybrid demo`, run as a user runs it.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, missing_docs)]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const STEPS: [&str; 7] = ["mesh", "service", "route", "move", "cut", "roam", "conflict"];

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hybrid"));
    command.arg("demo").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Ends a demo that a failed assertion left behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn check_report(stdout: &[u8], stderr: &[u8]) -> Value {
    let told = || {
        format!("stdout: {}\nstderr: {}", String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr))
    };
    let report: Value = serde_json::from_slice(stdout).unwrap_or_else(|error| panic!("{error}\n{}", told()));
    assert_eq!(report["ok"], true, "{}", told());
    let steps = report["steps"].as_array().expect("steps is a list");
    let names: Vec<&str> = steps.iter().filter_map(|step| step["name"].as_str()).collect();
    assert_eq!(names, STEPS, "{}", told());
    assert!(steps.iter().all(|step| step["ok"] == true && step["ms"].is_u64() && step["proved"].is_object()));
    let moved = &steps[3]["proved"];
    assert!(moved["acked"].as_u64().is_some_and(|acked| acked > 0), "{moved}");
    assert_eq!(moved["acked"], moved["present"]);
    assert_eq!(moved["duplicates"], 0);
    assert!(moved["downtime_ms"].is_u64());
    report
}

#[test]
fn every_step_of_the_story_holds() {
    let output = demo(&["--once", "--json"]).output().expect("the demo runs");
    check_report(&output.stdout, &output.stderr);
    assert!(output.status.success());
}

#[test]
fn a_busy_port_is_replaced_by_a_free_one_that_is_printed() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = taken.local_addr().expect("a bound socket has an address").port();
    let output =
        demo(&["--once", "--json", "--https-port", &port.to_string()]).output().expect("the demo runs");
    let report = check_report(&output.stdout, &output.stderr);
    let https = report["https"].as_str().expect("https is text");
    assert!(https.starts_with("https://notes.localhost:") && !https.contains(&port.to_string()), "{https}");
}

#[test]
fn it_stays_up_survives_the_kill_of_another_and_ends_on_ctrl_c() {
    // Killed in the middle of its story.
    let mut killed =
        Running(demo(&["--https-port", "0", "--http-port", "0", "--page-port", "0"]).spawn().expect("spawn"));
    let mut line = String::new();
    BufReader::new(killed.0.stdout.take().expect("piped")).read_line(&mut line).expect("a first line");
    killed.0.kill().expect("it still runs");
    killed.0.wait().expect("it was killed");

    let mut second =
        Running(demo(&["--https-port", "0", "--http-port", "0", "--page-port", "0"]).spawn().expect("spawn"));
    let mut lines = BufReader::new(second.0.stdout.take().expect("piped"));
    let mut told = String::new();
    while !told.contains("Ctrl-C ends it") {
        assert!(lines.read_line(&mut told).expect("readable") > 0, "it ended early: {told}");
    }
    assert_eq!(told.lines().filter(|line| line.starts_with("ok  ")).count(), STEPS.len(), "{told}");

    let began = Instant::now();
    let pid = rustix::process::Pid::from_raw(i32::try_from(second.0.id()).expect("a pid")).expect("not zero");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it still runs");
    let status = second.0.wait().expect("it ends");
    assert!(began.elapsed() < Duration::from_secs(2), "took {:?}", began.elapsed());
    let mut rest = String::new();
    second.0.stderr.take().expect("piped").read_to_string(&mut rest).expect("readable");
    assert!(status.success(), "{status}: {rest}");
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    let output = demo(&["--twice"]).output().expect("the demo runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--twice"));
}
