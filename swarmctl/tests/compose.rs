//! Compose files: what they become, and what is said about them.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use swarmctl::cluster::{Port, Protocol, Publish};
use swarmctl::compose::{self, Diagnostic, Severity, Surroundings};
use swarmctl::spec::{
    Amounts, FileReference, Mount, MountSource, OnFailure, Order, RestartCondition, ServiceMode, ServiceSpec,
};
use swarmctl::stack::Stack;

const SHOP: &str = include_str!("compose/shop.yml");

struct Here;

impl Surroundings for Here {
    fn variable(&self, name: &str) -> Option<String> {
        [("TAG", "1.2"), ("EMPTY", ""), ("DEBUG", "0")]
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned())
    }

    fn absolute(&self, path: &str) -> Result<String, String> {
        match path.strip_prefix("./") {
            Some(path) => Ok(format!("/srv/stack/{path}")),
            None if path.starts_with('/') => Ok(path.to_owned()),
            None => Err("nobody is at home".to_owned()),
        }
    }

    fn file(&self, path: &str) -> Result<Vec<u8>, String> {
        match path {
            "./db_password" => Ok(b"hunter2\n".to_vec()),
            "worker.env" => Ok(b"# of the worker\nQUEUE=high \n\nTAG\n".to_vec()),
            "nothing" => Ok(Vec::new()),
            _ => Err("no such file".to_owned()),
        }
    }
}

fn read(text: &str) -> (Option<Stack>, Vec<Diagnostic>) {
    compose::read(text, "shop", &Here)
}

/// The one service of a file without a complaint, from its lines.
fn service(lines: &str) -> ServiceSpec {
    let (stack, diagnostics) = read(&one(lines));
    assert_eq!(diagnostics, [], "{lines}");
    stack.unwrap().services.remove("shop_a").unwrap()
}

fn one(lines: &str) -> String {
    format!("services:\n  a:\n    image: nginx\n    {}\n", lines.replace('\n', "\n    "))
}

fn set<const N: usize>(texts: [&str; N]) -> BTreeSet<String> {
    texts.map(str::to_owned).into()
}

