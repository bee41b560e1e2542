//! The wall, seen from control: one connection to the dataplane, kept up.
//!
//! Owns the unix socket, the greeting with its epoch, request ids and who waits for which reply. What relays there should be is the
//! core's business: it puts its programs again after every `RelayUp`.

mod connection;

use std::{path::PathBuf, sync::Arc, time::Duration};

use gangway_shared::{
    ids::{EventSeq, Generation, RelayId},
    rcp::{ErrorCode, Hello, NodeStats, RelayError, RelayProgram, Reply, Request},
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    config::Config,
    gateway::effects::{Answer, AskId, Input, RelayRequestId},
    hub::HubHandle,
    journal::Journal,
    metrics::Metrics,
    supervisor::Supervisor,
};
use connection::Link;

/// Who waits for a reply.
#[derive(Debug)]
pub enum ReplyTo {
    /// The core, by its own number.
    Core(RelayRequestId),
    /// An ask of the core.
    Ask(AskId),
    /// A task of an adapter.
    Caller(oneshot::Sender<Result<Reply, RelayError>>),
}

/// One request on its way to the connection.
#[derive(Debug)]
struct Command {
    request: Request,
    reply_to: ReplyTo,
}

/// What is known of the dataplane while the wall is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataplane {
    /// Its greeting.
    pub hello: Hello,
    /// Control's epoch.
    pub epoch: u32,
}

/// Sends requests. Never waits, except where a reply is asked for.
#[derive(Clone, Debug)]
pub struct RelayHandle {
    queue: mpsc::Sender<Command>,
    state: watch::Receiver<Option<Dataplane>>,
    timeout: Duration,
}

/// Requests on their way. A call needs about five, all answered within milliseconds.
const QUEUE_MAX: usize = 8192;

impl RelayHandle {
    /// Sends a request for `reply_to`.
    ///
    /// # Errors
    /// A retryable error when too many requests wait.
    pub fn request(&self, request: Request, reply_to: ReplyTo) -> Result<(), RelayError> {
        let refused = |_| RelayError::new(ErrorCode::Full, "", "too many requests wait for the dataplane");
        self.queue.try_send(Command { request, reply_to }).map_err(refused)
    }

    /// Puts the first generation of a relay, for an ask of the core.
    ///
    /// # Errors
    /// As [`RelayHandle::request`]; also while the wall is down.
    pub fn allocate(&self, relay: RelayId, program: RelayProgram, ask: AskId) -> Result<(), RelayError> {
        if self.state.borrow().is_none() {
            return Err(down());
        }
        self.request(Request::Put { relay, generation: Generation(1), program }, ReplyTo::Ask(ask))
    }

    /// The dataplane's counters; `None` while the wall is down.
    pub async fn node_stats(&self) -> Option<NodeStats> {
        let mut node = self.node_page(0).await?;
        while node.more_workers {
            let next = node.workers.last()?.worker.checked_add(1)?;
            let page = self.node_page(next).await?;
            // A page without workers would be asked for again for ever.
            node.more_workers = page.more_workers && !page.workers.is_empty();
            node.workers.extend(page.workers);
        }
        Some(node)
    }

    async fn node_page(&self, from_worker: u16) -> Option<NodeStats> {
        let (sender, answer) = oneshot::channel();
        self.request(Request::Query { relay: None, from_worker }, ReplyTo::Caller(sender)).ok()?;
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(Ok(Reply::QueryNode(stats)))) => Some(stats),
            _ => None,
        }
    }

    /// Waits until the wall is up, at most `patience`.
    pub async fn wait_up(&self, patience: Duration) -> Option<Dataplane> {
        let mut state = self.state.clone();
        let up = tokio::time::timeout(patience, state.wait_for(Option::is_some)).await;
        up.ok()?.ok()?.clone()
    }
}

fn down() -> RelayError {
    RelayError::new(ErrorCode::Internal, "", "the dataplane is not connected")
}

/// Settings of the client.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The dataplane's socket.
    pub socket: PathBuf,
    /// An unanswered request ends the connection after this; so does a greeting that does not come.
    pub timeout: Duration,
    /// Names this run of control.
    pub instance: String,
    /// Highest epoch that the journal knows.
    pub journal_epoch: u32,
    /// The last event that the journal knows, of which run of the dataplane.
    pub journal_seen: Option<(String, EventSeq)>,
}

impl ClientConfig {
    /// As the settings say. `instance` is random.
    #[must_use]
    pub fn new(
        config: &Config,
        instance: String,
        journal_epoch: u32,
        journal_seen: Option<(String, EventSeq)>,
    ) -> Self {
        ClientConfig {
            socket: config.dataplane_socket(),
            timeout: config.millis("rcp_timeout_ms"),
            instance,
            journal_epoch,
            journal_seen,
        }
    }
}

