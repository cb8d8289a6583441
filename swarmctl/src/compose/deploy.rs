//! `deploy:`, where a service says how Swarm runs it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::spec::{
    Amounts, EndpointMode, OnFailure, Order, Placement, Resources, RestartCondition, RestartPolicy, Rollout,
    ServiceMode, ServiceSpec,
};

use super::section::Field;
use super::{Reader, scalar};

impl Reader<'_> {
    pub(super) fn deploy(&mut self, field: &Field<'_>, service: &mut ServiceSpec) -> Option<()> {
        let mut section = self.section(field)?;
        let mode = section.take("mode");
        let replicas = section.take("replicas");
        let many = replicas.as_ref().and_then(|replicas| self.whole(replicas));
        service.mode = self.mode(mode.as_ref(), many).unwrap_or(service.mode);
        if let (Some(replicas), ServiceMode::Global | ServiceMode::GlobalJob) = (replicas, service.mode) {
            self.error_with(
                &replicas,
                "contradicts the mode, which runs one on each node",
                "Remove one of the two",
            );
        }
        service.labels.extend(section.read(self, "labels", Self::labels).unwrap_or_default());
        let modes = [("vip", EndpointMode::Vip), ("dnsrr", EndpointMode::Dnsrr)];
        let endpoint = section.read(self, "endpoint_mode", |reader, field| reader.word(field, &modes));
        service.endpoint = endpoint.unwrap_or(service.endpoint);
        for (key, rollout) in
            [("update_config", &mut service.update), ("rollback_config", &mut service.rollback)]
        {
            let Some(field) = section.take(key) else { continue };
            if matches!(service.mode, ServiceMode::ReplicatedJob { .. } | ServiceMode::GlobalJob) {
                let remedy = "Remove it: a job is begun anew by each change";
                self.error_with(&field, "is not for jobs", remedy);
            }
            *rollout = self.rollout(&field).unwrap_or(*rollout);
        }
        service.restart =
            section.read(self, "restart_policy", Self::restart_policy).unwrap_or(service.restart);
        service.resources = section.read(self, "resources", Self::resources).unwrap_or_default();
        service.placement = section.read(self, "placement", Self::placement).unwrap_or_default();
        section.finish(self, &[]);
        Some(())
    }

    fn mode(&mut self, mode: Option<&Field<'_>>, replicas: Option<u64>) -> Option<ServiceMode> {
        let replicas = replicas.unwrap_or(1);
        let modes = [
            ("replicated", ServiceMode::Replicated(replicas)),
            ("global", ServiceMode::Global),
            ("replicated-job", ServiceMode::ReplicatedJob { completions: replicas, concurrent: replicas }),
            ("global-job", ServiceMode::GlobalJob),
        ];
        mode.map_or(Some(modes[0].1), |mode| self.word(mode, &modes))
    }

    fn rollout(&mut self, field: &Field<'_>) -> Option<Rollout> {
        let usual = Rollout::default();
        let mut section = self.section(field)?;
        let on_failure = [
            ("pause", OnFailure::Pause),
            ("continue", OnFailure::Continue),
            ("rollback", OnFailure::Rollback),
        ];
        let orders = [("stop-first", Order::StopFirst), ("start-first", Order::StartFirst)];
        let rollout = Rollout {
            parallelism: section.read(self, "parallelism", Self::whole).unwrap_or(usual.parallelism),
            delay: section.read(self, "delay", Self::duration).unwrap_or(usual.delay),
            on_failure: section
                .read(self, "failure_action", |reader, field| reader.word(field, &on_failure))
                .unwrap_or(usual.on_failure),
            // Swarm takes zero for "not said".
            monitor: section
                .read(self, "monitor", Self::duration)
                .filter(|monitor| !monitor.is_zero())
                .unwrap_or(usual.monitor),
            failures_max_ppm: section
                .read(self, "max_failure_ratio", |reader, field| {
                    reader.parsed(field, "a share from 0 to 1", scalar::ppm)
                })
                .unwrap_or(usual.failures_max_ppm),
            order: section
                .read(self, "order", |reader, field| reader.word(field, &orders))
                .unwrap_or(usual.order),
        };
        section.finish(self, &[]);
        Some(rollout)
    }

    fn restart_policy(&mut self, field: &Field<'_>) -> Option<RestartPolicy> {
        let usual = RestartPolicy::default();
        let conditions = [
            ("none", RestartCondition::None),
            ("on-failure", RestartCondition::OnFailure),
            ("any", RestartCondition::Any),
        ];
        let mut section = self.section(field)?;
        let policy = RestartPolicy {
            condition: section
                .read(self, "condition", |reader, field| reader.word(field, &conditions))
                .unwrap_or(usual.condition),
            delay: section.read(self, "delay", Self::duration).unwrap_or(usual.delay),
            attempts: section.read(self, "max_attempts", Self::whole).unwrap_or(0),
            window: section.read(self, "window", Self::duration).unwrap_or(Duration::ZERO),
        };
        section.finish(self, &[]);
        Some(policy)
    }

    /// `restart:` as containers have it.
    pub(super) fn restart(&mut self, field: &Field<'_>) -> Option<RestartPolicy> {
        let text = self.text(field)?;
        let usual = RestartPolicy::default();
        let policy = |condition, attempts| Some(RestartPolicy { condition, attempts, ..usual });
        match text.split_once(':').unwrap_or((&text, "")) {
            ("no", "") => policy(RestartCondition::None, 0),
            ("always" | "unless-stopped", "") => Some(usual),
            ("on-failure", "") => policy(RestartCondition::OnFailure, 0),
            ("on-failure", attempts) if attempts.parse::<u32>().is_ok() => {
                policy(RestartCondition::OnFailure, attempts.parse().unwrap_or_default())
            }
            _ => {
                let remedy =
                    "Use \"no\", always, on-failure or on-failure:3, or better `deploy.restart_policy`";
                self.error_with(field, format!("{text:?} is not understood"), remedy);
                None
            }
        }
    }

    fn resources(&mut self, field: &Field<'_>) -> Option<Resources> {
        let mut section = self.section(field)?;
        let limits = section.read(self, "limits", |reader, field| reader.amounts(field, true));
        let reservations = section.read(self, "reservations", |reader, field| reader.amounts(field, false));
        section.finish(self, &[]);
        Some(Resources { limits: limits.unwrap_or_default(), reservations: reservations.unwrap_or_default() })
    }

    fn amounts(&mut self, field: &Field<'_>, is_limit: bool) -> Option<Amounts> {
        let mut section = self.section(field)?;
        let nano_cpus = section.read(self, "cpus", |reader, field| {
            reader.parsed(field, "a number of cores like 0.5", scalar::nano_cpus)
        });
        let memory_bytes = section.read(self, "memory", Self::bytes);
        let mut amounts =
            Amounts { nano_cpus: nano_cpus.unwrap_or(0), memory_bytes: memory_bytes.unwrap_or(0), pids: 0 };
        if is_limit {
            amounts.pids = section.read(self, "pids", Self::whole).map_or(0, u64::cast_signed);
        }
        section.finish(
            self,
            &[
                ("generic_resources", "label the nodes that have it, and use `placement.constraints`"),
                ("devices", "label the nodes that have it, and use `placement.constraints`"),
            ],
        );
        Some(amounts)
    }

    fn placement(&mut self, field: &Field<'_>) -> Option<Placement> {
        let mut section = self.section(field)?;
        let constraints = section.take("constraints").map(|field| self.constraints(&field));
        let spread = section.take("preferences").map(|field| self.preferences(&field));
        let max_per_node = section.read(self, "max_replicas_per_node", Self::whole);
        section.finish(self, &[]);
        Some(Placement {
            constraints: constraints.unwrap_or_default(),
            spread: spread.unwrap_or_default(),
            max_per_node: max_per_node.unwrap_or(0),
        })
    }

    fn constraints(&mut self, field: &Field<'_>) -> BTreeSet<String> {
        let mut constraints = BTreeSet::new();
        for item in self.list(field) {
            let Some(text) = self.text(&item) else { continue };
            match constraint(&text) {
                Some(constraint) => drop(constraints.insert(constraint)),
                None => self.error(&item, format!("must be like node.labels.location==home, not {text:?}")),
            }
        }
        constraints
    }

    fn preferences(&mut self, field: &Field<'_>) -> Vec<String> {
        let mut spread = Vec::new();
        for item in self.list(field) {
            let Some(mut section) = self.section(&item) else { continue };
            spread.extend(section.read(self, "spread", Self::text));
            section.finish(self, &[]);
        }
        spread
    }
}

/// A constraint without the spaces that people write around its operator.
fn constraint(text: &str) -> Option<String> {
    let at = text.find("==").or_else(|| text.find("!="))?;
    let (key, value) = (text[..at].trim(), text[at + 2..].trim());
    let is_known =
        ["node.id", "node.hostname", "node.role", "node.ip", "node.platform.os", "node.platform.arch"]
            .contains(&key)
            || ["node.labels.", "engine.labels."]
                .iter()
                .any(|prefix| key.len() > prefix.len() && key.starts_with(prefix));
    (is_known && !value.is_empty()).then(|| format!("{key}{}{value}", &text[at..at + 2]))
}
