//! Owns the redirect from the plain entry point to TLS.

use http::{Method, StatusCode};

/// Status and `Location` of the redirect of a request to its https form. `GET` and `HEAD` get 301, which every client and cache
/// understands; other methods 308, which keeps the method and the body.
pub fn to_https(method: &Method, host: &str, path_and_query: &str, https_port: u16) -> (StatusCode, String) {
    let status = match *method {
        Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::PERMANENT_REDIRECT,
    };
    // The normal form of an IPv6 host has no brackets.
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let port = if https_port == 443 { String::new() } else { format!(":{https_port}") };
    (status, format!("https://{host}{port}{path_and_query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_named_unless_it_is_the_default() {
        for (method, host, port, status, location) in [
            (Method::GET, "a.example", 443, 301, "https://a.example/x?y=1"),
            (Method::HEAD, "a.example", 8443, 301, "https://a.example:8443/x?y=1"),
            (Method::POST, "::1", 8443, 308, "https://[::1]:8443/x?y=1"),
        ] {
            let (got, to) = to_https(&method, host, "/x?y=1", port);
            assert_eq!((got.as_u16(), to.as_str()), (status, location));
        }
    }
}
