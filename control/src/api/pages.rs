//! Pages: our Phone page at `/`, our Phone Video page, the vendor's SDK package under `/client2/`, and what a plain GET on a
//! websocket port sees.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use http::{HeaderMap, Method, header};
use serde_json::json;
use warp::{Reply, reply::Response};

use super::{BoundApi, listener::ConnInfo, rest};
use crate::config::Config;

/// What pages tell browsers.
#[derive(Clone, Debug)]
pub struct PageFacts {
    /// Ports that were bound.
    pub ports: BoundApi,
    /// Where the demo service's registrar listens, with `--demo`.
    pub demo: Option<Demo>,
}

/// The demo service, as `/demo.json` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demo {
    /// Address of its registrar.
    pub sip: std::net::SocketAddr,
}

/// The pages.
#[derive(Debug)]
pub(crate) struct Pages {
    facts: Arc<PageFacts>,
    sdk: Option<PathBuf>,
}

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file of ours: its path, its type, its text.
type OwnFile = (&'static str, &'static str, &'static str);

macro_rules! own_files {
    ($($path:literal: $kind:ident,)*) => {
        [$(($path, $kind, include_str!(concat!("../../web", $path))),)*]
    };
}

/// Our pages and all that they load. Scripts are modules of each other; nothing comes from elsewhere but the SDK.
const OWN: [OwnFile; 21] = own_files![
    "/index.html": HTML,
    "/phone.css": STYLE,
    "/phone.js": SCRIPT,
    "/scheme.js": SCRIPT,
    "/video.css": STYLE,
    "/video.html": HTML,
    "/video.js": SCRIPT,
    "/modules/account.js": SCRIPT,
    "/modules/call.js": SCRIPT,
    "/modules/charts.js": SCRIPT,
    "/modules/choices.js": SCRIPT,
    "/modules/devices.js": SCRIPT,
    "/modules/failures.js": SCRIPT,
    "/modules/history.js": SCRIPT,
    "/modules/pad.js": SCRIPT,
    "/modules/phone.js": SCRIPT,
    "/modules/pictures.js": SCRIPT,
    "/modules/session.js": SCRIPT,
    "/modules/sounds.js": SCRIPT,
    "/modules/statistics.js": SCRIPT,
    "/modules/view.js": SCRIPT,
];

/// What our pages may load and reach (CSP level 3): themselves, and any gateway that the user names. Not the vendor's pages, which
/// are full of inline scripts.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; media-src 'self' blob: mediastream:; \
                      object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

impl Pages {
    pub(crate) fn new(config: &Config, facts: PageFacts) -> Self {
        let sdk = match config.file("sdk_dir") {
            Some(dir) => Some(dir.to_path_buf()),
            None => find_sdk(),
        };
        match &sdk {
            Some(dir) => tracing::debug!(dir = %dir.display(), "serving the SDK"),
            None => tracing::warn!("the vendor's SDK was not found: pages cannot call; run ./run or npm ci"),
        }
        Pages { facts: Arc::new(facts), sdk }
    }

    /// Answers one GET.
    pub(crate) async fn respond(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response {
        if method != Method::GET && method != Method::HEAD {
            return rest::error(405, "GET is understood here");
        }
        let name = if path == "/" { "/index.html" } else { path };
        let response = match OWN.iter().find(|(own, ..)| *own == name) {
            Some(file) => own(file),
            None => self.other(path, headers).await,
        };
        unless_known(response, headers)
    }

    async fn other(&self, path: &str, headers: &HeaderMap) -> Response {
        match path {
            "/demo.json" => self.demo(headers),
            "/client2" => redirect("/client2/examples/demo/sip/phone/phone.html"),
            "/client2/" => redirect("/client2/examples/demo/sip/phone/phone.html"),
            _ => match path.strip_prefix("/client2/") {
                Some(file) => self.sdk_file(file).await,
                None => rest::error(404, "no such page"),
            },
        }
    }

    fn demo(&self, headers: &HeaderMap) -> Response {
        let Some(demo) = self.facts.demo else { return rest::error(404, "the demo service runs with --demo") };
        let host = host_of(headers);
        let url = |scheme: &str, port: Option<u16>| port.map(|port| format!("{scheme}://{host}:{port}"));
        let body = json!({
            "sipDomain": demo.sip.ip().to_string(),
            "sipPort": demo.sip.port(),
            "login": "1001",
            "password": "1001",
            "ws": url("ws", self.facts.ports.ws),
            "wss": url("wss", self.facts.ports.wss),
        });
        typed(body.to_string(), "application/json")
    }

    async fn sdk_file(&self, file: &str) -> Response {
        let Some(root) = &self.sdk else { return missing_sdk() };
        let Some(path) = rest::percent_decoded(&file.replace('+', "%2B")).and_then(|file| inside(root, &file)) else {
            return rest::error(404, "no such file");
        };
        match read_inside(root, &path).await {
            Ok(bytes) => tagged(bytes, mime(&path)),
            Err(_) if !root.join("flashphoner.js").exists() => missing_sdk(),
            Err(_) => rest::error(404, "no such file"),
        }
    }

    /// What a plain GET on a websocket port sees: for wss it is the page that people open to accept the certificate.
    pub(crate) fn signalling(&self, info: &ConnInfo, headers: &HeaderMap) -> Response {
        let host = host_of(headers);
        let ports = self.facts.ports;
        let pages = match (info.secure, ports.https, ports.http) {
            (true, Some(port), _) => Some(format!("https://{host}:{port}/")),
            (_, _, Some(port)) => Some(format!("http://{host}:{port}/")),
            (false, Some(port), None) => Some(format!("https://{host}:{port}/")),
            (true, None, None) | (false, None, None) => None,
        };
        let first = if info.secure { "This browser accepts the certificate of this port." } else { "This port works." };
        let back = match pages {
            Some(url) => {
                format!("Go back to the page you came from, or open <a href=\"{url}\">{url}</a>, and connect again.")
            }
            None => "Go back to the page you came from and connect again.".to_owned(),
        };
        let body = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
             <title>Gangway</title><body style=\"font:1.1rem/1.5 system-ui;max-width:36rem;margin:4rem auto;padding:0 1rem\">\
             <h1>{first}</h1><p>It speaks websocket, which web phones use to signal calls. {back}</p></body></html>"
        );
        typed(body, HTML)
    }
}

/// The name by which the browser reached us, without port; only characters that a host may have, so that it can stand in a page.
fn host_of(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => format!("[{v6}]"),
        None => host.split(':').next().unwrap_or_default().to_owned(),
    };
    let allowed = |at: char| at.is_ascii_alphanumeric() || ".-_[]:".contains(at);
    if name.is_empty() || !name.chars().all(allowed) { "localhost".to_owned() } else { name }
}

