//! Events about objects: posted one after the other, bounded, and dropped rather than kept back when there are more than
//! an API server should be bothered with.

use std::sync::Arc;
use std::time::Duration;

use evenkeel_plan::world::ObjectName;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::core::params::PostParams;
use kube::core::request::Request;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// How many events may wait.
const QUEUE: usize = 1000;
/// How many are posted in a second, in the long run.
const RATE: u32 = 50;
/// How many may be posted at once after a quiet time.
const BURST: u32 = 500;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an event is about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// `apiVersion`.
    pub version: &'static str,
    /// `kind`.
    pub kind: &'static str,
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.uid`, by which `kubectl describe` finds an object's events.
    pub uid: String,
}

impl Subject {
    /// A Service.
    #[must_use]
    pub fn service(name: ObjectName, uid: String) -> Self {
        Self { version: "v1", kind: "Service", name, uid }
    }
}

/// An event, under the reasons MetalLB's users know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Something is wrong, as opposed to something that merely happened.
    pub warning: bool,
    /// `IPAllocated` and the like.
    pub reason: &'static str,
    /// In words.
    pub message: String,
}

/// Hears what becomes of events: `posted`, `failed` or `dropped`.
type Told = Arc<dyn Fn(&'static str) + Send + Sync>;

/// Where events are handed in.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<(Subject, Note)>,
    told: Told,
}

impl Events {
    /// Events by `component`; `told` hears what becomes of each: `posted`, `failed` or `dropped`. Ends when the last copy is
    /// dropped and everything is posted. Within a Tokio runtime.
    pub fn new(client: Client, component: &'static str, told: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let told: Told = Arc::new(told);
        tokio::spawn(post_all(client, component, waiting, Arc::clone(&told)));
        Self { queue, told }
    }

    /// Whether another one would be taken now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.queue.capacity() > 0
    }

    /// Hands an event in.
    pub fn tell(&self, subject: Subject, note: Note) {
        let Note { warning, reason, message } = &note;
        tracing::info!(kind = subject.kind, name = %subject.name, reason, warning, message, "event");
        if self.queue.try_send((subject, note)).is_err() {
            (self.told)("dropped");
        }
    }
}

async fn post_all(client: Client, component: &'static str, mut waiting: mpsc::Receiver<(Subject, Note)>, told: Told) {
    let step = Duration::from_secs(1) / RATE;
    // When the bucket would be empty: it holds as many as lie between that and now.
    let mut empty = Instant::now();
    while let Some((subject, note)) = waiting.recv().await {
        empty = empty.max(Instant::now()) + step;
        tokio::time::sleep_until(empty.checked_sub(step * BURST).unwrap_or(empty)).await;
        let request = post(component, &subject, &note);
        let posted = timeout(PATIENCE, async { client.request::<Value>(request?).await }).await;
        match posted {
            Ok(Ok(_)) => told("posted"),
            Ok(Err(error)) => {
                told("failed");
                tracing::debug!(%error, name = %subject.name, "cannot post an event");
            }
            Err(_) => told("failed"),
        }
    }
}

fn post(component: &str, subject: &Subject, note: &Note) -> Result<http::Request<Vec<u8>>, kube::Error> {
    let ObjectName { namespace, name } = &subject.name;
    let now = Timestamp::now();
    let seconds = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{name}.{:x}", now.as_nanosecond()), "namespace": namespace},
        "involvedObject": {
            "apiVersion": subject.version, "kind": subject.kind, "namespace": namespace, "name": name, "uid": subject.uid,
        },
        "type": if note.warning { "Warning" } else { "Normal" },
        "reason": note.reason,
        "message": note.message,
        "count": 1,
        "firstTimestamp": seconds,
        "lastTimestamp": seconds,
        "source": {"component": component},
        "reportingComponent": component,
    });
    let body = serde_json::to_vec(&event).map_err(kube::Error::SerdeError)?;
    Request::new(format!("/api/v1/namespaces/{namespace}/events"))
        .create(&PostParams::default(), body)
        .map_err(kube::Error::BuildRequest)
}