/// The task that keeps the wall up.
#[derive(Debug)]
pub struct RelayClient {
    config: ClientConfig,
    supervisor: Supervisor,
    hub: HubHandle,
    journal: Journal,
    metrics: Arc<Metrics>,
    commands: mpsc::Receiver<Command>,
    state: watch::Sender<Option<Dataplane>>,
    epoch: u32,
    /// The last event seen, of which run of the dataplane.
    seen: Option<(String, EventSeq)>,
}

/// Time between attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);

impl RelayClient {
    /// A client that has not connected yet, and its handle.
    #[must_use]
    pub fn new(
        config: ClientConfig,
        supervisor: Supervisor,
        hub: HubHandle,
        journal: Journal,
        metrics: Arc<Metrics>,
    ) -> (Self, RelayHandle) {
        let (queue, commands) = mpsc::channel(QUEUE_MAX);
        let (state, watched) = watch::channel(None);
        let handle = RelayHandle { queue, state: watched, timeout: config.timeout };
        let (epoch, seen) = (config.journal_epoch, config.journal_seen.clone());
        let client = RelayClient { config, supervisor, hub, journal, metrics, commands, state, epoch, seen };
        (client, handle)
    }

    /// Connects, serves, connects again; ends when every handle is gone. `stop` ends the dataplane process that was started here.
    pub async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                ended = self.serve_once() => if ended { return },
                _ = &mut stop => {
                    self.supervisor.stop();
                    return;
                }
            }
        }
    }

    /// One connection from its making to its end; true when no handle is left.
    async fn serve_once(&mut self) -> bool {
        let Some(mut link) = self.connect().await else { return self.commands.is_closed() && self.commands.is_empty() };
        let greeting = link.greet(&self.config, self.epoch, self.metrics.relay_connects.value() > 0, self.seen.clone());
        let dataplane = match greeting.await {
            Ok(dataplane) => dataplane,
            Err(error) => {
                tracing::warn!(%error, "the dataplane's greeting failed");
                tokio::time::sleep(CONNECT_PAUSE).await;
                return false;
            }
        };
        if self.seen.as_ref().is_some_and(|(instance, _)| *instance != dataplane.hello.instance) {
            self.seen = None;
        }
        if dataplane.epoch != self.epoch || self.metrics.relay_connects.value() == 0 {
            self.epoch = dataplane.epoch;
            self.journal.append_epoch(self.epoch);
        }
        self.metrics.relay_connects.add(1);
        tracing::info!(epoch = self.epoch, engine = dataplane.hello.engine, "the dataplane is connected");
        let instance = dataplane.hello.instance.clone();
        let capabilities = dataplane.hello.capabilities.clone();
        self.state.send_replace(Some(dataplane));
        self.hub.deliver(Input::RelayUp { epoch: self.epoch, capabilities }).await;
        let end = link.serve(&mut self.commands, &self.hub, &instance, &mut self.seen).await;
        self.state.send_replace(None);
        for waiting in link.into_waiting() {
            fail(&self.hub, waiting).await;
        }
        match end {
            Ok(()) => return true,
            Err(error) => tracing::warn!(%error, "the dataplane is gone"),
        }
        self.hub.deliver(Input::RelayDown).await;
        false
    }

    /// One attempt to connect; sees to it that a dataplane runs, and fails the requests that come meanwhile.
    async fn connect(&mut self) -> Option<Link> {
        match Link::connect(&self.config.socket).await {
            Ok(link) => return Some(link),
            Err(error) => {
                tracing::trace!(%error, "the dataplane does not listen");
                if self.supervisor.ensure() {
                    self.metrics.dataplane_starts.add(1);
                }
            }
        }
        let pause = tokio::time::sleep(CONNECT_PAUSE);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return None,
                command = self.commands.recv() => match command {
                    Some(command) => fail(&self.hub, command.reply_to).await,
                    None => return None,
                },
            }
        }
    }
}

/// Tells who waits that no reply will come. The core counts its own requests as lost when it hears `RelayDown`.
async fn fail(hub: &HubHandle, waiting: ReplyTo) {
    match waiting {
        ReplyTo::Core(_) => {}
        ReplyTo::Ask(ask) => hub.deliver(Input::Answer { ask, answer: Answer::NotAllocated(down()) }).await,
        ReplyTo::Caller(sender) => {
            let _ = sender.send(Err(down()));
        }
    }
}

#[cfg(test)]
mod tests;
