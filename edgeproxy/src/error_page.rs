//! Owns what a person or a program reads when the proxy answers by itself. Says what happened and what to do, never what stands behind.

use http::StatusCode;
use std::time::Duration;

/// A reply of the proxy's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorPage {
    /// Status of the reply.
    pub status: StatusCode,
    /// One sentence: what happened.
    pub what: &'static str,
    /// One sentence: what the reader can do.
    pub remedy: &'static str,
    /// When it makes sense to try again.
    pub retry_after: Option<Duration>,
}

impl ErrorPage {
    /// No route takes the request.
    pub const NOT_FOUND: Self = Self::new(
        StatusCode::NOT_FOUND,
        "There is no site at this address.",
        "Check the address for a typing error.",
    );
    /// The server closed the connection, or did not speak HTTP.
    pub const BAD_GATEWAY: Self = Self::new(
        StatusCode::BAD_GATEWAY,
        "The site broke off before it answered.",
        "Try again; if it stays so, the site itself needs attention.",
    );
    /// The server did not answer in time.
    pub const GATEWAY_TIMEOUT: Self = Self::new(
        StatusCode::GATEWAY_TIMEOUT,
        "The site did not answer in time.",
        "Try again; if it stays so, the site itself needs attention.",
    );
    /// The request is malformed or forbidden.
    pub const BAD_REQUEST: Self = Self::new(
        StatusCode::BAD_REQUEST,
        "The request is not one that can be passed on.",
        "The program that sent it needs attention.",
    );
    /// The request asks for something that is not served.
    pub const NOT_IMPLEMENTED: Self = Self::new(
        StatusCode::NOT_IMPLEMENTED,
        "This kind of request is not served here.",
        "The program that sent it needs attention.",
    );
    /// The request's body stopped coming.
    pub const REQUEST_TIMEOUT: Self = Self::new(
        StatusCode::REQUEST_TIMEOUT,
        "The request stopped halfway.",
        "Check the connection and send it again.",
    );

    const fn new(status: StatusCode, what: &'static str, remedy: &'static str) -> Self {
        Self { status, what, remedy, retry_after: None }
    }

    /// The route exists, but none of its servers can be reached now.
    pub const fn unavailable(retry_after: Duration) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            what: "The site is not reachable right now.",
            remedy: "It is known here and expected back; try again in a moment.",
            retry_after: Some(retry_after),
        }
    }

    /// The value of `Retry-After`: whole seconds, at least one.
    pub fn retry_after_secs(&self) -> Option<u64> {
        self.retry_after.map(|after| after.as_millis().div_ceil(1000).clamp(1, u64::MAX.into()) as u64)
    }

    /// Renders it in the form that the `Accept` header prefers: HTML for browsers, JSON for programs that ask for it, else text.
    /// Returns the content type and the body.
    pub fn render(&self, accept: Option<&str>) -> (&'static str, String) {
        let accept = accept.unwrap_or_default();
        let retry = self.retry_after_secs();
        let code = self.status.as_u16();
        let reason = self.status.canonical_reason().unwrap_or("Error");
        match (accept.find("text/html"), accept.find("json")) {
            (Some(html), json) if json.is_none_or(|json| html < json) => {
                // A browser that waits on the page tries again by itself.
                let refresh = retry.map_or(String::new(), |secs| {
                    format!("<meta http-equiv=\"refresh\" content=\"{secs}\">")
                });
                let body = format!(
                    "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
                     <meta name=\"viewport\" content=\"width=device-width\">{refresh}<title>{code} {reason}</title>\
                     <style>body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:18vh auto;padding:0 1rem;\
                     color:#222;background:#fff}}small{{color:#666}}@media(prefers-color-scheme:dark){{body{{color:#ddd;\
                     background:#111}}small{{color:#999}}}}</style></head>\
                     <body><h1>{what}</h1><p>{remedy}</p><small>{code} {reason}</small></body></html>\n",
                    what = self.what,
                    remedy = self.remedy,
                );
                ("text/html; charset=utf-8", body)
            }
            (_, Some(_)) => {
                let retry = retry.map_or(String::new(), |secs| format!(",\"retry_after_secs\":{secs}"));
                let body = format!(
                    "{{\"status\":{code},\"error\":\"{}\",\"remedy\":\"{}\"{retry}}}\n",
                    self.what, self.remedy
                );
                ("application/json", body)
            }
            _ => ("text/plain; charset=utf-8", format!("{code} {reason}: {} {}\n", self.what, self.remedy)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_follows_accept() {
        let page = ErrorPage::unavailable(Duration::from_millis(1500));
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (accept, content_type) in [
            (Some(browser), "text/html; charset=utf-8"),
            (Some("application/json"), "application/json"),
            (Some("application/problem+json, text/html"), "application/json"),
            (Some("*/*"), "text/plain; charset=utf-8"),
            (None, "text/plain; charset=utf-8"),
        ] {
            let (got, body) = page.render(accept);
            assert_eq!(got, content_type, "{accept:?}");
            assert!(body.contains("503") && body.contains("not reachable right now"), "{body}");
        }
        assert!(page.render(Some(browser)).1.contains("content=\"2\""), "rounded up to whole seconds");
    }

    #[cfg(feature = "driver")]
    #[test]
    fn the_json_form_is_json() {
        for page in [ErrorPage::NOT_FOUND, ErrorPage::unavailable(Duration::ZERO)] {
            let parsed: serde_json::Value =
                serde_json::from_str(&page.render(Some("application/json")).1).unwrap();
            assert_eq!(parsed["status"], page.status.as_u16());
            assert_eq!(
                parsed.get("retry_after_secs").and_then(|secs| secs.as_u64()),
                page.retry_after_secs()
            );
        }
    }
}
