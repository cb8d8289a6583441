//! Owns the control plane's loop: snapshots in, merged by the engine, compiled, and put where requests read them.

use super::{Shared, provider::Update};
use crate::{
    engine::merge::{Input, Merge, Output},
    route::RouteTable,
};
use std::{sync::Arc, time::Instant};
use tokio::sync::{mpsc, watch};

/// Publishes until every provider and the proxy are gone.
pub(super) async fn publish(
    mut updates: mpsc::Receiver<Update>,
    proxy: Arc<Shared>,
    generation: watch::Sender<u64>,
) {
    let mut merge = Merge::default();
    let mut waiting = Vec::new();
    let mut more = true;
    while more || merge.deadline().is_some() {
        let deadline = merge.deadline();
        let due = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            update = updates.recv(), if more => match update {
                Some(Update { provider, snapshot, live }) => {
                    waiting.push(live);
                    merge.handle(Instant::now(), Input::Snapshot { provider: provider.to_string(), snapshot });
                }
                None => more = false,
            },
            () = due => merge.handle(Instant::now(), Input::Tick),
        }
        while let Some(Output::Publish(snapshot)) = merge.poll() {
            let (table, diagnostics) = RouteTable::compile(&snapshot);
            tracing::info!(
                containers = snapshot.containers.len(),
                routes = table.routes().len(),
                diagnostics = diagnostics.len(),
                "routes published"
            );
            proxy.diagnostics.store(Arc::new(diagnostics));
            proxy.table.store(Arc::new(table));
            generation.send_modify(|generation| *generation += 1);
        }
        if merge.deadline().is_none() {
            for live in waiting.drain(..) {
                // A provider that no longer waits has no need to know.
                let _ = live.send(());
            }
        }
    }
}
