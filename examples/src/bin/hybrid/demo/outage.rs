//! Steps *cut* and *roam*: the home line goes dark, the edge keeps answering; the line comes back from elsewhere.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hyper::StatusCode;

use super::edge::Edge;
use super::network::Network;
use super::report::{Proof, StepError, millis};

const ANSWER_WITHIN: Duration = Duration::from_secs(1);
const ROAM_WITHIN: Duration = Duration::from_secs(2);
const GIVE_UP: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// Cuts the line of the home that serves the notes, and visits: on a connection that was open, and on a new one.
pub async fn cut(network: &Network, edge: &Edge) -> Result<((), Proof), StepError> {
    let mut open = edge.visitor().await?;
    let before = open.get("/notes").await?.status;
    network.home_2.line.cut();
    let began = Instant::now();
    let first = open.get("/notes").await?;
    let waited = began.elapsed();
    let began = Instant::now();
    let second = edge.visitor().await?.get("/notes").await?;
    let waited = waited.max(began.elapsed());
    let clear = [&first, &second].iter().all(|answer| {
        answer.status == StatusCode::SERVICE_UNAVAILABLE
            && answer.retry_after().is_some()
            && !answer.body.is_empty()
    });

    let proof = Proof::new()
        .must("status_before", before.as_u16().into(), "200", before == StatusCode::OK)
        .must(
            "status",
            second.status.as_u16().into(),
            "503",
            second.status == StatusCode::SERVICE_UNAVAILABLE,
        )
        .must("clear_page", clear.into(), "1 (503, Retry-After and a page, both times)", clear)
        .must("answer_ms", millis(waited), "less than 1000", waited < ANSWER_WITHIN)
        .sentence(format!(
            "home-2's line is dark: the edge says so after {} ms instead of hanging",
            millis(waited)
        ));
    Ok(((), proof))
}

/// Gives the line another address and port and visits until the notes answer again.
pub async fn roam(network: &Network, edge: &Edge) -> Result<((), Proof), StepError> {
    let node = &network.home_2;
    let was = node.mesh.local_addr();
    // The whole of 127/8 is loopback on Linux; elsewhere only another port can be had.
    let elsewhere = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0));
    let began = Instant::now();
    let now = match node.line.restore(elsewhere).await {
        Ok(address) => address,
        Err(_) => node.line.restore(super::node::loopback()).await?,
    };
    node.mesh.rebound();
    let status = loop {
        let answer = edge.visitor().await?.get("/notes").await?;
        if answer.status == StatusCode::OK || began.elapsed() > GIVE_UP {
            break answer.status;
        }
        tokio::time::sleep(POLL).await;
    };
    let took = began.elapsed();

    let proof = Proof::new()
        .must("address_changed", (now != was).into(), "1", now != was)
        .must("status", status.as_u16().into(), "200", status == StatusCode::OK)
        .must("back_ms", millis(took), "at most 2000", took <= ROAM_WITHIN)
        .sentence(format!("home-2 came back at {now} (was {was}): traffic flows after {} ms", millis(took)));
    Ok(((), proof))
}