#[test]
fn a_stack_of_four_services_is_read_whole() {
    let (stack, diagnostics) = read(SHOP);
    assert_eq!(diagnostics, []);
    let stack = stack.unwrap();
    let names: Vec<_> = stack.services.keys().map(String::as_str).collect();
    assert_eq!(names, ["shop_cache", "shop_db", "shop_web", "shop_worker"]);
    assert_eq!(stack.after["shop_web"], set(["shop_db", "shop_cache"]));
    assert_eq!(stack.after["shop_worker"], set(["shop_db", "shop_cache"]));

    let web = &stack.services["shop_web"];
    assert_eq!(web.container.image, "registry.example.org/shop:1.2");
    assert_eq!(web.container.command, ["gunicorn", "--bind", "0.0.0.0:8000", "shop:app"]);
    assert_eq!(web.container.env["DEBUG"].as_deref(), Some("0"), "of the surroundings");
    assert_eq!(web.container.env["PRICE"].as_deref(), Some("$5"));
    assert_eq!(web.mode, ServiceMode::Replicated(2));
    assert_eq!(web.placement.constraints, set(["node.labels.location==home"]), "by a merge in a merge");
    assert_eq!((web.update.on_failure, web.update.order), (OnFailure::Rollback, Order::StopFirst));
    assert_eq!(web.update.monitor, Duration::from_secs(10));
    assert_eq!(web.resources.limits, Amounts { nano_cpus: 500_000_000, memory_bytes: 256 << 20, pids: 0 });
    assert_eq!(web.networks["shop_inside"].aliases, set(["shop", "web"]));
    assert_eq!(web.networks["traefik-net"].aliases, set(["web"]));
    assert_eq!(web.labels["com.docker.stack.namespace"], "shop");
    assert_eq!(web.labels["traefik.http.services.shop.loadbalancer.server.port"], "8000");
    let file = |source: &str, uid: &str, mode| FileReference {
        source: source.to_owned(),
        uid: uid.to_owned(),
        gid: "0".to_owned(),
        mode,
    };
    assert_eq!(web.container.secrets["/run/keys/cookie"], file("cookie_key", "1000", 0o400));
    let password = web.container.secrets["db_password"].source.clone();
    assert!(password.starts_with("shop_db_password-"), "another content has another name: {password}");
    assert_eq!(stack.secrets[&password].data, b"hunter2\n");
    let (settings, _) = stack.configs.first_key_value().unwrap();
    assert_eq!(web.container.configs["/etc/shop.toml"], file(settings, "0", 0o444));
    let bind = MountSource::Bind { path: "/srv/stack/static".to_owned(), propagation: None };
    assert_eq!(web.container.mounts["/srv/static"].source, bind);
    assert!(web.container.mounts["/srv/static"].read_only);

    let worker = &stack.services["shop_worker"].container;
    assert_eq!((worker.env["QUEUE"].as_deref(), worker.env["TAG"].as_deref()), (Some("high "), Some("1.2")));
    let db = &stack.services["shop_db"];
    let MountSource::Volume { name, driver, options, labels, .. } =
        &db.container.mounts["/var/lib/postgresql/data"].source
    else {
        panic!("{:?}", db.container.mounts)
    };
    assert_eq!((name.as_deref(), driver.as_deref()), (Some("shop_data"), Some("hybrid")));
    assert_eq!(
        options,
        &BTreeMap::from([("access", "single"), ("replicas", "2")].map(|(k, v)| (k.into(), v.into())))
    );
    assert_eq!(labels["com.docker.stack.namespace"], "shop");
    let port =
        Port { target: 5432, published: Some(5432), protocol: Protocol::Tcp, publish: Publish::Ingress };
    assert_eq!(db.ports, [port]);
    let cache = &stack.services["shop_cache"].container;
    let tmpfs = MountSource::Tmpfs { size_bytes: Some(64 << 20), mode: None };
    assert_eq!(cache.mounts["/data"].source, tmpfs);
    assert_eq!(
        (cache.ulimits["nofile"], cache.sysctls["net.core.somaxconn"].as_str()),
        ((1024, 4096), "1024")
    );

    assert_eq!(stack.networks.keys().collect::<Vec<_>>(), ["shop_inside"]);
    assert_eq!(stack.networks["shop_inside"].options["com.docker.network.driver.mtu"], "1350");
    assert_eq!(
        (&stack.external.networks, &stack.external.secrets),
        (&set(["traefik-net"]), &set(["cookie_key"]))
    );
}

#[test]
fn a_service_that_names_no_network_is_on_the_stacks_own() {
    let (stack, _) = read(&one(""));
    let stack = stack.unwrap();
    assert!(stack.networks.contains_key("shop_default"));
    assert_eq!(stack.services["shop_a"].networks["shop_default"].aliases, set(["a"]));
}

#[test]
fn ports_are_short_or_long_single_or_ranges() {
    let ports = |lines: &str| -> Vec<(Option<u16>, u16, Protocol, Publish)> {
        service(lines).ports.iter().map(|p| (p.published, p.target, p.protocol, p.publish)).collect()
    };
    use {Protocol::*, Publish::*};
    assert_eq!(ports("ports: [80]"), [(None, 80, Tcp, Ingress)]);
    assert_eq!(
        ports("ports: ['53:53/udp', '8080:80']"),
        [(Some(53), 53, Udp, Ingress), (Some(8080), 80, Tcp, Ingress)]
    );
    assert_eq!(ports("ports: ['90-91:80-81']"), [(Some(90), 80, Tcp, Ingress), (Some(91), 81, Tcp, Ingress)]);
    let long = "ports:\n- {target: 80, published: 8080, mode: host, protocol: udp}";
    assert_eq!(ports(long), [(Some(8080), 80, Udp, Host)]);
}

