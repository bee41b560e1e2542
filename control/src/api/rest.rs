//! REST under `/rest-api` and the page for Prometheus. No logic: JSON in, one question to the core, JSON out.

use std::{fmt::Display, sync::Arc, time::Duration};

use bytes::Buf;
use futures_util::{Stream, StreamExt};
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use warp::{Reply, reply::Response};

use super::Admission;
use crate::{
    config::Config,
    gateway::effects::{CallFilter, RestCall, RestReply},
    hub::HubHandle,
    metrics::{Metrics, Snapshot},
    relay_client::RelayHandle,
    transport::SipHandle,
};

/// The REST surface.
#[derive(Debug)]
pub(crate) struct Rest {
    hub: HubHandle,
    metrics: Arc<Metrics>,
    sources: MetricSources,
    body_max_bytes: usize,
    body_timeout: Duration,
    timeout: Duration,
}

/// Adapters whose numbers stand on the page for Prometheus.
#[derive(Clone, Debug)]
pub struct MetricSources {
    /// The wall.
    pub relay: RelayHandle,
    /// SIP sockets.
    pub sip: SipHandle,
    /// TCP connections.
    pub admission: Admission,
}

/// Why a request is refused before the core is asked.
#[derive(Debug)]
struct Refusal {
    status: u16,
    message: String,
}

impl Refusal {
    fn bad(message: impl Into<String>) -> Self {
        Refusal { status: 400, message: message.into() }
    }
}

impl Rest {
    pub(crate) fn new(config: &Config, hub: HubHandle, metrics: Arc<Metrics>, sources: MetricSources) -> Self {
        Rest {
            hub,
            metrics,
            sources,
            body_max_bytes: config.count("http_body_max_bytes"),
            body_timeout: config.millis("http_body_timeout_ms"),
            timeout: config.millis("rest_timeout_ms"),
        }
    }

    /// Answers one request under `/rest-api`.
    pub(crate) async fn respond<B, D, E>(&self, method: Method, path: &str, query: &str, body: B) -> Response
    where
        B: Stream<Item = Result<D, E>> + Send,
        D: Buf,
        E: Display,
    {
        match method {
            Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
            Method::GET | Method::POST => match self.call(path, query, body).await {
                Ok(response) => response,
                Err(refusal) => error(refusal.status, &refusal.message),
            },
            _ => error(405, "GET and POST are understood"),
        }
    }

    async fn call<B, D, E>(&self, path: &str, query: &str, body: B) -> Result<Response, Refusal>
    where
        B: Stream<Item = Result<D, E>> + Send,
        D: Buf,
        E: Display,
    {
        let known = ["/call/find", "/call/find_all", "/call/terminate", "/connection/find_all"];
        let name = path.strip_prefix("/rest-api").unwrap_or_default().trim_end_matches('/');
        if !known.contains(&name) {
            let message = format!("no method {path}; there are {}", known.join(", "));
            return Err(Refusal { status: 404, message });
        }
        let reading = self.read(body);
        let body = tokio::time::timeout(self.body_timeout, reading).await;
        let body = body.map_err(|_| Refusal { status: 408, message: "the body took too long".to_owned() })??;
        let call = parse(name, fields(query, &body)?)?;
        match tokio::time::timeout(self.timeout, self.hub.rest(call)).await {
            Ok(Ok(reply)) => Ok(answer(reply)),
            Ok(Err(overloaded)) => Err(Refusal { status: 503, message: overloaded.to_string() }),
            Err(_) => Err(Refusal { status: 503, message: "the gateway did not answer in time".to_owned() }),
        }
    }

    async fn read<B, D, E>(&self, body: B) -> Result<Vec<u8>, Refusal>
    where
        B: Stream<Item = Result<D, E>> + Send,
        D: Buf,
        E: Display,
    {
        let mut body = std::pin::pin!(body);
        let mut bytes = Vec::new();
        while let Some(part) = body.next().await {
            let mut part = part.map_err(|error| Refusal::bad(format!("the body broke off: {error}")))?;
            while part.has_remaining() {
                let chunk = part.chunk();
                if bytes.len() + chunk.len() > self.body_max_bytes {
                    let message = format!("the body exceeds {} bytes", self.body_max_bytes);
                    return Err(Refusal { status: 413, message });
                }
                bytes.extend_from_slice(chunk);
                let taken = chunk.len();
                part.advance(taken);
            }
        }
        Ok(bytes)
    }

    /// The page for Prometheus. It is there, with what is known, also while the dataplane is not.
    pub(crate) async fn metrics(&self) -> Response {
        let Ok(Ok(numbers)) = tokio::time::timeout(self.timeout, self.hub.numbers()).await else {
            return error(503, "the gateway did not answer in time");
        };
        let snapshot = Snapshot {
            numbers,
            node: self.sources.relay.node_stats().await,
            hub_refused: self.hub.refused(),
            connections_open: self.sources.admission.open(),
            connections_refused: self.sources.admission.refused(),
            sip_connections_open: self.sources.sip.connections(),
        };
        let page = self.metrics.render(&snapshot);
        warp::reply::with_header(page, "content-type", "text/plain; version=0.0.4; charset=utf-8").into_response()
    }
}

/// The request's fields: the JSON body, or for a GET without one the query.
fn fields(query: &str, body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return query_fields(query);
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Refusal::bad("the body must be a JSON object")),
        Err(error) => Err(Refusal::bad(format!("the body is not JSON: {error}"))),
    }
}

