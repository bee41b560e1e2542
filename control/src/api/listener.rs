//! TCP listeners, TLS and HTTP, down to one request with facts about its connection.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::Either;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use warp::{Filter, Reply};

use super::{
    Admission,
    admission::Admitted,
    guard::Guard,
    pages::{PageFacts, Pages},
    rest::{MetricSources, Rest},
    socket::SocketContext,
};
use crate::{config::Config, hub::HubHandle, metrics::Metrics, transport::listen};
use gangway_shared::settings::Port;

/// What a port serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// Websocket signalling (`ws.port`, `wss.port`).
    Signalling,
    /// REST, pages, metrics (`http.port`, `https.port`).
    Web,
}

/// Facts about the connection of a request.
#[derive(Clone, Debug)]
pub(crate) struct ConnInfo {
    pub remote: SocketAddr,
    pub local: SocketAddr,
    pub secure: bool,
    pub surface: Surface,
    /// Kept by whoever outlives the HTTP connection, so that a websocket still counts.
    pub admitted: Arc<Admitted>,
}

/// Why the listeners cannot start.
#[derive(Debug, Error)]
pub enum ApiError {
    /// A port cannot be bound.
    #[error("{key}: {address} cannot be bound: {source}")]
    Bind {
        /// The setting.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] super::tls::TlsError),
}

/// Ports that were bound; `None` where one is turned off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BoundApi {
    /// `ws.port`
    pub ws: Option<u16>,
    /// `wss.port`
    pub wss: Option<u16>,
    /// `http.port`
    pub http: Option<u16>,
    /// `https.port`
    pub https: Option<u16>,
}

/// The listeners, bound and not yet serving: connections made meanwhile wait in the kernel.
pub struct Api {
    listeners: Vec<(TcpListener, Surface, bool)>,
    bound: BoundApi,
    acceptor: Option<TlsAcceptor>,
    admission: Admission,
}

impl Api {
    /// Binds every port that is on.
    ///
    /// # Errors
    /// [`ApiError`]
    pub fn bind(config: &Config) -> Result<Self, ApiError> {
        let mut listeners = Vec::new();
        let mut bound = BoundApi::default();
        let everywhere = config.ip_local();
        let web = [config.rest_bind()];
        for (key, surface, secure, addresses, slot) in [
            ("ws.port", Surface::Signalling, false, &everywhere[..], &mut bound.ws),
            ("wss.port", Surface::Signalling, true, &everywhere[..], &mut bound.wss),
            ("http.port", Surface::Web, false, &web[..], &mut bound.http),
            ("https.port", Surface::Web, true, &web[..], &mut bound.https),
        ] {
            let Some(port) = config.port_unless_off(key) else { continue };
            let (sockets, number) = bind_all(key, addresses, port)?;
            listeners.extend(sockets.into_iter().map(|socket| (socket, surface, secure)));
            *slot = Some(number);
        }
        let secure = bound.wss.is_some() || bound.https.is_some();
        let acceptor = if secure { Some(TlsAcceptor::from(super::tls::server_config(config)?)) } else { None };
        let admission = Admission::new(config.count("ws_connections_max"), config.count("ws_connections_per_ip_max"));
        Ok(Api { listeners, bound, acceptor, admission })
    }

    /// The ports.
    #[must_use]
    pub const fn bound(&self) -> BoundApi {
        self.bound
    }

    /// The counter of connections, for metrics.
    #[must_use]
    pub fn admission(&self) -> Admission {
        self.admission.clone()
    }

    /// Serves until the runtime ends.
    pub fn serve(
        self,
        config: &Config,
        hub: &HubHandle,
        metrics: Arc<Metrics>,
        facts: PageFacts,
        sources: MetricSources,
    ) {
        let context = Arc::new(Context {
            sockets: Arc::new(SocketContext::new(config, hub.clone(), Arc::clone(&metrics))),
            rest: Rest::new(config, hub.clone(), Arc::clone(&metrics), sources),
            guard: Guard::new(config),
            pages: Pages::new(config, facts),
            header_timeout: config.millis("http_header_timeout_ms"),
            request_timeout: config.millis("http_body_timeout_ms") + config.millis("rest_timeout_ms"),
            handshake_timeout: config.millis("tls_handshake_timeout_ms"),
            user_timeout: config.millis("tcp_user_timeout_ms"),
            message_max_bytes: config.count("ws_message_max_bytes"),
            metrics,
        });
        for (listener, surface, secure) in self.listeners {
            let acceptor = self.acceptor.clone().filter(|_| secure);
            tokio::spawn(accept(listener, surface, acceptor, self.admission.clone(), Arc::clone(&context)));
        }
    }
}

struct Context {
    sockets: Arc<SocketContext>,
    rest: Rest,
    guard: Guard,
    pages: Pages,
    header_timeout: Duration,
    request_timeout: Duration,
    handshake_timeout: Duration,
    user_timeout: Duration,
    message_max_bytes: usize,
    metrics: Arc<Metrics>,
}

/// How often an `auto` port is chosen anew because another address has it taken.
const AUTO_ATTEMPTS: usize = 20;

