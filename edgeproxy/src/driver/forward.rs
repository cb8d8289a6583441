//! Owns one request's life: refused, redirected, held, forwarded, or answered with a page.

use super::{
    body::{RequestBody, RequestBodyError, ResponseBody},
    connection::Connection,
    exchange::{self, Failure},
    upgrade::tunnel,
};
use crate::{
    error_page::ErrorPage,
    headers::{Client, Refusal, admit, set_forwarded, strip_hop_by_hop, wanted_upgrade},
    redirect::to_https,
    route::{EntryPoint, RequestView, Route},
    upstream::Upstream,
};
use http::{
    HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, EXPECT, HOST, LOCATION, RETRY_AFTER, UPGRADE},
    request::Parts,
};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

/// Most servers of a service that are dialled for one request.
const SERVERS_TRIED_MAX: usize = 3;

/// A reply of the proxy's own, and why.
enum Reply {
    Page(ErrorPage),
    /// Like `Page`, but the connection is not to be trusted any further.
    Refused(ErrorPage),
    Redirect(StatusCode, String),
}

/// Answers one request.
pub(super) async fn serve(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let started = Instant::now();
    connection.used.store(true, Relaxed);
    connection.proxy.counting.requests.add();
    let (head, body) = request.into_parts();
    let accept = head.headers.get(ACCEPT).cloned();
    // What the log says is copied only if somebody listens. Never the query, never a header but the host.
    let logged = tracing::enabled!(tracing::Level::DEBUG).then(|| {
        let host = head.headers.get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
        (head.method.clone(), host.unwrap_or_default(), head.uri.path().to_owned())
    });
    let response = match answer(&connection, head, body).await {
        Ok(response) => response,
        Err(reply) => own_response(reply, accept.as_ref()),
    };
    if let Some((method, host, path)) = logged {
        tracing::debug!(
            client = %connection.client_ip,
            entry_point = %connection.entry_point,
            %method, host, path,
            status = response.status().as_u16(),
            elapsed_us = started.elapsed().as_micros() as u64,
            "request"
        );
    }
    Ok(response)
}

async fn answer(
    connection: &Arc<Connection>,
    head: Parts,
    body: Incoming,
) -> Result<Response<ResponseBody>, Reply> {
    let proxy = &connection.proxy;
    let (host, port) = match admit(&head) {
        Ok((host, port)) => (host.into_owned(), port),
        Err(refusal) => {
            proxy.counting.refused.add();
            tracing::debug!(client = %connection.client_ip, %refusal, "refused");
            return Err(Reply::Refused(match refusal {
                Refusal::Connect => ErrorPage::NOT_IMPLEMENTED,
                _ => ErrorPage::BAD_REQUEST,
            }));
        }
    };
    let view = RequestView {
        entry_point: connection.entry_point,
        host: &host,
        path: head.uri.path(),
        method: &head.method,
        headers: Some(&head.headers),
    };
    if let Some(location) = redirect(connection, &view, &head.uri) {
        return Err(location);
    }
    let Some(route) = find_route(connection, &view).await else {
        proxy.counting.not_found.add();
        return Err(Reply::Page(ErrorPage::NOT_FOUND));
    };
    forward(connection, head, body, port, &route).await
}

/// The redirect to https, if the proxy is to redirect and a route serves the request there.
fn redirect(connection: &Connection, view: &RequestView<'_>, uri: &Uri) -> Option<Reply> {
    let proxy = &connection.proxy;
    let port = proxy.redirect_port.filter(|_| connection.entry_point == EntryPoint::Http)?;
    proxy.table.load().lookup(&RequestView { entry_point: EntryPoint::Https, ..*view })?;
    proxy.counting.redirected.add();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let (status, location) = to_https(view.method, view.host, path, port);
    Some(Reply::Redirect(status, location))
}

/// The route that takes the request. If it has no live server, waits up to `hold_unavailable` for one.
async fn find_route(connection: &Connection, view: &RequestView<'_>) -> Option<Arc<Route>> {
    let proxy = &connection.proxy;
    let lookup = || proxy.table.load().lookup(view).cloned();
    let route = lookup()?;
    let hold = proxy.config.hold_unavailable;
    if !route.service.live().is_empty() || hold.is_zero() {
        return Some(route);
    }
    let Ok(_held) = proxy.hold_slots.try_acquire() else { return Some(route) };
    proxy.counting.held.add();
    let mut generation = proxy.generation.clone();
    let live = async {
        loop {
            // Seen before the look-up: a table that is published meanwhile wakes us.
            generation.borrow_and_update();
            if let Some(route) = lookup().filter(|route| !route.service.live().is_empty()) {
                return Some(route);
            }
            generation.changed().await.ok()?;
        }
    };
    tokio::time::timeout(hold, live).await.ok().flatten().or(Some(route))
}

