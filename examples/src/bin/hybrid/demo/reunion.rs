//! Step *conflict*: both homes edit one file while they are apart; afterwards both have both versions.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use super::edge::Edge;
use super::network::Network;
use super::node::loopback;
use super::report::{Proof, StepError};
use super::site::Site;
use super::visitor::Visitor;

const FILE: &str = "shopping.txt";
const TIMEOUT: Duration = Duration::from_secs(10);
const EDITS: [&str; 2] = ["bread, and milk for home-1\n", "bread, and tea for home-2\n"];

/// Edits apart, meets again, counts versions.
pub async fn play(network: &Network, site: &Site, edge: &Edge) -> Result<((), Proof), StepError> {
    let directories =
        [&network.home_1, &network.home_2].map(|node| Site::directory(&site.root, node.name, "shared"));
    std::fs::write(directories[0].join(FILE), "bread\n")?;
    site.shared.home_1.scan().await?;
    let met = site.shared.settle(TIMEOUT).await? && directories[1].join(FILE).exists();

    network.home_1.line.cut();
    for (directory, text) in directories.iter().zip(EDITS) {
        std::fs::write(directory.join(FILE), text)?;
    }
    site.shared.home_1.scan().await?;
    site.shared.home_2.scan().await?;
    let apart = site.shared.home_1.digest().await? != site.shared.home_2.digest().await?;
    network.home_1.line.restore(loopback()).await?;
    network.home_1.mesh.rebound();

    let expected: BTreeSet<String> = EDITS.iter().map(|text| (*text).to_owned()).collect();
    let deadline = Instant::now() + TIMEOUT;
    let mut both = false;
    while !both && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
        both = versions(&directories[0])? == expected && versions(&directories[1])? == expected;
    }
    let equal = site.shared.settle(TIMEOUT).await?;
    let conflicts = site.shared.home_1.conflicts().await?;
    let page = Visitor::http(edge.page, "localhost").await?.get("/").await?.text();
    let said = conflicts.iter().any(|conflict| page.contains(&conflict.kept_as.to_string()));

    let proof = Proof::new()
        .must("in_sync_before", met.into(), "1", met)
        .must("apart", apart.into(), "1", apart)
        .must("versions_on_both", if both { 2 } else { 0 }, "2", both)
        .must("digests_equal", equal.into(), "1", equal)
        .must("conflicts_listed", conflicts.len() as u64, "1", conflicts.len() == 1)
        .must("page_says_so", said.into(), "1", said)
        .sentence(format!(
            "both homes edited {FILE} apart: both versions are on both sides, and the page says so"
        ));
    Ok(((), proof))
}

/// The contents of all files of a directory.
fn versions(directory: &Path) -> std::io::Result<BTreeSet<String>> {
    let mut texts = BTreeSet::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            texts.insert(std::fs::read_to_string(entry.path())?);
        }
    }
    Ok(texts)
}