fn typed(body: impl Into<bytes::Bytes>, content_type: &'static str) -> Response {
    let mut response = http::Response::new(body.into()).map(Into::into);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    // Pages change with the program: browsers ask again.
    headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, http::HeaderValue::from_static("nosniff"));
    response
}

/// A file with an entity tag (RFC 9110 section 8.8.3): a browser that has it is told so instead of getting it again.
fn tagged(body: impl Into<bytes::Bytes>, content_type: &'static str) -> Response {
    let body = body.into();
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    let mut response = typed(body, content_type);
    response.headers_mut().insert(header::ETAG, tag.parse().expect("hexadecimal digits in quotes are a header value"));
    response
}

/// The response, or 304 without a body when the request names its entity tag (RFC 9110 section 13.1.2).
fn unless_known(response: Response, headers: &HeaderMap) -> Response {
    let Some(tag) = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()) else { return response };
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|list| list.to_str().ok());
    let is_known = known.flat_map(|list| list.split(',')).any(|one| one.trim().trim_start_matches("W/") == tag);
    if !is_known {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    parts.status = http::StatusCode::NOT_MODIFIED;
    parts.headers.remove(header::CONTENT_TYPE);
    http::Response::from_parts(parts, bytes::Bytes::new()).map(Into::into)
}

fn own(&(_, kind, text): &OwnFile) -> Response {
    let mut response = tagged(text, kind);
    if kind == HTML {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, http::HeaderValue::from_static(POLICY));
    }
    response
}

fn redirect(to: &'static str) -> Response {
    let mut response = http::StatusCode::FOUND.into_response();
    response.headers_mut().insert(header::LOCATION, http::HeaderValue::from_static(to));
    response
}

fn missing_sdk() -> Response {
    let body = "<!doctype html><meta charset=\"utf-8\"><title>Gangway</title><h1>The web phone's library is missing</h1>\
                <p>The npm package @flashphoner/websdk was not found. Start the gateway with <code>./run</code>, or run \
                <code>npm ci</code> in the project's folder and start it there, or name the package's folder with the setting \
                <code>sdk_dir</code>.</p>";
    let mut response = typed(body, HTML);
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    response
}

