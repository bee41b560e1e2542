//! Which web pages may use REST and `/metrics`. They have no password: what keeps them is their address, and a browser that runs at
//! that address runs the pages of everybody.
//!
//! A script is known by what it does not send: browsers name the page in `Origin`, and say `Sec-Fetch-Site: cross-site` where they
//! leave `Origin` out (a link, an image). While only loopback is bound, `Host` must name loopback too: a page whose own name was
//! made to resolve to this machine is otherwise no stranger to its browser.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header, uri::Authority};
use thiserror::Error;
use warp::reply::Response;

use crate::{config::Config, metrics::Metrics};

/// Who may come.
#[derive(Debug)]
pub(crate) struct Guard {
    /// Whether only loopback is bound.
    is_loopback: bool,
    /// Setting `rest_allowed_origins`.
    origins: Vec<String>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Refused {
    /// Another name than this machine's.
    #[error("Host: it must be localhost or a loopback address while rest_bind is one, or that of rest_allowed_origins")]
    Host,
    /// A page that nobody allowed.
    #[error("Origin: pages of this origin are not in rest_allowed_origins")]
    Origin,
}

impl Refused {
    /// 403, counted.
    pub(crate) fn answer(self, metrics: &Metrics) -> Response {
        metrics.rest_pages_refused.add(1);
        super::rest::error(403, &self.to_string())
    }
}

/// What a page is told of its permission (the CORS protocol of the Fetch standard).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cors {
    /// No page asks.
    Unasked,
    /// This one may read the answer, or with `*` each.
    Origin(HeaderValue),
}

impl Guard {
    pub(crate) fn new(config: &Config) -> Self {
        let is_loopback = config.rest_bind().is_loopback();
        Guard { is_loopback, origins: config.list("rest_allowed_origins").to_vec() }
    }

    /// Looks at the headers of a request to REST. Who opens REST to a network serves pages of anywhere, as WCS does
    /// (wcs-protocol.md 7.1), until the setting names some.
    ///
    /// # Errors
    /// [`Refused`]
    pub(crate) fn check_rest(&self, headers: &HeaderMap) -> Result<Cors, Refused> {
        if self.origins.is_empty() && !self.is_loopback {
            return Ok(Cors::Origin(HeaderValue::from_static("*")));
        }
        self.check(headers)
    }

    /// Looks at the headers of a request to `/metrics`.
    ///
    /// # Errors
    /// [`Refused`]
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<Cors, Refused> {
        if self.origins.iter().any(|origin| origin == "*") {
            return Ok(Cors::Origin(HeaderValue::from_static("*")));
        }
        // Scripts that speak HTTP/1.0 may leave it out; browsers never do.
        if self.is_loopback && !headers.get_all(header::HOST).iter().all(|host| self.is_ours(host)) {
            return Err(Refused::Host);
        }
        match headers.get(header::ORIGIN) {
            Some(origin) if self.allows(origin, headers) => Ok(Cors::Origin(origin.clone())),
            Some(_) => Err(Refused::Origin),
            None if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site") => Err(Refused::Origin),
            None => Ok(Cors::Unasked),
        }
    }

    fn is_ours(&self, host: &HeaderValue) -> bool {
        let Some(host) = authority(host.to_str().unwrap_or_default()) else { return false };
        let of_page = |origin: &String| {
            origin
                .split_once("://")
                .and_then(|(_, rest)| authority(rest))
                .is_some_and(|page| page.host() == host.host())
        };
        is_loopback(&host) || self.origins.iter().any(of_page)
    }

    fn allows(&self, origin: &HeaderValue, headers: &HeaderMap) -> bool {
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let Some(page) = origin.split_once("://").and_then(|(_, rest)| authority(rest)) else { return false };
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let is_own_page = host.is_some_and(|host| page.as_str().eq_ignore_ascii_case(host));
        is_loopback(&page) || is_own_page || self.origins.contains(&origin)
    }
}