#[test]
fn the_restart_of_containers_and_that_of_a_swarm_are_both_understood() {
    let restart = service("restart: on-failure:3").restart;
    assert_eq!((restart.condition, restart.attempts), (RestartCondition::OnFailure, 3));
    assert_eq!(service("restart: unless-stopped").restart.condition, RestartCondition::Any);
    assert_eq!(service("restart: 'no'").restart.condition, RestartCondition::None);
    let both = service("restart: always\ndeploy: {restart_policy: {condition: none, delay: 1s}}").restart;
    assert_eq!((both.condition, both.delay), (RestartCondition::None, Duration::from_secs(1)));
}

#[test]
fn mounts_without_a_name_or_with_options_are_understood() {
    let mounts = service("volumes: [/cache, '/etc/ssl:/ssl:ro,rslave']").container.mounts;
    let MountSource::Volume { name: None, .. } = &mounts["/cache"].source else { panic!("{mounts:?}") };
    let source = MountSource::Bind { path: "/etc/ssl".to_owned(), propagation: Some("rslave".to_owned()) };
    assert_eq!(mounts["/ssl"], Mount::new(source, true));
}

/// What is said about the lines of one service, each diagnostic as `line: severity: ...`.
fn said(lines: &str) -> Vec<String> {
    let (stack, diagnostics) = read(&one(lines));
    let has_error = diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    assert_eq!(stack.is_none(), has_error, "{lines}");
    diagnostics.iter().map(ToString::to_string).collect()
}

#[test]
fn a_key_that_a_swarm_cannot_follow_is_a_warning_with_what_to_do_instead() {
    let said = said("container_name: alone\nbuild: .\nx-note: mine");
    assert_eq!(
        said,
        [
            "4:5: warning: services.a.container_name: has no effect in a Swarm. Leave it out: other services find this one \
             by its service name",
            "5:5: warning: services.a.build: has no effect in a Swarm. Build the image, push it to a registry that all nodes \
             reach, and name it in `image`",
        ]
    );
}

#[test]
fn what_is_wrong_is_said_with_line_key_and_remedy() {
    for (lines, expected) in [
        (
            "enviroment: {}",
            "4:5: error: services.a.enviroment: is not a key that exists here. Did you mean `environment`?",
        ),
        ("colour: red", "4:5: error: services.a.colour: is not a key that exists here"),
        (
            "deploy: {replicas: many}",
            "4:24: error: services.a.deploy.replicas: must be a whole number, not \"many\"",
        ),
        (
            "deploy:\n  mode: global\n  replicas: 2",
            "6:17: error: services.a.deploy.replicas: contradicts the mode",
        ),
        (
            "deploy: {mode: global-job, update_config: {order: stop-first}}",
            "services.a.deploy.update_config: is not for jobs",
        ),
        ("deploy: {resources: {limits: {cpus: half}}}", "must be a number of cores like 0.5, not \"half\""),
        (
            "deploy: {placement: {constraints: ['node.label.x==1']}}",
            "must be like node.labels.location==home",
        ),
        ("deploy: {update_config: {order: both}}", "must be one of stop-first, start-first, not \"both\""),
        ("command: 'echo \"x'", "cannot be split into words: a \" is not closed. Write it as a list"),
        ("networks: [other]", "there is no network \"other\". Add it to `networks:` at the end of the file"),
        ("volumes: ['data:/x']", "there is no volume \"data\". Add it to `volumes:`"),
        ("volumes: ['~/x:/x']", "\"~/x\" cannot be made an absolute path: nobody is at home"),
        ("volumes: ['/x:x']", "the path in the container must be absolute, not \"x\""),
        ("volumes: ['/x:/x', '/y:/x']", "something is mounted at /x already"),
        ("volumes: ['/x:/x:rx']", ":rx is not understood"),
        ("secrets: [key]", "there is no \"key\". Add it to `secrets:`"),
        ("depends_on: [b]", "there is no service \"b\""),
        ("ports: ['80:x']", "must be like 8080:80, 8080-8090:80-90 or 53:53/udp, not \"80:x\""),
        ("ports: ['0:80']", "the published port must be from 1 to 65535"),
        ("ports: ['80-81:80']", "as many ports must be published"),
        ("ports: [{published: 80}]", "needs `target`"),
        ("env_file: absent.env", "absent.env cannot be read: no such file"),
        ("environment: {A: [1]}", "must be a single value, not a list"),
        ("hostname: ${NAME:?of the host}", "the variable NAME is required: of the host"),
        ("hostname: ${EMPTY:?}", "the variable EMPTY is required"),
        ("hostname: $5", "`$` without a variable's name"),
        ("hostname: ${TAG", "`${` without its `}`"),
        ("healthcheck: {test: [curl, x]}", "`test` must begin with CMD, CMD-SHELL or NONE"),
        ("restart: sometimes", "\"sometimes\" is not understood"),
        ("stop_grace_period: 30", "must be a time like 1m30s, not \"30\""),
        ("tty: perhaps", "must be true or false"),
        ("deploy: []", "must be a mapping, not a list"),
    ] {
        let said = said(lines);
        let found = said.iter().any(|line| line.contains(expected) && line.contains("error"));
        assert!(found, "{lines}: {said:#?}");
    }
}