/// Looks for the package upward from where we run and from where the program lies.
fn find_sdk() -> Option<PathBuf> {
    let places = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    places.iter().flatten().flat_map(|place| place.ancestors()).map(|dir| dir.join(SDK)).find(|dir| dir.is_dir())
}

const SDK: &str = "node_modules/@flashphoner/websdk";

/// `file` below `root`, or nothing when it would lead elsewhere.
fn inside(root: &Path, file: &str) -> Option<PathBuf> {
    let file = Path::new(file);
    let plain = file.components().all(|part| matches!(part, Component::Normal(name) if !name.is_empty()));
    (plain && !file.as_os_str().is_empty()).then(|| root.join(file))
}

/// Largest file served. The SDK's largest is below 4 MiB.
const FILE_MAX_BYTES: u64 = 32 << 20;

async fn read_inside(root: &Path, path: &Path) -> io::Result<Vec<u8>> {
    // A link inside the package must not lead out of it either.
    let (root, path) = (tokio::fs::canonicalize(root).await?, tokio::fs::canonicalize(path).await?);
    let facts = tokio::fs::metadata(&path).await?;
    if !path.starts_with(&root) || !facts.is_file() || facts.len() > FILE_MAX_BYTES {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    tokio::fs::read(path).await
}

fn mime(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()).unwrap_or_default() {
        "html" | "htm" => HTML,
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "ico" => "image/x-icon",
        "webp" => "image/webp",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "eot" => "application/vnd.ms-fontobject",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        "wasm" => "application/wasm",
        "swf" => "application/x-shockwave-flash",
        "md" | "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_of_the_package_is_reached() {
        let root = Path::new("/srv/sdk");
        assert_eq!(inside(root, "examples/a.html"), Some(PathBuf::from("/srv/sdk/examples/a.html")));
        for bad in ["../x", "a/../../x", "/etc/passwd", "", "./.."] {
            assert_eq!(inside(root, bad), None, "{bad}");
        }
    }

    /// What a file of ours refers to: `src`, `href` and imports, but for addresses of other kinds.
    fn references(text: &str) -> Vec<&str> {
        let quoted = |mark: &'static str| text.split(mark).skip(1).filter_map(|rest| rest.split('"').next());
        [" src=\"", " href=\"", " from \"", "import \""]
            .into_iter()
            .flat_map(quoted)
            .filter(|to| !to.starts_with('#') && !to.starts_with("data:"))
            .collect()
    }

    #[test]
    fn every_file_of_the_pages_is_served_and_every_reference_leads_to_one() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
        let (mut folders, mut found) = (vec![folder.clone()], Vec::new());
        while let Some(here) = folders.pop() {
            for entry in std::fs::read_dir(here).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    found.push(format!("/{}", entry.path().strip_prefix(&folder).unwrap().display()));
                }
            }
        }
        found.sort();
        let mut served: Vec<&str> = OWN.iter().map(|(path, ..)| *path).collect();
        served.sort_unstable();
        assert_eq!(found, served);
        for (path, _, text) in OWN {
            for to in references(text) {
                let base = path.rsplit_once('/').unwrap().0;
                let to =
                    if to.starts_with('/') { to.to_owned() } else { format!("{base}/{}", to.trim_start_matches("./")) };
                assert!(
                    served.contains(&to.as_str()) || to == "/client2/flashphoner-webrtc-only.min.js",
                    "{path} refers to {to}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_link_that_leads_out_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("sdk");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), root.join("link")).unwrap();
        std::fs::write(root.join("plain.js"), "y").unwrap();
        assert!(read_inside(&root, &root.join("link")).await.is_err());
        assert_eq!(read_inside(&root, &root.join("plain.js")).await.unwrap(), b"y");
    }

    #[test]
    fn a_hostile_host_header_does_not_reach_the_page() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "a\"><script>".parse().unwrap());
        assert_eq!(host_of(&headers), "localhost");
        headers.insert(header::HOST, "[::1]:8443".parse().unwrap());
        assert_eq!(host_of(&headers), "[::1]");
        headers.insert(header::HOST, "gw.example.com:8443".parse().unwrap());
        assert_eq!(host_of(&headers), "gw.example.com");
    }
}
