//! Plans: what is done, in which order, what is refused, and what a person sees of it.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use swarmctl::plan::{Plan, PlanOptions, Present, Refusal, Step, plan, plan_removal, plan_service};
use swarmctl::spec::{Mount, MountSource, Order, ServiceMode, ServiceSpec};
use swarmctl::stack::{STACK_LABEL, Stack};

fn labels(stack: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(STACK_LABEL.to_owned(), stack.to_owned())])
}

fn service(name: &str, image: &str) -> ServiceSpec {
    let mut service = ServiceSpec::new(name, image);
    service.labels = labels("shop");
    service
}

fn stack(services: &[ServiceSpec]) -> Stack {
    let mut stack = Stack::new("shop");
    stack.services = services.iter().map(|service| (service.name.clone(), service.clone())).collect();
    stack
}

fn options() -> PlanOptions {
    let mut options = PlanOptions::default();
    options.prune = true;
    options.leased_drivers = BTreeSet::from(["hybrid".to_owned()]);
    options.synced_folders = vec!["/sync/".to_owned()];
    options
}

fn volume(access: Option<&str>) -> Mount {
    let options = access.map(|access| ("access".to_owned(), access.to_owned())).into_iter().collect();
    let source = MountSource::Volume {
        name: Some("shop_data".to_owned()),
        driver: Some("hybrid".to_owned()),
        options,
        labels: BTreeMap::new(),
        no_copy: false,
    };
    Mount::new(source, false)
}

fn applied(mut present: Present, plan: &Plan) -> Present {
    plan.steps.iter().for_each(|step| present.apply(step));
    present
}

#[test]
fn a_person_sees_what_comes_what_changes_and_what_goes() {
    let mut before = service("shop_web", "shop:1");
    before.container.env.insert("LEVEL".to_owned(), Some("info".to_owned()));
    before.container.env.insert("API_TOKEN".to_owned(), Some("hunter2".to_owned()));
    before.placement.constraints.insert("node.role==worker".to_owned());
    let present = applied(
        Present::default(),
        &plan(&stack(&[before.clone(), service("shop_old", "old")]), &Present::default(), &options())
            .unwrap(),
    );
    let mut after = before;
    after.container.image = "shop:2".to_owned();
    after.container.env.insert("API_TOKEN".to_owned(), Some("hunter3".to_owned()));
    after.container.env.insert("MOTD".to_owned(), Some("two\nlines".to_owned()));
    after.container.mounts.insert("/data".to_owned(), volume(None));
    after.placement.constraints.clear();
    after.update.order = Order::StopFirst;
    let planned = plan(&stack(&[after, service("shop_cache", "redis:7")]), &present, &options()).unwrap();
    assert_eq!(
        planned.to_string(),
        "+ service shop_cache\n    + image: redis:7\n    + label com.docker.stack.namespace: shop\n    + replicas: 1\n\
         ~ service shop_web\n    - constraint node.role==worker\n    ~ env API_TOKEN: (hidden) -> (hidden)\n    \
         + env MOTD: \"two\\nlines\"\n    ~ image: shop:1 -> shop:2\n    + mount /data: shop_data of hybrid\n\
         - service shop_old\n"
    );
}

#[test]
fn what_belongs_to_somebody_else_is_neither_changed_nor_removed() {
    let mut theirs = service("shop_web", "theirs");
    theirs.labels = labels("other");
    let mut nobodys = service("shop_cache", "nobodys");
    nobodys.labels.clear();
    let present =
        Present { services: [theirs, nobodys].map(|it| (it.name.clone(), it)).into(), ..Present::default() };
    let wanted = stack(&[service("shop_web", "a"), service("shop_cache", "b")]);
    let refused = plan(&wanted, &present, &options()).unwrap_err();
    let said: Vec<_> = refused.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "service shop_cache exists and belongs to no stack: give it another name, or remove that one",
            "service shop_web exists and belongs to stack other: give it another name, or remove that one",
        ]
    );
    assert!(plan(&stack(&[]), &present, &options()).unwrap().is_empty(), "pruning");
    assert!(plan_removal("shop", &present).is_empty());
}

#[test]
fn what_is_missing_is_said_with_the_command_that_makes_it() {
    let mut wanted = stack(&[]);
    wanted.external.networks = BTreeSet::from(["traefik-net".to_owned(), "host".to_owned()]);
    wanted.external.secrets.insert("key".to_owned());
    let refused = plan(&wanted, &Present::default(), &options()).unwrap_err();
    let said: Vec<_> = refused.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "network traefik-net does not exist: docker network create --driver overlay traefik-net",
            "secret key does not exist: docker secret create key FILE",
        ]
    );
}

