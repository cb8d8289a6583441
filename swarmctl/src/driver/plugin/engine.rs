//! The engine that a driver serves: made to know the driver, and asked what became of mounts that it did not end.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use http_body_util::BodyExt;

use super::super::client::{Endpoint, Swarm};
use super::VolumePlugin;
use crate::error::Source;
use crate::lease::Lease;
use crate::name::VolumeName;
use crate::plugin::VolumeKeeper;

/// How long to wait for an engine that does not answer, before it is asked again.
const RETRY: Duration = Duration::from_millis(500);

/// Visits the engine now, and again whenever it was away.
pub(super) async fn accompany<L: Lease, K: VolumeKeeper>(
    plugin: &VolumePlugin<L, K>,
    engine: Endpoint,
) -> Infallible {
    let mut settled = false;
    let mut said = String::new();
    loop {
        match visit(plugin, &engine, &mut settled).await {
            Ok(()) => said.clear(),
            Err(error) => {
                // An engine that is to start after its driver is no trouble.
                let error = error.to_string();
                if error != said {
                    tracing::info!(%error, "waiting for the engine");
                    said = error;
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Returns when the engine goes away. An engine answers only once the containers of the one before it have ended.
async fn visit<L: Lease, K: VolumeKeeper>(
    plugin: &VolumePlugin<L, K>,
    engine: &Endpoint,
    settled: &mut bool,
) -> Result<(), Source> {
    let swarm = Swarm::connect(engine.clone()).await?;
    let mut life = swarm.lifeline().await?;
    // The scheduler sees only plugins that their engine has met.
    swarm.meet_volume_driver(&plugin.shared.name).await?;
    let in_use = swarm.volumes_in_use().await?;
    let gone = plugin.mounts().gone(&in_use);
    for mount in gone {
        tracing::info!(volume = %mount.volume, id = %mount.id, "its container is gone");
        let plugin = plugin.clone();
        tokio::spawn(async move {
            if let Err(error) = plugin.unmount(&mount).await {
                tracing::warn!(volume = %mount.volume, %error, "not released yet");
            }
        });
    }
    if !std::mem::replace(settled, true) {
        settle(plugin, &in_use);
    }
    while let Some(Ok(_)) = life.frame().await {}
    Ok(())
}

/// Lets go of the leases that an earlier life of this process was still to release.
fn settle<L: Lease, K: VolumeKeeper>(plugin: &VolumePlugin<L, K>, in_use: &BTreeSet<String>) {
    let leased: Vec<VolumeName> = plugin
        .volumes()
        .iter()
        .filter(|(_, path)| path.is_none())
        .map(|(volume, _)| volume.clone())
        .collect();
    for volume in leased {
        if in_use.contains(volume.as_str()) || plugin.mounts().uses(&volume) {
            continue;
        }
        let plugin = plugin.clone();
        tokio::spawn(async move {
            let manager = &plugin.shared.manager;
            let state = loop {
                match manager.lease().observe(&volume).await {
                    Ok(state) => break state,
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            };
            // A container may have come meanwhile; then its own mount has taken the lease up.
            if state.holder.as_ref() == Some(&plugin.shared.node) && !plugin.mounts().uses(&volume) {
                match manager.settle(volume.as_str()).await {
                    Ok(_) => tracing::info!(%volume, "what was left by the last run is released"),
                    Err(error) => tracing::warn!(%volume, %error, "what was left by the last run"),
                }
            }
        });
    }
}