fn bind_all(key: &'static str, addresses: &[IpAddr], port: Port) -> Result<(Vec<TcpListener>, u16), ApiError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match listen::same_port(addresses, port.to_bind(), listen::tcp) {
            Ok(bound) => return Ok(bound),
            Err((_, _)) if port == Port::Auto && attempt < AUTO_ATTEMPTS => {}
            Err((address, source)) => return Err(ApiError::Bind { key, address, source }),
        }
    }
}

/// After a failed accept (out of descriptors): time for connections to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

async fn accept(
    listener: TcpListener,
    surface: Surface,
    acceptor: Option<TlsAcceptor>,
    admission: Admission,
    context: Arc<Context>,
) {
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        // Refused connections are closed at once: an answer would cost what the limit protects.
        let Some(admitted) = admission.admit(remote.ip()) else { continue };
        let Ok(local) = stream.local_addr() else { continue };
        let info = ConnInfo { remote, local, secure: acceptor.is_some(), surface, admitted: Arc::new(admitted) };
        tokio::spawn(connection(stream, info, acceptor.clone(), Arc::clone(&context)));
    }
}

async fn connection(stream: TcpStream, info: ConnInfo, acceptor: Option<TlsAcceptor>, context: Arc<Context>) {
    // Signalling is small messages that wait for nobody.
    let _ = stream.set_nodelay(true);
    // A peer that neither reads nor acknowledges must not hold its place for ever.
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(context.user_timeout));
    let Some(acceptor) = acceptor else {
        serve_http(stream, info, context).await;
        return;
    };
    match tokio::time::timeout(context.handshake_timeout, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => serve_http(stream, info, context).await,
        Ok(Err(error)) => {
            context.metrics.tls_handshakes_failed.add(1);
            tracing::debug!(remote = %info.remote, %error, "TLS handshake failed");
        }
        Err(_) => context.metrics.tls_handshakes_failed.add(1),
    }
}

/// Bytes of a request's header; the longest path and a few cookies.
const HEADER_MAX_BYTES: usize = 64 * 1024;

async fn serve_http<S>(stream: S, info: ConnInfo, context: Arc<Context>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let header_timeout = context.header_timeout;
    let request_timeout = context.request_timeout;
    let routes = TowerToHyperService::new(warp::service(routes(Arc::clone(&context))));
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(info.clone());
        let answer = hyper::service::Service::call(&routes, request);
        async move {
            match futures_util::future::select(Box::pin(answer), Box::pin(tokio::time::sleep(request_timeout))).await {
                Either::Left((answer, _)) => answer,
                Either::Right(_) => Ok(super::rest::error(408, "the request took too long").into_response()),
            }
        }
    });
    let result = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEADER_MAX_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = result {
        context.metrics.http_connections_failed.add(1);
        tracing::debug!(%error, "HTTP connection ended");
    }
}

/// The whole tree of routes: a websocket on any path, everything else by path in [`Rest`] and [`Pages`].
fn routes(
    context: Arc<Context>,
) -> impl Filter<Extract = (impl Reply,), Error = warp::Rejection> + Clone + Send + Sync + 'static {
    let upgrade = {
        let context = Arc::clone(&context);
        warp::ws().and(warp::ext::get::<ConnInfo>()).and(warp::header::headers_cloned()).map(
            move |ws: warp::ws::Ws, info: ConnInfo, headers: http::HeaderMap| {
                let sockets = Arc::clone(&context.sockets);
                let origin =
                    headers.get(http::header::ORIGIN).and_then(|origin| origin.to_str().ok()).map(str::to_owned);
                let hard_max = super::socket::hard_message_max_bytes(context.message_max_bytes);
                ws.max_message_size(hard_max)
                    .max_frame_size(hard_max)
                    .on_upgrade(move |ws| super::socket::run(ws, info, origin, sockets))
                    .into_response()
            },
        )
    };
    let request = warp::method()
        .and(warp::path::full())
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .and(warp::ext::get::<ConnInfo>())
        .then(move |method: http::Method, path: warp::path::FullPath, query: String, headers, body, info: ConnInfo| {
            let context = Arc::clone(&context);
            async move { respond(&context, method, path.as_str(), &query, &headers, body, &info).await }
        });
    upgrade.or(request).unify()
}

async fn respond<B, D, E>(
    context: &Context,
    method: http::Method,
    path: &str,
    query: &str,
    headers: &http::HeaderMap,
    body: B,
    info: &ConnInfo,
) -> warp::reply::Response
where
    B: futures_util::Stream<Item = Result<D, E>> + Send,
    D: bytes::Buf,
    E: std::fmt::Display,
{
    match info.surface {
        Surface::Signalling => context.pages.signalling(info, headers),
        Surface::Web if path == "/metrics" => match context.guard.check(headers) {
            Ok(cors) => cors.onto(context.rest.metrics().await),
            Err(refused) => refused.answer(&context.metrics),
        },
        Surface::Web if path.starts_with("/rest-api") => match context.guard.check_rest(headers) {
            Ok(cors) => cors.onto(context.rest.respond(method, path, query, body).await),
            Err(refused) => refused.answer(&context.metrics),
        },
        Surface::Web => context.pages.respond(&method, path, headers).await,
    }
}