#[test]
fn services_that_wait_for_each_other_are_named() {
    let mut wanted = stack(&[service("shop_a", "a"), service("shop_b", "b"), service("shop_c", "c")]);
    let after = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    wanted.after = [("shop_a", after(&["shop_b"])), ("shop_b", after(&["shop_a"]))]
        .map(|(k, v)| (k.to_owned(), v))
        .into();
    let services = vec!["shop_a".to_owned(), "shop_b".to_owned()];
    assert_eq!(plan(&wanted, &Present::default(), &options()), Err(vec![Refusal::Circle { services }]));
}

#[test]
fn a_volume_for_one_at_a_time_is_not_given_to_two() {
    let with = |access, change: fn(&mut ServiceSpec)| {
        let mut service = service("shop_web", "shop");
        service.container.mounts.insert("/data".to_owned(), volume(access));
        change(&mut service);
        let alone = plan_service(None, service.clone(), &options());
        let among_others = plan(&stack(&[service]), &Present::default(), &options());
        assert_eq!(alone.map_err(|refusal| vec![refusal]), among_others);
        among_others
    };
    assert!(with(None, |_| {}).is_ok());
    let overlap = Refusal::Overlap { service: "shop_web".to_owned(), volume: "shop_data".to_owned() };
    let changes: [fn(&mut ServiceSpec); 3] = [
        |it| it.mode = ServiceMode::Replicated(2),
        |it| it.mode = ServiceMode::Global,
        |it| it.update.order = Order::StartFirst,
    ];
    for change in changes {
        assert_eq!(with(None, change), Err(vec![overlap.clone()]));
        assert!(with(Some("shared"), change).is_ok());
    }
}

#[test]
fn a_bind_inside_a_synchronised_folder_is_warned_about() {
    let warnings = |path: &str| {
        let mut service = service("gogs", "gogs");
        let source = MountSource::Bind { path: path.to_owned(), propagation: None };
        service.container.mounts.insert("/data".to_owned(), Mount::new(source, false));
        plan(&stack(&[service]), &Present::default(), &options()).unwrap().warnings
    };
    let said = warnings("/sync/gogs/").concat();
    assert!(said.contains("service gogs binds /sync/gogs/") && said.contains("driver: hybrid"), "{said}");
    assert!(warnings("/synced").is_empty() && warnings("/etc").is_empty());
}

/// Stacks of up to six services that depend on those of lower numbers.
fn stacks() -> impl Strategy<Value = Stack> {
    let one = (0..3_u8, 1..4_u64, any::<u8>(), any::<bool>());
    proptest::collection::vec(proptest::option::of(one), 6).prop_map(|parts| {
        let mut stack = Stack::new("shop");
        let parts = parts.into_iter().enumerate().filter_map(|(n, part)| Some((n, part?)));
        for (number, (image, replicas, after, uses_config)) in parts {
            let name = format!("shop_{number}");
            let mut service = service(&name, &format!("image:{image}"));
            service.mode = ServiceMode::Replicated(replicas);
            let before = stack.services.keys().enumerate();
            let after = before.filter(|(n, _)| after >> n & 1 == 1).map(|(_, name)| name.clone()).collect();
            stack.after.insert(name.clone(), after);
            if uses_config {
                let config =
                    swarmctl::spec::BlobSpec::new(format!("config-{image}"), vec![image], labels("shop"));
                stack.configs.insert(config.name.clone(), config);
            }
            stack.services.insert(name, service);
        }
        stack
    })
}

proptest! {
    /// From any state of a stack to any other, beside services of others.
    #[test]
    fn an_applied_plan_leaves_an_empty_plan(first in stacks(), second in stacks()) {
        let mut stranger = service("stranger", "theirs");
        stranger.labels = labels("other");
        let mut present = Present::default();
        present.services.insert("stranger".to_owned(), stranger.clone());
        for wanted in [&first, &second] {
            let planned = plan(wanted, &present, &options()).unwrap();
            let order: Vec<_> = planned.steps.iter().filter_map(|step| match step {
                Step::CreateService(it) => Some(&it.name),
                Step::UpdateService { after, .. } => Some(&after.name),
                _ => None,
            }).collect();
            for (place, name) in order.iter().enumerate() {
                let later = &order[place + 1..];
                prop_assert!(later.iter().all(|later| !wanted.after[*name].contains(*later)), "{name} before its dependency");
            }
            let removes = |step: &Step| matches!(step, Step::RemoveService(_) | Step::RemoveConfig(_));
            let first_removal = planned.steps.iter().position(removes).unwrap_or(planned.steps.len());
            prop_assert!(planned.steps[first_removal..].iter().all(removes), "removals come last");
            present = applied(present, &planned);
            prop_assert!(plan(wanted, &present, &options()).unwrap().is_empty());
            prop_assert_eq!(present.services.len(), wanted.services.len() + 1);
            prop_assert_eq!(&present.services["stranger"], &stranger);
        }
        let gone = applied(present.clone(), &plan_removal("shop", &present));
        prop_assert_eq!(gone.services.keys().collect::<Vec<_>>(), ["stranger"]);
        prop_assert!(gone.configs.is_empty());
    }
}