fn query_fields(query: &str) -> Result<Map<String, Value>, Refusal> {
    let mut fields = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(name), Some(value)) = (percent_decoded(name), percent_decoded(value)) else {
            return Err(Refusal::bad(format!("the query field {name} is not percent-encoded UTF-8")));
        };
        fields.insert(name, Value::String(value));
    }
    Ok(fields)
}

/// Undoes percent encoding and `+`; `None` when it is broken or no UTF-8.
pub(super) fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits =
                    std::str::from_utf8(&digits).ok().filter(|at| at.bytes().all(|d| d.is_ascii_hexdigit()))?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
            }
            b'+' => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
}

fn parse(name: &str, fields: Map<String, Value>) -> Result<RestCall, Refusal> {
    match name {
        "/call/find_all" => Ok(RestCall::FindAllCalls),
        "/connection/find_all" => Ok(RestCall::FindAllConnections),
        "/call/terminate" => match fields.get("callId") {
            Some(Value::String(id)) if !id.is_empty() => Ok(RestCall::TerminateCall { call_id: id.clone() }),
            Some(Value::String(_)) => Err(Refusal::bad("field callId: must not be empty")),
            Some(_) => Err(Refusal::bad("field callId: must be text")),
            None => Err(Refusal::bad("field callId: is needed")),
        },
        _ => find(fields),
    }
}

fn find(fields: Map<String, Value>) -> Result<RestCall, Refusal> {
    let known = ["callId", "callee", "status"];
    if !fields.keys().any(|field| known.contains(&field.as_str()) || field == "rtmpUrl") {
        return Err(Refusal::bad("one of the fields callId, callee, status is needed"));
    }
    if fields.contains_key("rtmpUrl") {
        // No call here has an RTMP side, so nothing can match.
        return Err(Refusal { status: 404, message: "field rtmpUrl: no call has one".to_owned() });
    }
    for field in known {
        let Some(value) = fields.get(field) else { continue };
        let alone = Value::Object(Map::from_iter([(field.to_owned(), value.clone())]));
        serde_json::from_value::<CallFilter>(alone).map_err(|error| Refusal::bad(format!("field {field}: {error}")))?;
    }
    let filter = serde_json::from_value(Value::Object(fields));
    filter.map(RestCall::FindCalls).map_err(|error| Refusal::bad(error.to_string()))
}

fn answer(reply: RestReply) -> Response {
    match reply {
        RestReply::Calls(calls) if calls.is_empty() => error(404, "no such call"),
        RestReply::Calls(calls) => warp::reply::json(&calls).into_response(),
        RestReply::Connections(connections) if connections.is_empty() => error(404, "no connection"),
        RestReply::Connections(connections) => warp::reply::json(&connections).into_response(),
        RestReply::Done => StatusCode::OK.into_response(),
        RestReply::NotFound { message } => error(404, &message),
    }
}

/// An error body as third-party clients read it: `message`, `status`, and the status in words.
pub(super) fn error(status: u16, message: &str) -> Response {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = json!({"message": message, "status": status, "error": code.canonical_reason().unwrap_or_default()});
    let mut response = warp::reply::with_status(warp::reply::json(&body), code).into_response();
    if status == 503 {
        response.headers_mut().insert(http::header::RETRY_AFTER, http::HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::messages::CallStatus;

    fn parse_text(name: &str, body: &str) -> Result<RestCall, String> {
        fields("", body.as_bytes())
            .and_then(|fields| parse(name, fields))
            .map_err(|refusal| format!("{} {}", refusal.status, refusal.message))
    }

    #[test]
    fn fields_come_from_body_or_query() {
        let by_body = parse_text("/call/terminate", r#"{"callId":"a b"}"#);
        assert_eq!(by_body, Ok(RestCall::TerminateCall { call_id: "a b".to_owned() }));
        let by_query = query_fields("callId=a%20b").and_then(|fields| parse("/call/terminate", fields)).unwrap();
        assert_eq!(by_query, RestCall::TerminateCall { call_id: "a b".to_owned() });
        assert!(query_fields("callId=%zz").is_err());
        assert_eq!(percent_decoded("%+1"), None);
    }

    #[test]
    fn booleans_may_be_text_and_unknown_fields_are_passed_over() {
        let call = parse_text("/call/find", r#"{"status":"ESTABLISHED","hasAudio":"true","hasVideo":false}"#);
        let filter = CallFilter { status: Some(CallStatus::Established), ..CallFilter::default() };
        assert_eq!(call, Ok(RestCall::FindCalls(filter)));
    }

    #[test]
    fn a_bad_request_is_told_by_field() {
        assert_eq!(parse_text("/call/terminate", "{}"), Err("400 field callId: is needed".to_owned()));
        assert_eq!(parse_text("/call/terminate", r#"{"callId":7}"#), Err("400 field callId: must be text".to_owned()));
        assert_eq!(parse_text("/call/terminate", "[]"), Err("400 the body must be a JSON object".to_owned()));
        assert!(parse_text("/call/terminate", "{").unwrap_err().starts_with("400 the body is not JSON: "));
        assert!(parse_text("/call/find", r#"{"status":"GREEN"}"#).unwrap_err().starts_with("400 field status: "));
        assert!(parse_text("/call/find", "{}").unwrap_err().starts_with("400 one of the fields"));
    }
}
