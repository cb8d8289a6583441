//! swarmctl: a Compose file that somebody sent, read and planned.

use swarmctl::compose::{DIAGNOSTICS_MAX, Severity, Surroundings, read};
use swarmctl::plan::{PlanOptions, Present, plan};

use crate::Seed;

/// One variable, and one file below the directory of the Compose file.
struct Alone;

impl Surroundings for Alone {
    fn variable(&self, name: &str) -> Option<String> {
        (name == "TAG").then(|| "7".to_owned())
    }

    fn absolute(&self, path: &str) -> Result<String, String> {
        Ok(if path.starts_with('/') { path.to_owned() } else { format!("/srv/{path}") })
    }

    fn file(&self, path: &str) -> Result<Vec<u8>, String> {
        (path == "settings.env").then(|| b"LEVEL=info\n".to_vec()).ok_or_else(|| "there is none".to_owned())
    }
}

/// A Compose file: there is a stack exactly if nothing is an error; it is read the same way each time; and once what is planned for
/// it has been done, nothing is left to do.
pub fn compose(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (stack, diagnostics) = read(&text, "shop", &Alone);
    assert_eq!((stack.clone(), diagnostics.clone()), read(&text, "shop", &Alone));
    assert!(diagnostics.len() <= DIAGNOSTICS_MAX);
    assert!(diagnostics.iter().all(|it| it.at.line >= 1));
    diagnostics.iter().for_each(|it| shown(&it.to_string()));
    let refused = diagnostics.iter().any(|it| it.severity == Severity::Error);
    assert!(stack.is_some() != refused || diagnostics.len() == DIAGNOSTICS_MAX, "{diagnostics:?}");

    let Some(mut stack) = stack else { return };
    stack.external = swarmctl::stack::External::default();
    let (mut present, options) = (Present::default(), PlanOptions::default());
    let Ok(planned) = plan(&stack, &present, &options) else { return };
    planned.to_string().lines().for_each(shown);
    planned.steps.iter().for_each(|step| present.apply(step));
    let again = plan(&stack, &present, &options).expect("what was planned once is planned again");
    assert!(again.is_empty(), "{again}");
}

/// What is not let loose on a terminal.
fn shown(line: &str) {
    assert!(!line.is_empty() && !line.contains(char::is_control), "{line:?}");
}

/// Seeds of [`compose()`].
pub fn compose_seeds() -> Vec<Seed> {
    let file = |text: &str| text.as_bytes().to_vec();
    vec![
        ("empty", file("")),
        (
            "shop",
            file(
                "services:\n  web:\n    image: shop:${TAG}\n    env_file: settings.env\n    depends_on: [db]\n    ports: [\"8080:80/tcp\"]\n    \
                 networks: [front]\n    deploy: {replicas: 2, update_config: {order: start-first, failure_action: rollback}}\n  db:\n    \
                 image: postgres\n    environment: {POSTGRES_PASSWORD_FILE: /run/secrets/key}\n    secrets: [{source: key, mode: 0400}]\n    \
                 volumes: [\"data:/var/lib/postgresql/data\"]\n    healthcheck: {test: [CMD, pg_isready], interval: 5s}\nnetworks:\n  \
                 front: {driver: overlay}\nvolumes:\n  data: {driver: hybrid, driver_opts: {replicas: \"2\"}}\nsecrets:\n  key: {file: settings.env}\n",
            ),
        ),
        (
            "anchors",
            file("x-a: &a {image: a}\nservices:\n  b: *a\n  c: {<<: *a, command: \"sh -c 'x y'\"}\n"),
        ),
        (
            "hostile_alias_bomb",
            file("a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nservices: {d: [*c,*c,*c]}\n"),
        ),
        ("hostile_depth", "[".repeat(400).into_bytes()),
        ("hostile_interpolation", file("services: {a: {image: \"${TAG:-${TAG:?${}}}\"}}\n")),
        (
            "hostile_numbers",
            file(
                "services: {a: {image: a, deploy: {replicas: 1e999, resources: {limits: {cpus: '-0', memory: 99999999999t}}}}}\n",
            ),
        ),
        ("hostile_ports", file("services: {a: {image: a, ports: [\"1-65536:1-9\", \"::1:1:1\", \"0\"]}}\n")),
        ("hostile_names", file("services: {\"../a\\u001b[2J\": {image: \"a\\u0007b\"}}\n")),
    ]
}