#[test]
fn what_a_swarm_does_otherwise_is_a_warning() {
    for (lines, expected) in [
        ("ports: ['127.0.0.1:80:80']", "Swarm publishes on all addresses of a node, not just on 127.0.0.1"),
        ("ports: [{target: 80, host_ip: 127.0.0.1}]", "leave it out, and let a firewall decide"),
        ("volumes: ['/x:/x:z']", ":z has no effect in a Swarm"),
        ("networks: {default: {ipv4_address: 10.0.0.9}}\n", "Swarm chooses the addresses of tasks"),
        ("healthcheck: {test: x, start_interval: 1s}", "engines before 25"),
        ("mem_limit: 5m", "Use `deploy.resources.limits`"),
    ] {
        let text = one(lines) + "networks: {default: {}}\n";
        let (stack, diagnostics) = read(&text);
        let lines_said: Vec<_> = diagnostics.iter().map(ToString::to_string).collect();
        assert!(
            stack.is_some() && lines_said.iter().any(|line| line.contains(expected)),
            "{lines}: {lines_said:#?}"
        );
    }
}

#[test]
fn variables_have_the_shells_forms() {
    for (text, expected) in [
        ("$TAG", "1.2"),
        ("${TAG}x", "1.2x"),
        ("${NONE}.", "."),
        ("${NONE-d}${EMPTY-d}", "d"),
        ("${NONE:-d}${EMPTY:-d}", "dd"),
        ("${TAG:+set}${EMPTY:+set}${EMPTY+set}", "setset"),
        ("${NONE:-${TAG}-${NONE:-x}}", "1.2-x"),
        ("a$$b$$$$", "a$b$$"),
    ] {
        assert_eq!(
            service(&format!("hostname: '{text}'")).container.hostname.as_deref(),
            Some(expected),
            "{text}"
        );
    }
}

#[test]
fn a_file_that_describes_nothing_is_refused() {
    for (text, expected) in [
        ("", "the file says nothing"),
        ("services:\n", "there are no services"),
        ("- a\n", "must be a mapping, not a list"),
        ("services: {a: {}}\n", "has no image"),
        ("services: {a: {image: ''}}\n", "has no image"),
        ("secrets: {k: {}}\nservices: {}\n", "needs one of `file`"),
        ("secrets: {k: {file: nothing}}\nservices: {}\n", "its content has 0 bytes"),
    ] {
        let (stack, diagnostics) = read(text);
        assert!(stack.is_none(), "{text}");
        assert!(diagnostics.iter().any(|it| it.what.contains(expected)), "{text}: {diagnostics:?}");
    }
    assert!(compose::read(SHOP, "my shop", &Here).0.is_none());
}