async fn forward(
    connection: &Arc<Connection>,
    mut head: Parts,
    body: Incoming,
    port: Option<u16>,
    route: &Route,
) -> Result<Response<ResponseBody>, Reply> {
    let proxy = &connection.proxy;
    let upgrade = wanted_upgrade(&head);
    let client_side = head.extensions.remove::<OnUpgrade>().filter(|_| upgrade.is_some());
    prepare(&mut head, connection, port, upgrade.as_ref());
    let mut request = Request::from_parts(head, RequestBody::new(body, proxy.config.body_idle_timeout));
    let live = route.service.live();
    let first = proxy.turn.fetch_add(1, Relaxed);
    for n in 0..live.len().min(SERVERS_TRIED_MAX) {
        let upstream = &live[first.wrapping_add(n) % live.len()];
        if !route.service.pass_host_header {
            request.headers_mut().insert(HOST, host_of(upstream));
        }
        match exchange::exchange(proxy, upstream, request).await {
            Ok(answered) => {
                proxy.counting.forwarded.add();
                return finish(connection, answered, client_side);
            }
            Err(Failure::NotSent(back)) => request = *back,
            Err(failure) => return Err(reply_to(connection, upstream, failure)),
        }
    }
    proxy.counting.unavailable.add();
    Err(Reply::Page(ErrorPage::unavailable(proxy.config.retry_after)))
}

/// Turns what the client sent into what the server gets.
fn prepare(head: &mut Parts, connection: &Connection, port: Option<u16>, upgrade: Option<&HeaderValue>) {
    let host = head.headers.get(HOST).cloned();
    strip_hop_by_hop(&mut head.headers);
    // Answered here, when the body is asked for.
    head.headers.remove(EXPECT);
    if let Some(upgrade) = upgrade {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, upgrade.clone());
    }
    let client =
        Client { ip: connection.client_ip, entry_point: connection.entry_point, port, host: host.as_ref() };
    set_forwarded(&mut head.headers, &client, connection.proxy.config.trust_forwarded_headers);
    if head.uri.authority().is_some() {
        let path = head.uri.path_and_query().cloned();
        head.uri = path.map_or(Uri::from_static("/"), Uri::from);
    }
    head.version = Version::HTTP_11;
    head.extensions.clear();
}

fn host_of(upstream: &Upstream) -> HeaderValue {
    HeaderValue::try_from(upstream.authority()).expect("an address and a port are a header value")
}

/// Turns what the server answered into what the client gets.
fn finish(
    connection: &Arc<Connection>,
    answered: exchange::Answered,
    client_side: Option<OnUpgrade>,
) -> Result<Response<ResponseBody>, Reply> {
    let exchange::Answered { response, lease } = answered;
    let (mut head, body) = response.into_parts();
    let upgraded_to = head.headers.get(UPGRADE).cloned();
    strip_hop_by_hop(&mut head.headers);
    head.version = Version::HTTP_11;
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Response::from_parts(head, ResponseBody::forwarded(body, lease)));
    }
    let server_side = head.extensions.remove::<OnUpgrade>();
    let (Some(client_side), Some(server_side), Some(protocol)) = (client_side, server_side, upgraded_to)
    else {
        // A server that changes the protocol without being asked.
        connection.proxy.counting.bad_gateway.add();
        return Err(Reply::Page(ErrorPage::BAD_GATEWAY));
    };
    connection.proxy.counting.tunnels.add();
    connection.tunnel.open();
    tokio::spawn(tunnel(client_side, server_side, connection.clone()));
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers.insert(UPGRADE, protocol);
    Ok(Response::from_parts(head, ResponseBody::own("")))
}

fn reply_to(connection: &Connection, upstream: &Upstream, failure: Failure) -> Reply {
    let proxy = &connection.proxy;
    tracing::debug!(%upstream, %failure, "server failed");
    match failure {
        Failure::NotSent(_) | Failure::Unreachable(_) => {
            proxy.counting.unavailable.add();
            Reply::Page(ErrorPage::unavailable(proxy.config.retry_after))
        }
        Failure::NoAnswer => {
            proxy.counting.gateway_timeouts.add();
            Reply::Page(ErrorPage::GATEWAY_TIMEOUT)
        }
        Failure::RequestBody(RequestBodyError::Idle) => {
            proxy.counting.body_timeouts.add();
            Reply::Refused(ErrorPage::REQUEST_TIMEOUT)
        }
        Failure::RequestBody(RequestBodyError::Client(_)) => Reply::Refused(ErrorPage::BAD_REQUEST),
        Failure::Broken(_) => {
            proxy.counting.bad_gateway.add();
            Reply::Page(ErrorPage::BAD_GATEWAY)
        }
    }
}

fn own_response(reply: Reply, accept: Option<&HeaderValue>) -> Response<ResponseBody> {
    let page = |page: ErrorPage| {
        let (content_type, body) = page.render(accept.and_then(|accept| accept.to_str().ok()));
        let mut response = Response::new(ResponseBody::own(body));
        *response.status_mut() = page.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(secs) = page.retry_after_secs() {
            headers.insert(RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    };
    match reply {
        Reply::Page(shown) => page(shown),
        Reply::Refused(shown) => {
            let mut response = page(shown);
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            response
        }
        Reply::Redirect(status, location) => {
            let mut response = Response::new(ResponseBody::own(""));
            *response.status_mut() = status;
            let location =
                HeaderValue::try_from(location).expect("a host and a parsed path are a header value");
            response.headers_mut().insert(LOCATION, location);
            response
        }
    }
}