impl Cors {
    /// Puts it into the headers of an answer.
    pub(crate) fn onto(self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        let Cors::Origin(origin) = self else { return response };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "Content-Type"),
            (header::ACCESS_CONTROL_MAX_AGE, "86400"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// `host` or `host:port`, in small letters.
fn authority(text: &str) -> Option<Authority> {
    text.to_ascii_lowercase().parse().ok().filter(|authority: &Authority| !authority.as_str().contains('@'))
}

fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || literal.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(is_loopback: bool, origins: &[&str]) -> Guard {
        Guard { is_loopback, origins: origins.iter().map(|&origin| origin.to_owned()).collect() }
    }

    fn check(guard: &Guard, headers: &[(&'static str, &'static str)]) -> Result<Cors, Refused> {
        let headers = headers.iter().map(|&(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        guard.check(&headers.collect())
    }

    fn allowed(origin: &'static str) -> Result<Cors, Refused> {
        Ok(Cors::Origin(HeaderValue::from_static(origin)))
    }

    #[test]
    fn on_loopback_only_names_of_loopback_reach_us() {
        let guard = guard(true, &[]);
        for host in ["localhost", "LOCALHOST:8081", "127.0.0.1:8081", "127.0.0.9", "[::1]", "[::1]:8081"] {
            assert_eq!(check(&guard, &[("host", host)]), Ok(Cors::Unasked), "{host}");
        }
        for host in
            ["evil.example", "evil.example:8081", "localhost.evil.example", "10.0.0.1", "x@localhost", "", "::1", "a b"]
        {
            assert_eq!(check(&guard, &[("host", host)]), Err(Refused::Host), "{host}");
        }
        assert_eq!(check(&guard, &[]), Ok(Cors::Unasked), "HTTP/1.0");
    }

    #[test]
    fn on_another_address_any_name_reaches_us_and_pages_that_are_not_named_do_not() {
        let guard = guard(false, &["https://app.example"]);
        assert_eq!(check(&guard, &[("host", "gw.example:8081")]), Ok(Cors::Unasked));
        let own = [("host", "gw.example:8081"), ("origin", "http://gw.example:8081")];
        assert_eq!(check(&guard, &own), allowed("http://gw.example:8081"), "a page of ours");
        for origin in ["http://evil.example", "http://gw.example", "null", ""] {
            assert_eq!(
                check(&guard, &[("host", "gw.example:8081"), ("origin", origin)]),
                Err(Refused::Origin),
                "{origin}"
            );
        }
    }

    #[test]
    fn pages_of_this_machine_may_call_and_others_when_they_are_allowed() {
        let guard = guard(true, &["https://app.example"]);
        for origin in ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:8081", "https://app.example"] {
            assert_eq!(check(&guard, &[("host", "localhost:8081"), ("origin", origin)]), allowed(origin));
        }
        for origin in ["http://app.example", "https://app.example:444", "https://app.example.evil", "null"] {
            let answer = check(&guard, &[("host", "localhost:8081"), ("origin", origin)]);
            assert_eq!(answer, Err(Refused::Origin), "{origin}");
        }
        // The name under which a reverse proxy shows us to such a page.
        assert_eq!(check(&guard, &[("host", "app.example:8444")]), Ok(Cors::Unasked));
        assert_eq!(check(&guard, &[("host", "evil.example")]), Err(Refused::Host));
    }

    #[test]
    fn a_link_or_image_of_another_site_is_no_script() {
        let guard = guard(true, &[]);
        let from = |site| check(&guard, &[("host", "localhost"), ("sec-fetch-site", site)]);
        assert_eq!(from("cross-site"), Err(Refused::Origin));
        assert_eq!(from("none"), Ok(Cors::Unasked));
        assert_eq!(from("same-origin"), Ok(Cors::Unasked));
    }

    #[test]
    fn a_star_opens_to_everybody() {
        let guard = guard(true, &["*"]);
        for headers in [&[("host", "x"), ("origin", "null")][..], &[("host", "x")], &[("sec-fetch-site", "cross-site")]]
        {
            assert_eq!(check(&guard, headers), allowed("*"));
        }
    }
}
